//! What a checkpoint, a weights file or a model is, told from headers and samples alone
//! unless a scan is asked for.

mod checkpoint;
mod model;
mod report;
mod scan;
mod tensors;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use crate::onnx::Interface;
pub use crate::weights::Provenance;
pub use checkpoint::{CheckpointInspection, Fit, SourceFile};
pub use model::{DataFile, ModelInspection};
pub use scan::{Damaged, Scan};
pub use tensors::{Filter, Place, Tensor, Total};

use crate::checkpoint::{self as source, Leniency};
use crate::container::Header;
use crate::error::{Error, bail, err};
use crate::progress::Progress;

/// What there is at a path.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inspection {
    /// A checkpoint's folder.
    Checkpoint(CheckpointInspection),
    /// A file that `--save-weights` has written.
    Weights(CheckpointInspection),
    /// Another SafeTensors file, such as one of a checkpoint's.
    Tensors(FileInspection),
    /// An ONNX model.
    Model(ModelInspection),
}

/// A SafeTensors file by itself.
#[derive(Clone, Debug, Serialize)]
pub struct FileInspection {
    /// Where it is.
    pub path: PathBuf,
    /// Its tensors' bytes.
    pub bytes: u64,
    /// How many there are.
    pub count: usize,
    /// Those that were asked for.
    pub tensors: Vec<Tensor>,
}

impl Inspection {
    /// Whether all is there that a model reads; of anything else nobody knows.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Model(it) => it.whole,
            Self::Checkpoint(_) | Self::Weights(_) | Self::Tensors(_) => true,
        }
    }

    /// What a scan has found, where there was one.
    pub fn scan(&self) -> Option<&Scan> {
        match self {
            Self::Checkpoint(it) | Self::Weights(it) => it.scan.as_ref(),
            Self::Tensors(_) | Self::Model(_) => None,
        }
    }
}

/// Looks at a path, of a checkpoint's folder as if those names were not there, and reads all of its weights too where a scan is asked for.
pub fn inspect(
    path: &Path,
    filter: &Filter,
    leniency: &Leniency,
    scan: Option<&dyn Progress>,
) -> Result<Inspection, Error> {
    let inspection = look(path, filter, leniency)?;
    let Some(progress) = scan else { return Ok(inspection) };
    match inspection {
        Inspection::Checkpoint(mut it) => {
            it.scan = Some(scan::checkpoint(&it.path, leniency, progress)?);
            Ok(Inspection::Checkpoint(it))
        }
        Inspection::Weights(mut it) => {
            it.scan = Some(scan::staged(&it.path, progress)?);
            Ok(Inspection::Weights(it))
        }
        Inspection::Tensors(_) | Inspection::Model(_) => Err(err!(
            "`{}` is neither a checkpoint nor a staged weights file, and only those are scanned; `verify` compares the weights of a model",
            path.display()
        )),
    }
}

/// Tells what headers say; of the tensors it lists those that the filter lets through.
fn look(path: &Path, filter: &Filter, leniency: &Leniency) -> Result<Inspection, Error> {
    if path.is_dir() {
        return Ok(Inspection::Checkpoint(checkpoint::folder(path, filter, leniency)?));
    }
    if !path.exists() {
        bail!("there is nothing at `{}`", path.display());
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("onnx") => Ok(Inspection::Model(model::inspect(path, filter)?)),
        Some("safetensors") => {
            let header = Header::read(path)?;
            match header.metadata {
                Some(_) => Ok(Inspection::Weights(checkpoint::staged(path, filter)?)),
                None => Ok(Inspection::Tensors(file(path, &header, filter))),
            }
        }
        _ => Err(source::foreign_file(path).map_or_else(
            || {
                err!(
                    "`{}` is not a checkpoint folder, a .safetensors or an .onnx file",
                    path.display()
                )
            },
            Error::from,
        )),
    }
}

fn file(path: &Path, header: &Header, filter: &Filter) -> FileInspection {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tensors = header.tensors.iter().map(|entry| Tensor::stored(entry, &name));
    FileInspection {
        path: path.to_owned(),
        bytes: header.tensors.iter().map(|entry| entry.range.end - entry.range.start).sum(),
        count: header.tensors.len(),
        tensors: filter.apply(tensors),
    }
}

//! What a checkpoint, a weights file or a model is, from headers and samples alone unless
//! a scan is asked for.

mod checkpoint;
mod model;
mod tensors;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use crate::checkpoint::{Config, Rope};
pub use crate::onnx::{OnnxFile, ValueInfo};
pub use crate::weights::{Fingerprint, PerRole, Provenance};
pub use checkpoint::{CheckpointInspection, DamagedTensor, Scan, TargetSupport};
pub use model::{DataFile, ModelInspection};
pub use tensors::{Filter, ListedFile, ListedTensor, Total};

use crate::checkpoint::{self as source, IgnoredNames};
use crate::container::Header;
use crate::error::{Result, ensure, err};
use crate::files::{FileRange, lossy_path};
use crate::progress::Progress;

/// What there is at a path.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inspection {
    /// A checkpoint's folder.
    Checkpoint(CheckpointInspection),
    /// A staged weights file.
    Weights(CheckpointInspection),
    /// Another SafeTensors file, such as a shard.
    Tensors(FileInspection),
    /// An ONNX model.
    Model(ModelInspection),
}

/// A SafeTensors file by itself.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct FileInspection {
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    pub bytes: u64,
    pub count: usize,
    pub tensors: Vec<ListedTensor>,
}

impl Inspection {
    /// Whether a model's data is complete; `true` for anything else.
    pub fn is_whole(&self) -> bool {
        if let Self::Model(model) = self { model.whole } else { true }
    }

    /// The result of a scan, if there was one.
    pub fn scan(&self) -> Option<&Scan> {
        match self {
            Self::Checkpoint(it) | Self::Weights(it) => it.scan.as_ref(),
            Self::Tensors(_) | Self::Model(_) => None,
        }
    }
}

/// Describes what is at a path, and lists the tensors that the filter selects. In a
/// checkpoint the `ignored` names count as absent. With `scan` all weights are read, in
/// search of infinite and NaN values.
pub fn inspect(
    path: &Path,
    filter: &Filter,
    ignored: &IgnoredNames,
    scan: Option<&dyn Progress>,
) -> Result<Inspection> {
    ensure!(path.exists(), "there is nothing at `{}`", path.display());
    if path.is_dir() {
        return Ok(Inspection::Checkpoint(checkpoint::inspect(path, filter, ignored, scan)?));
    }
    let has_extension = |extension| path.extension().is_some_and(|found| found == extension);
    let header = has_extension("safetensors").then(|| Header::read(path)).transpose()?;
    if header.as_ref().is_some_and(|header| header.metadata.is_some()) {
        return Ok(Inspection::Weights(checkpoint::inspect(path, filter, ignored, scan)?));
    }
    ensure!(
        scan.is_none(),
        "`{}` is neither a checkpoint nor a staged weights file, and only those are scanned; `verify` compares the weights of a model",
        path.display()
    );
    match header {
        Some(header) => Ok(Inspection::Tensors(file(path, header, filter))),
        None if has_extension("onnx") => Ok(Inspection::Model(model::inspect(path, filter)?)),
        None => Err(source::refuse_unsupported(path).unwrap_or_else(|| {
            err!("`{}` is not a checkpoint folder, a .safetensors or an .onnx file", path.display())
        })),
    }
}

fn file(path: &Path, Header { tensors, .. }: Header, filter: &Filter) -> FileInspection {
    let name = Path::new(path.file_name().unwrap_or_default());
    let (path, count) = (path.to_owned(), tensors.len());
    let bytes = tensors.iter().map(|tensor| tensor.data.len()).sum();
    let listed = tensors.into_iter().map(|tensor| ListedTensor {
        name: tensor.name,
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape,
        places: vec![FileRange { file: name.into(), range: tensor.data.range }],
        ..ListedTensor::default()
    });
    FileInspection { bytes, count, tensors: filter.apply(listed.collect()), path }
}

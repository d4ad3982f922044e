//! What a checkpoint, a weights file, an adapter or a model is, from headers and samples alone
//! unless a scan is asked for.

mod adapter;
mod checkpoint;
mod folder;
mod model;
mod onnx_adapter;
mod scan;
mod tensors;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::adapter::AdapterInspection;
pub use crate::adapter::AdaptedModules;
pub use crate::checkpoint::{Config, Rope};
pub use crate::model::ModelPart;
pub use crate::onnx::{OnnxFile, ValueInfo};
pub use crate::weights::{Fingerprint, PerRole, Provenance};
pub use checkpoint::{CheckpointInspection, TargetSupport};
pub use folder::{DTypeTotal, FolderFile, FolderInspection, OtherFiles};
pub use model::{DataFile, ModelInspection};
pub use onnx_adapter::OnnxAdapterInspection;
pub use scan::{DamagedTensor, Scan, TensorName, ZeroTensor};
pub use tensors::{Filter, ListedFile, ListedTensor, Selection, Total};

use crate::checkpoint::{self as source, CONFIG, Checkpoint, IgnoredNames};
use crate::container::Header;
use crate::error::{Error, Result, ensure, err};
use crate::exported::in_folder;
use crate::files::lossy_path;
use crate::hub;
use crate::onnx;
use crate::package::transformers_js::MODEL_DIR;
use crate::progress::Progress;

/// What there is at a path.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inspection {
    /// A checkpoint's folder.
    Checkpoint(CheckpointInspection),
    /// A folder that cannot be exported.
    Folder(FolderInspection),
    /// A staged weights file.
    Weights(CheckpointInspection),
    /// Another SafeTensors file, such as a shard.
    Tensors(FileInspection),
    /// A LoRA adapter's folder.
    Adapter(AdapterInspection),
    /// An ONNX model.
    Model(ModelInspection),
    /// An adapter's file for ONNX Runtime.
    OnnxAdapter(OnnxAdapterInspection),
}

/// A SafeTensors file by itself.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct FileInspection {
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    pub bytes: u64,
    pub count: usize,
    pub tensors: Selection,
    /// Result of the scan, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
}

impl Inspection {
    /// Everything that is wrong with a model's external data; nothing for anything else.
    pub fn faults(&self) -> Vec<String> {
        if let Self::Model(model) = self { model.faults() } else { Vec::new() }
    }

    /// Everything that keeps a folder, a weights file, or an adapter with any base from being
    /// exported.
    pub fn refusal(&self) -> Option<&Error> {
        match self {
            Self::Folder(folder) => Some(&folder.refusal),
            Self::Checkpoint(it) | Self::Weights(it) => it.refusal.as_ref(),
            Self::Adapter(adapter) => adapter.refusal.as_ref(),
            _ => None,
        }
    }

    /// What an export would warn of.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            // A scan lists what is zeros for certain.
            Self::Checkpoint(it) | Self::Weights(it)
                if it.scan.is_none() && it.refusal.is_none() =>
            {
                it.zeros.warnings()
            }
            Self::Adapter(it) => it.warning.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// The same as an error.
    pub fn require_exportable(self) -> Result<()> {
        let refusal = match self {
            Self::Folder(folder) => Some(folder.refusal),
            Self::Checkpoint(it) | Self::Weights(it) => it.refusal,
            Self::Adapter(adapter) => adapter.refusal,
            _ => None,
        };
        refusal.map_or(Ok(()), Err)
    }

    /// Whether there is a checkpoint, a staged weights file or an adapter that can be exported;
    /// `None` for other files.
    pub fn is_exportable(&self) -> Option<bool> {
        let is_other = matches!(self, Self::Tensors(_) | Self::Model(_) | Self::OnnxAdapter(_));
        (!is_other).then(|| self.refusal().is_none())
    }

    /// The result of a scan, if there was one.
    pub fn scan(&self) -> Option<&Scan> {
        match self {
            Self::Checkpoint(it) | Self::Weights(it) => it.scan.as_ref(),
            Self::Adapter(it) => it.scan.as_ref(),
            Self::Tensors(it) => it.scan.as_ref(),
            _ => None,
        }
    }

    /// Whether a scan would tell more.
    pub fn can_be_scanned(&self) -> bool {
        let has_values = matches!(
            self,
            Self::Checkpoint(_) | Self::Weights(_) | Self::Adapter(_) | Self::Tensors(_)
        );
        has_values && self.scan().is_none() && self.refusal().is_none()
    }
}

/// The model in a folder that an export has filled.
fn only_model(folder: &Path) -> Option<PathBuf> {
    let is_of_checkpoint = |it: &Path| source::is_safetensors(it) && !Header::is_own(it);
    let mut entries = folder.read_dir().ok()?.flatten();
    if entries.any(|it| is_of_checkpoint(&it.path())) {
        return None;
    }
    // A config is that of a checkpoint, or of models for transformers.js in a folder below it.
    let has_config = folder.join(CONFIG).exists();
    let folder = if has_config { folder.join(MODEL_DIR) } else { folder.to_owned() };
    match &in_folder(&folder).ok()?[..] {
        [only] => Some(only.clone()),
        _ => None,
    }
}

/// Describes what is at a path, and lists the tensors that the filter selects. In a
/// checkpoint the `ignored` names count as absent. With `scan` all values of a checkpoint that
/// can be exported, of an adapter or of a SafeTensors file are read, in search of infinite and NaN
/// ones.
pub fn inspect(
    path: &Path,
    filter: &Filter,
    ignored: &IgnoredNames,
    scan: Option<&dyn Progress>,
) -> Result<Inspection> {
    // A missing model may have stages, which its reader looks for.
    if !onnx::has_extension(path) {
        hub::require_path(path)?;
    }
    if source::is_adapter(&source::names(path)) {
        return Ok(Inspection::Adapter(adapter::inspect(path, filter, ignored, scan)?));
    }
    let of_export = only_model(path).filter(|_| scan.is_none());
    if let Some(Ok(model)) = of_export.map(|model| model::inspect(&model, filter))
        && model.requires.is_some()
    {
        return Ok(Inspection::Model(model));
    }
    if path.is_dir() {
        return Ok(match Checkpoint::open(path, ignored) {
            Ok(it) => Inspection::Checkpoint(checkpoint::inspect(
                path,
                it,
                None,
                filter,
                ignored.zeros,
                scan,
            )?),
            Err(refusal) => Inspection::Folder(folder::inspect(path, refusal, filter)?),
        });
    }
    let is_shard = source::is_safetensors(path);
    if is_shard && Header::read(path).is_ok_and(|header| header.metadata.is_some()) {
        let (it, metadata) = Checkpoint::open_staged(path)?;
        let recorded = Some(metadata.fingerprint);
        let inspection = checkpoint::inspect(path, it, recorded, filter, ignored.zeros, scan)?;
        return Ok(Inspection::Weights(inspection));
    }
    if is_shard {
        return Ok(Inspection::Tensors(file(path, filter, scan)?));
    }
    ensure!(
        scan.is_none(),
        "`{}` is neither a checkpoint, an adapter nor a SafeTensors file, and only those are scanned; `verify` compares the weights of a model",
        path.display()
    );
    if onnx::has_extension(path) {
        return Ok(Inspection::Model(model::inspect(path, filter)?));
    }
    if path.extension().is_some_and(|it| it == onnx::ADAPTER_EXTENSION) {
        return Ok(Inspection::OnnxAdapter(onnx_adapter::inspect(path, filter)?));
    }
    Err(source::refuse_unsupported(path).unwrap_or_else(|| {
        err!(
            "`{}` is not a checkpoint folder, a .safetensors, .onnx or .onnx_adapter file{}",
            path.display(),
            source::enclosing(path)
        )
    }))
}

fn file(path: &Path, filter: &Filter, progress: Option<&dyn Progress>) -> Result<FileInspection> {
    let stored = Header::read(path)?.tensors;
    let listed: Vec<_> = stored.iter().map(ListedTensor::stored).collect();
    let scan = progress.map(|it| scan::scan_stored(&stored, &listed, it)).transpose()?;
    let bytes = stored.iter().map(|it| it.data.len()).sum();
    let (path, count) = (path.to_owned(), stored.len());
    Ok(FileInspection { path, bytes, count, tensors: filter.apply(listed), scan })
}

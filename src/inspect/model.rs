//! An ONNX model: its interface, and whether its external data is complete.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use super::tensors::{Filter, ListedTensor, Total, totals};
use crate::error::Result;
use crate::files::{FileRange, canonicalize_existing, parent_dir};
use crate::metadata::ModelMetadata;
use crate::onnx::{self, StoredInitializer, ValueInfo};
use crate::weights::{InPlaceBlocker, link_kind};

/// What an ONNX model is.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInspection {
    /// Its path.
    pub path: PathBuf,
    /// Size of the ONNX file in bytes.
    pub bytes: u64,
    /// Name and version of the program that wrote it.
    pub producer: String,
    /// ONNX IR version.
    pub ir_version: i64,
    /// Opset versions by domain.
    pub opsets: BTreeMap<String, i64>,
    /// What runs it, of a model of this program.
    pub requires: Option<String>,
    /// Metadata properties.
    pub properties: BTreeMap<String, String>,
    /// Inputs.
    pub inputs: Vec<ValueInfo>,
    /// Outputs.
    pub outputs: Vec<ValueInfo>,
    /// Names of model-local functions.
    pub functions: Vec<String>,
    /// Number of nodes by operator.
    pub operators: BTreeMap<String, usize>,
    /// External data files.
    pub files: Vec<DataFile>,
    /// Initializers whose external data has another length than their shape.
    pub wrong: Vec<String>,
    /// Whether all external data is present and unchanged, as far as lengths and samples tell.
    pub whole: bool,
    /// External tensors and bytes by kind.
    pub totals: Vec<Total>,
    /// The tensors that the filter selects.
    pub tensors: Vec<ListedTensor>,
}

/// An external data file.
#[derive(Clone, Debug, Serialize)]
pub struct DataFile {
    /// Relative to the model's folder.
    pub file: String,
    /// Number of initializers in it.
    pub tensors: usize,
    /// Bytes that they reference.
    pub bytes: u64,
    /// Least size of the file.
    pub needed: u64,
    /// Size of the file; `None` if it does not exist.
    pub found: Option<u64>,
    /// Why onnxruntime cannot read it, or reads other data than it should.
    pub problem: Option<String>,
    /// Why other programs cannot read it.
    pub warning: Option<String>,
}

/// Reads an ONNX file, and lengths and samples of its external data.
pub fn inspect(path: &Path, filter: &Filter) -> Result<ModelInspection> {
    let model = onnx::read(path)?;
    let mut files: BTreeMap<String, DataFile> = BTreeMap::new();
    for (_, external) in model.external_data() {
        let name = external.file.to_string_lossy().into_owned();
        let entry = files.entry(name.clone()).or_insert_with(|| data_file(path, &name));
        entry.tensors += 1;
        entry.bytes = entry.bytes.saturating_add(external.len());
        entry.needed = entry.needed.max(external.range.end);
    }
    let mut files: Vec<DataFile> = files.into_values().collect();
    let metadata = ModelMetadata::read(&model.properties).ok().flatten();
    let is_changed = |file: &str| {
        let recorded = metadata.as_ref().and_then(|metadata| metadata.data.get(file));
        let ranges = model.external_data().map(|(_, external)| external.clone());
        let ranges = ranges.filter(|external| external.file.to_str() == Some(file));
        let path = parent_dir(path).join(file);
        recorded.is_some_and(|digest| onnx::is_changed(digest, ranges, &path))
    };
    files.iter_mut().for_each(|file| judge(file, is_changed));
    let wrong: Vec<String> =
        model.external_data().filter_map(|(tensor, external)| wrong(tensor, external)).collect();
    let described = model.external_data().map(|(tensor, external)| {
        let dtype = tensor.dtype.map_or_else(|| "another type".into(), |dtype| dtype.to_string());
        (tensor.name.clone(), dtype, external.len())
    });
    Ok(ModelInspection {
        path: path.to_owned(),
        bytes: model.bytes,
        producer: model.producer.clone(),
        ir_version: model.ir_version,
        opsets: model.opsets.clone(),
        requires: metadata.as_ref().map(|metadata| metadata.requires.clone()),
        properties: model.properties.clone(),
        inputs: model.inputs.clone(),
        outputs: model.outputs.clone(),
        functions: model.functions.clone(),
        operators: model.operators.clone(),
        whole: wrong.is_empty() && files.iter().all(|file| file.problem.is_none()),
        files,
        wrong,
        totals: totals(described),
        tensors: filter.apply(model.initializers.iter().map(ListedTensor::of_model)),
    })
}

/// A file before its initializers are counted.
fn data_file(model: &Path, file: &str) -> DataFile {
    let path = parent_dir(model).join(file);
    let status = std::fs::metadata(&path).ok();
    let obstacle = status.as_ref().and_then(|_| link_kind(&path).ok().flatten());
    let is_followed = obstacle == Some(InPlaceBlocker::HardLink) || is_followed(model, &path);
    let problem = match &status {
        _ if !is_below(file) => Some(
            "it is outside the model's folder, where onnxruntime reads no external data".to_owned(),
        ),
        None => Some("it does not exist".to_owned()),
        Some(status) if !status.is_file() => Some("it is not a regular file".to_owned()),
        Some(_) => obstacle.filter(|_| !is_followed).map(|obstacle| obstacle.to_string()),
    };
    let warning = obstacle.filter(|_| problem.is_none()).map(|obstacle| obstacle.to_string());
    let found = status.map(|status| status.len());
    DataFile { file: file.to_owned(), tensors: 0, bytes: 0, needed: 0, found, problem, warning }
}

/// Whether onnxruntime follows a link: its target is in the model's folder or below, or
/// beside the target of the model's own link, as in a Hugging Face cache.
fn is_followed(model: &Path, file: &Path) -> bool {
    let folders = [
        canonicalize_existing(parent_dir(model)),
        canonicalize_existing(model).map(|it| parent_dir(&it).to_owned()),
    ];
    let file = canonicalize_existing(file);
    folders.iter().flatten().any(|folder| file.as_ref().is_ok_and(|file| file.starts_with(folder)))
}

fn is_below(file: &str) -> bool {
    Path::new(file)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Checks the size of a file and the digest of its samples.
fn judge(file: &mut DataFile, is_changed: impl Fn(&str) -> bool) {
    let (None, Some(found)) = (&file.problem, file.found) else { return };
    if found < file.needed {
        let needed = file.needed;
        file.problem = Some(format!("it has {found} bytes, and the model reads up to {needed}"));
    } else if is_changed(&file.file) {
        let problem = "it was changed since the export: restore it, or export again";
        file.problem = Some(problem.to_owned());
    }
}

/// An initializer whose external data is longer or shorter than its shape.
fn wrong(tensor: &StoredInitializer, external: &FileRange) -> Option<String> {
    let (dtype, length) = (tensor.dtype?, external.len());
    let needed = dtype.bytes(&tensor.shape);
    (needed != Some(length))
        .then(|| format!("`{}` {dtype} {:?} refers to {length} bytes", tensor.name, tensor.shape))
}

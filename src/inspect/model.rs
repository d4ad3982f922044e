//! A model: what it takes and gives, and whether its weights are there.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use super::tensors::{Filter, Tensor, Total, totals};
use crate::error::Error;
use crate::files::{canonicalize_existing, parent_dir};
use crate::metadata::ModelMetadata;
use crate::onnx::{self, External, Initializer, Interface};
use crate::weights::{InPlaceBlocker, link_kind};

/// What an ONNX model is.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInspection {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the file itself.
    pub bytes: u64,
    /// What wrote it.
    pub producer: String,
    /// Version of the format.
    pub ir_version: i64,
    /// Versions of operator sets by domain.
    pub opsets: BTreeMap<String, i64>,
    /// What runs it, if it says so.
    pub requires: Option<String>,
    /// What it says of itself to programs.
    pub properties: BTreeMap<String, String>,
    /// What it takes.
    pub inputs: Vec<Interface>,
    /// What it gives.
    pub outputs: Vec<Interface>,
    /// Names of model-local functions.
    pub functions: Vec<String>,
    /// How often each operator stands in it.
    pub operators: BTreeMap<String, usize>,
    /// Files that hold its weights.
    pub files: Vec<DataFile>,
    /// Initializers whose length in a file is not that of their shape.
    pub wrong: Vec<String>,
    /// Whether all weights are there and what they were, as far as lengths and samples tell.
    pub whole: bool,
    /// How much there is of each kind in other files.
    pub totals: Vec<Total>,
    /// The tensors that were asked for.
    pub tensors: Vec<Tensor>,
}

/// A file with a model's weights.
#[derive(Clone, Debug, Serialize)]
pub struct DataFile {
    /// From the model's folder.
    pub file: String,
    /// Initializers that are in it.
    pub tensors: usize,
    /// The bytes that they refer to.
    pub bytes: u64,
    /// How long it must be.
    pub needed: u64,
    /// How long it is; nothing when it is not there.
    pub found: Option<u64>,
    /// What keeps the model from reading it, or from reading what it should.
    pub problem: Option<String>,
    /// What others than onnxruntime do not take of it.
    pub warning: Option<String>,
}

/// Reads a model's file, and of its weights' files lengths and samples.
pub fn inspect(path: &Path, filter: &Filter) -> Result<ModelInspection, Error> {
    let model = onnx::read(path)?;
    let external =
        || model.initializers.iter().filter_map(|tensor| Some((tensor, tensor.external.as_ref()?)));
    let mut files: BTreeMap<&str, DataFile> = BTreeMap::new();
    for (tensor, External { file, offset, length }) in external() {
        let entry = files.entry(file).or_insert_with(|| data_file(path, file));
        let whole = tensor.dtype.and_then(|dtype| dtype.bytes(&tensor.shape));
        let rest = entry.found.unwrap_or(0).saturating_sub(*offset);
        let length = length.or(whole).unwrap_or(rest);
        entry.tensors += 1;
        entry.bytes = entry.bytes.saturating_add(length);
        entry.needed = entry.needed.max(offset.saturating_add(length));
    }
    let mut files: Vec<DataFile> = files.into_values().collect();
    let metadata = ModelMetadata::read(&model.properties).ok().flatten();
    let is_changed = |file: &str| {
        let recorded = metadata.as_ref().and_then(|metadata| metadata.data.get(file));
        recorded.is_some_and(|it| onnx::is_changed(&model, it, parent_dir(path), file))
    };
    files.iter_mut().for_each(|file| judge(file, is_changed));
    let wrong: Vec<String> =
        external().filter_map(|(tensor, place)| wrong(tensor, place)).collect();
    let described = external().map(|(tensor, place)| {
        let dtype = tensor.dtype.map_or_else(|| "another type".into(), |dtype| dtype.to_string());
        (tensor.name.clone(), dtype, place.length.unwrap_or(0))
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
        tensors: filter.apply(model.initializers.iter().map(Tensor::of_model)),
    })
}

/// A file, before it is known how much of it is needed.
fn data_file(model: &Path, file: &str) -> DataFile {
    let path = parent_dir(model).join(file);
    let status = std::fs::metadata(&path).ok();
    let obstacle = status.as_ref().and_then(|_| link_kind(&path).ok().flatten());
    let is_followed = obstacle == Some(InPlaceBlocker::HardLink) || is_followed(model, &path);
    let problem = match &status {
        _ if !is_below(file) => {
            Some("it is outside the model's folder, where onnxruntime reads nothing".to_owned())
        }
        None => Some("it is not there".to_owned()),
        Some(status) if !status.is_file() => Some("it is not a regular file".to_owned()),
        Some(_) => obstacle.filter(|_| !is_followed).map(|obstacle| obstacle.to_string()),
    };
    let warning = obstacle.filter(|_| problem.is_none()).map(|obstacle| obstacle.to_string());
    let found = status.map(|status| status.len());
    DataFile { file: file.to_owned(), tensors: 0, bytes: 0, needed: 0, found, problem, warning }
}

/// Whether onnxruntime follows a link: to a file in the model's folder or below, or where
/// the model itself is a link to, as in a Hugging Face cache.
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

/// Whether a file is long enough, and what it was.
fn judge(file: &mut DataFile, is_changed: impl Fn(&str) -> bool) {
    let (None, Some(found)) = (&file.problem, file.found) else { return };
    if found < file.needed {
        let needed = file.needed;
        file.problem = Some(format!("it has {found} bytes, and the model reads up to {needed}"));
    } else if is_changed(&file.file) {
        let problem =
            "its bytes are not those that the model was made for: bring them back, or export again";
        file.problem = Some(problem.to_owned());
    }
}

/// That an initializer's bytes are more or fewer than its shape needs.
fn wrong(tensor: &Initializer, place: &External) -> Option<String> {
    let (dtype, length) = (tensor.dtype?, place.length?);
    let needed = dtype.bytes(&tensor.shape);
    (needed != Some(length))
        .then(|| format!("`{}` {dtype} {:?} refers to {length} bytes", tensor.name, tensor.shape))
}

//! An ONNX model: its interface, and whether its external data is complete.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tensors::{Filter, ListedFile, ListedTensor, Selection, Total, totals};
use crate::adapter::{self, AdaptedModules};
use crate::checkpoint::AdapterRecord;
use crate::checkpoint::IgnoredNames;
use crate::error::Result;
use crate::exported::ModelMetadata;
use crate::files::{FileRange, lossy_path, parent_dir};
use crate::model::{LimitedCaches, ModelPart};
use crate::onnx::{self, OnnxFile, StoredInitializer};
use crate::weights::link_kind;

/// What an ONNX model is.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ModelInspection {
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    #[serde(flatten)]
    pub onnx: OnnxFile,
    /// What it has of a model, if that is not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<ModelPart>,
    /// What runs it, of a model of this program.
    pub requires: Option<String>,
    /// Adapters of which it has the changes.
    pub adapters: Vec<AdapterRecord>,
    /// What runtimes may change by adapters.
    pub swappable: Vec<AdaptedModules>,
    /// What was ignored of its checkpoint.
    pub ignored: IgnoredNames,
    /// Caches that keep the last tokens alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limited_caches: Vec<LimitedCaches>,
    pub files: Vec<DataFile>,
    /// The bytes of files that it reads, in order; what touches is joined.
    pub reads: Vec<FileRange>,
    /// Initializers whose external data has another length than their shape.
    pub wrong: Vec<String>,
    /// Whether all external data is present and unchanged, as far as lengths and samples tell.
    pub whole: bool,
    pub totals: Vec<Total>,
    pub tensors: Selection,
}

/// An external data file.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct DataFile {
    /// Its initializers, and the bytes that they reference.
    #[serde(flatten)]
    pub listed: ListedFile,
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
    let onnx = onnx::read(path)?;
    let metadata = ModelMetadata::read(&onnx.properties).ok().flatten();
    let read = onnx.external_files();
    let reads = read.values().flat_map(|ranges| joined(ranges)).collect();
    let files = read.into_iter().map(|(file, ranges)| {
        let digest = metadata.as_ref().and_then(|metadata| metadata.data.get(&file));
        data_file(path, file, &ranges, digest)
    });
    let files: Vec<DataFile> = files.collect();
    let wrong: Vec<String> = onnx.external_data().filter_map(wrong).collect();
    let tensors = onnx.initializers.iter().cloned().map(|it| ListedTensor {
        name: it.name,
        dtype: onnx::dtype_name(it.dtype),
        shape: it.shape,
        places: it.external.into_iter().collect(),
        ..ListedTensor::default()
    });
    let tensors: Vec<ListedTensor> = tensors.collect();
    let mut seen = HashSet::new();
    let distinct = tensors.iter().filter(|it| seen.insert(&it.places) || it.places.is_empty());
    let totals = totals(distinct);
    Ok(ModelInspection {
        path: path.to_owned(),
        adapters: metadata.as_ref().map(|metadata| metadata.adapters.clone()).unwrap_or_default(),
        swappable: AdaptedModules::swappable(&adapter::slots_of(&onnx)),
        ignored: metadata.as_ref().map(|it| it.ignored.clone()).unwrap_or_default(),
        limited_caches: metadata.as_ref().map(|it| it.limited_caches.clone()).unwrap_or_default(),
        stage: metadata.as_ref().and_then(|metadata| metadata.stage.clone()),
        requires: metadata.map(|metadata| metadata.requires),
        whole: wrong.is_empty() && files.iter().all(|file| file.problem.is_none()),
        files,
        reads,
        wrong,
        totals,
        tensors: filter.apply(tensors),
        onnx,
    })
}

impl ModelInspection {
    /// What is wrong with its external data.
    pub fn faults(&self) -> Vec<String> {
        let of_file =
            |it: &DataFile| Some(format!("`{}`: {}", it.listed.file, it.problem.as_ref()?));
        self.files.iter().filter_map(of_file).chain(self.wrong.iter().cloned()).collect()
    }
}

/// Ranges of one file in order; what touches is joined.
fn joined(ranges: &[FileRange]) -> Vec<FileRange> {
    let mut ranges: Vec<&FileRange> = ranges.iter().collect();
    ranges.sort_by_key(|it| it.range.start);
    let mut joined: Vec<FileRange> = Vec::new();
    for it in ranges {
        match joined.last_mut().map(|last| &mut last.range) {
            Some(last) if it.range.start <= last.end => last.end = last.end.max(it.range.end),
            _ => joined.push(it.clone()),
        }
    }
    joined
}

/// A file of which initializers read `ranges`. `digest` is that of its samples at the export.
fn data_file(
    model: &Path,
    file: String,
    ranges: &[FileRange],
    digest: Option<&String>,
) -> DataFile {
    let path = parent_dir(model).join(&file);
    let found = fs::metadata(&path).ok().map(|it| it.len());
    let needed = ranges.iter().map(|range| range.range.end).max().unwrap_or(0);
    let change = || onnx::data_change(&path, ranges, digest?);
    let problem = onnx::data_problem(model, &file, needed).or_else(change);
    let link = link_kind(&path).ok().flatten().filter(|_| problem.is_none());
    // Several initializers may read one range.
    let distinct: HashSet<&FileRange> = ranges.iter().collect();
    let bytes = distinct.into_iter().map(FileRange::len).fold(0, u64::saturating_add);
    DataFile {
        listed: ListedFile { file, tensors: ranges.len(), bytes },
        needed,
        found,
        problem,
        warning: link.map(|it| it.to_string()),
    }
}

/// An initializer whose external data is longer or shorter than its shape.
fn wrong((tensor, external): (&StoredInitializer, &FileRange)) -> Option<String> {
    let StoredInitializer { name, dtype, shape, .. } = tensor;
    let (dtype, length) = ((*dtype)?, external.len());
    (dtype.bytes(shape) != Some(length))
        .then(|| format!("`{name}` {dtype} {shape:?} refers to {length} bytes: export again"))
}

//! A folder that cannot be exported: what is in it nevertheless, and everything that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;
use serde_json::{Map, Value};

use super::tensors::{Filter, ListedFile, ListedTensor, Selection};
use crate::checkpoint::{self as source, CONFIG, LARGEST_CONFIG};
use crate::container::Header;
use crate::error::{Error, Result};
use crate::files::json;

/// What there is in a folder.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct FolderInspection {
    pub path: PathBuf,
    /// SafeTensors files, and shards that the index names.
    pub files: Vec<FolderFile>,
    /// Everything else, by formats.
    pub others: Vec<OtherFiles>,
    pub totals: Vec<DTypeTotal>,
    /// `config.json` as it stands, if it is an object of JSON.
    pub config: Option<Map<String, Value>>,
    /// Under the names in the files.
    pub tensors: Selection,
    /// Everything that keeps it from being exported.
    #[serde(skip)]
    pub refusal: Error,
}

/// A SafeTensors file, or a shard that is missing.
#[derive(Clone, Debug, Serialize)]
pub struct FolderFile {
    /// Its tensors; none if it cannot be read.
    #[serde(flatten)]
    pub listed: ListedFile,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// Files and folders of one format.
#[derive(Clone, Debug, Serialize)]
pub struct OtherFiles {
    /// `None` for those of no format that checkpoints come in.
    pub format: Option<&'static str>,
    /// Their names.
    pub names: Vec<String>,
}

/// Tensors of one dtype.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct DTypeTotal {
    pub dtype: String,
    pub tensors: usize,
    pub bytes: u64,
}

/// Describes a folder, which `refusal` keeps from being exported.
pub fn inspect(path: &Path, refusal: Error, filter: &Filter) -> Result<FolderInspection> {
    // Otherwise a folder that cannot be read would seem to be empty.
    fs::read_dir(path)?;
    let there = source::names(path);
    let (mut shards, others): (BTreeSet<String>, BTreeSet<String>) =
        there.into_iter().partition(|name| source::is_safetensors(name.as_ref()));
    let index = source::read_index(path).ok().flatten().unwrap_or_default();
    shards.extend(index.into_values());
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for file in shards {
        let (found, problem) = match Header::read(&path.join(&file)) {
            Ok(header) => (header.tensors, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let bytes = found.iter().map(|it| it.data.len()).sum();
        files
            .push(FolderFile { listed: ListedFile { file, tensors: found.len(), bytes }, problem });
        tensors.extend(found.iter().map(ListedTensor::stored));
    }
    let config = json::read(&path.join(CONFIG), LARGEST_CONFIG);
    let config = config.and_then(|text| json::parse(CONFIG, &text)).ok();
    let (path, totals) = (path.to_owned(), totals(&tensors));
    let (others, tensors) = (by_format(others), filter.apply(tensors));
    Ok(FolderInspection { path, files, others, totals, config, tensors, refusal })
}

/// Known formats first.
fn by_format(names: BTreeSet<String>) -> Vec<OtherFiles> {
    let mut formats: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
    // What several names tell together counts.
    let main = source::find_format(names.iter().map(String::as_str));
    for name in &names {
        let format = main.filter(|(it, _)| it == name).map(|(_, format)| format);
        let format = format.or_else(|| source::identify(name)).map(|it| it.what);
        formats.entry(format).or_default().push(name.clone());
    }
    let known = formats.into_iter().rev();
    known.map(|(format, names)| OtherFiles { format, names }).collect()
}

fn totals(tensors: &[ListedTensor]) -> Vec<DTypeTotal> {
    let mut totals: BTreeMap<&str, DTypeTotal> = BTreeMap::new();
    for tensor in tensors {
        let total = totals.entry(&tensor.dtype).or_default();
        total.dtype.clone_from(&tensor.dtype);
        total.tensors += 1;
        total.bytes = total.bytes.saturating_add(tensor.bytes());
    }
    totals.into_values().collect()
}

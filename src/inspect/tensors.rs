//! Tensors: where their bytes are, which to list, and how many of each kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::Pattern;
use serde::Serialize;

use crate::container::{Header, StoredTensor};
use crate::error::{Result, err};
use crate::files::FileRange;
use crate::onnx::StoredInitializer;
use crate::weights::Weight;

/// A tensor, and where its bytes are.
#[derive(Clone, Debug, Serialize)]
pub struct ListedTensor {
    /// Its name; in a checkpoint the canonical one.
    pub name: String,
    /// Names in the checkpoint's files, if they differ.
    pub stored_as: Vec<String>,
    /// Element type.
    pub dtype: String,
    /// One number for each axis.
    pub shape: Vec<u64>,
    /// Its byte ranges, one after the other; none if the bytes are in the ONNX file. Paths
    /// are relative to the folder of what is inspected.
    pub places: Vec<FileRange>,
}

/// Tensors of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Total {
    /// `embedding`, `attention`, `router`, `experts`, `norms`, `lm_head` or `other`.
    pub kind: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their element types.
    pub dtypes: BTreeSet<String>,
}

/// A SafeTensors file of a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct SourceFile {
    /// Relative to the checkpoint's folder.
    pub file: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// Which tensors to list.
#[derive(Clone, Debug, Default)]
pub struct Filter(Option<Pattern>);

impl Filter {
    /// Tensors whose name, canonical or stored, matches a pattern with `*` and `?`; none
    /// without a pattern.
    pub fn new(pattern: Option<&str>) -> Result<Self> {
        let Some(text) = pattern else { return Ok(Self(None)) };
        let invalid = |error| err!("invalid pattern {text:?} for tensor names: {error}");
        Ok(Self(Some(Pattern::new(text).map_err(invalid)?)))
    }

    pub(super) fn apply(&self, mut tensors: Vec<ListedTensor>) -> Vec<ListedTensor> {
        let matches = |name: &String| self.0.as_ref().is_some_and(|it| it.matches(name));
        tensors.retain(|tensor| matches(&tensor.name) || tensor.stored_as.iter().any(matches));
        tensors
    }
}

impl ListedTensor {
    /// A tensor of a SafeTensors file, under its own name.
    pub(super) fn stored(tensor: &StoredTensor, file: &str) -> Self {
        let StoredTensor { name, dtype, shape, data } = tensor;
        Self {
            name: name.clone(),
            stored_as: Vec::new(),
            dtype: dtype.to_string(),
            shape: shape.clone(),
            places: vec![FileRange { file: Path::new(file).into(), range: data.range.clone() }],
        }
    }

    /// An initializer of an ONNX model.
    pub(super) fn of_model(initializer: &StoredInitializer) -> Self {
        let dtype = initializer.dtype;
        Self {
            name: initializer.name.clone(),
            stored_as: Vec::new(),
            dtype: dtype.map_or_else(|| "another type".to_owned(), |dtype| dtype.to_string()),
            shape: initializer.shape.clone(),
            places: initializer.external.iter().cloned().collect(),
        }
    }
}

/// The SafeTensors files of a checkpoint.
pub struct SourceFiles {
    folder: PathBuf,
    headers: Vec<(PathBuf, Header)>,
    /// Stored names by file and offset.
    names: HashMap<(Arc<Path>, u64), String>,
}

impl SourceFiles {
    pub fn read(folder: &Path, files: &BTreeSet<PathBuf>) -> Result<Self> {
        let read = |file: &PathBuf| Ok((file.clone(), Header::read(file)?));
        let headers: Vec<_> = files.iter().map(read).collect::<Result<_>>()?;
        let tensors = headers.iter().flat_map(|(_, header)| &header.tensors);
        let names =
            tensors.map(|it| ((it.data.file.clone(), it.data.range.start), it.name.clone()));
        Ok(Self { folder: folder.to_owned(), names: names.collect(), headers })
    }

    pub fn summarize(&self) -> Vec<SourceFile> {
        let file = |(file, header): &(PathBuf, Header)| SourceFile {
            file: self.relative(file).display().to_string(),
            tensors: header.tensors.len(),
            bytes: header.tensors.iter().map(|tensor| tensor.data.len()).sum(),
        };
        self.headers.iter().map(file).collect()
    }

    pub fn tensor(&self, weight: &Weight) -> ListedTensor {
        let sources = weight.recipe.sources();
        let name = |source: &&FileRange| {
            self.names.get(&(source.file.clone(), source.range.start)).cloned()
        };
        let place = |source: &&FileRange| FileRange {
            file: self.relative(&source.file).into(),
            range: source.range.clone(),
        };
        let stored_as = sources.iter().filter_map(name).filter(|name| *name != weight.name);
        ListedTensor {
            name: weight.name.clone(),
            stored_as: stored_as.collect(),
            dtype: weight.dtype.to_string(),
            shape: weight.shape.clone(),
            places: sources.iter().map(place).collect(),
        }
    }

    fn relative<'f>(&self, file: &'f Path) -> &'f Path {
        file.strip_prefix(&self.folder).unwrap_or(file)
    }
}

/// Adds up the tensors whose bytes are in files.
pub fn totals(tensors: &[ListedTensor]) -> Vec<Total> {
    let mut totals: BTreeMap<usize, Total> = BTreeMap::new();
    let external = tensors.iter().filter(|tensor| !tensor.places.is_empty());
    for ListedTensor { name, dtype, places, .. } in external {
        let at = KINDS.iter().position(|(_, is)| is(name)).expect("the last takes all");
        let (kind, dtypes) = (KINDS[at].0, BTreeSet::new());
        let total = totals.entry(at).or_insert(Total { kind, tensors: 0, bytes: 0, dtypes });
        total.tensors += 1;
        total.bytes = places.iter().map(FileRange::len).fold(total.bytes, u64::saturating_add);
        total.dtypes.insert(dtype.clone());
    }
    totals.into_values().collect()
}

type NamedPredicate = (&'static str, fn(&str) -> bool);

/// Kinds of tensors by their canonical names; the first that matches counts.
const KINDS: [NamedPredicate; 7] = [
    ("embedding", |name| name.starts_with("embedding")),
    ("attention", |name| name.contains(".attn.") && !name.contains(".norm.")),
    ("router", |name| name.contains(".router.")),
    ("experts", |name| name.contains(".experts.")),
    ("norms", |name| name.starts_with("norm.") || name.contains(".norm.")),
    ("lm_head", |name| name.starts_with("lm_head")),
    ("other", |_| true),
];

//! Tensors: where their bytes are, which to list, and how many of each kind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use glob::Pattern;
use serde::Serialize;

use crate::container::StoredTensor;
use crate::error::{Result, err};
use crate::files::FileRange;

/// A tensor, and where its bytes are.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct ListedTensor {
    /// In a checkpoint the canonical name.
    pub name: String,
    /// Names in the checkpoint's files, if they differ.
    pub stored_as: Vec<String>,
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Its byte ranges, one after the other; none if the bytes are in the ONNX file. Paths
    /// are relative to the folder of what is inspected.
    pub places: Vec<FileRange>,
}

/// A file, and the tensors in it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ListedFile {
    /// Relative to the folder of what is inspected.
    pub file: String,
    pub tensors: usize,
    pub bytes: u64,
}

/// Tensors of one kind.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Total {
    /// `embedding`, `attention`, `router`, `experts`, `norms`, `lm_head` or `other`.
    pub kind: &'static str,
    pub tensors: usize,
    pub bytes: u64,
    pub dtypes: BTreeSet<String>,
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

    pub(super) fn apply(&self, mut tensors: Vec<ListedTensor>) -> Selection {
        let matches = |name: &String| self.0.as_ref().is_some_and(|it| it.matches(name));
        tensors.retain(|tensor| matches(&tensor.name) || tensor.stored_as.iter().any(matches));
        Selection { pattern: self.0.as_ref().map(Pattern::to_string), tensors }
    }
}

/// The tensors that a filter selects.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Selection {
    /// The filter's pattern.
    #[serde(skip)]
    pub pattern: Option<String>,
    /// Those with a name that matches.
    pub tensors: Vec<ListedTensor>,
}

impl ListedTensor {
    /// A tensor of a SafeTensors file.
    pub(super) fn stored(StoredTensor { name, dtype, shape, data }: &StoredTensor) -> Self {
        let file = Path::new(data.file.file_name().unwrap_or_default()).into();
        Self {
            name: name.clone(),
            dtype: dtype.to_string(),
            shape: shape.clone(),
            places: vec![FileRange { file, range: data.range.clone() }],
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.places.iter().map(FileRange::len).fold(0, u64::saturating_add)
    }
}

/// Adds up the tensors whose bytes are in files.
pub fn totals<'t>(tensors: impl IntoIterator<Item = &'t ListedTensor>) -> Vec<Total> {
    let mut totals: BTreeMap<usize, Total> = BTreeMap::new();
    let external = tensors.into_iter().filter(|tensor| !tensor.places.is_empty());
    for tensor in external {
        let at = KINDS.iter().position(|(_, is)| is(&tensor.name)).expect("the last takes all");
        let total = totals.entry(at).or_default();
        total.kind = KINDS[at].0;
        total.tensors += 1;
        total.bytes = total.bytes.saturating_add(tensor.bytes());
        total.dtypes.insert(tensor.dtype.clone());
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

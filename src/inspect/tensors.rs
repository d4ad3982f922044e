//! Tensors: where their bytes are, which to list, and how much of each kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use glob::Pattern;
use serde::Serialize;

use crate::container::{self, Entry, Header};
use crate::error::{Error, err};
use crate::onnx::Initializer;
use crate::weights::Weight;

/// A tensor, and where its bytes are.
#[derive(Clone, Debug, Serialize)]
pub struct Tensor {
    /// Its name: of a checkpoint, the canonical one.
    pub name: String,
    /// The names under which its bytes are stored, where they are others.
    pub stored_as: Vec<String>,
    /// Element type.
    pub dtype: String,
    /// One number for each axis.
    pub shape: Vec<u64>,
    /// Its bytes, one place after the other; none for those in an ONNX file.
    pub places: Vec<Place>,
}

/// A byte range of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// From the folder of what is inspected.
    pub file: String,
    /// From the beginning of the file.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// How much there is of one kind of tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Total {
    /// `embedding`, `attention`, `router`, `experts`, `norms`, `lm_head` or `other`.
    pub kind: &'static str,
    /// How many tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their element types.
    pub dtypes: BTreeSet<String>,
}

/// Which tensors to list.
#[derive(Clone, Debug, Default)]
pub struct Filter(Option<Pattern>);

impl Filter {
    /// Those whose name, canonical or stored, fits a pattern with `*` and `?`;
    /// none without one.
    pub fn new(pattern: Option<&str>) -> Result<Self, Error> {
        let parse = |text: &str| {
            Pattern::new(text)
                .map_err(|error| err!("invalid pattern {text:?} for tensor names: {error}"))
        };
        Ok(Self(pattern.map(parse).transpose()?))
    }

    /// What it lets through.
    pub(super) fn apply(&self, tensors: impl Iterator<Item = Tensor>) -> Vec<Tensor> {
        let Some(pattern) = &self.0 else { return Vec::new() };
        let fits = |tensor: &Tensor| {
            [&tensor.name].into_iter().chain(&tensor.stored_as).any(|name| pattern.matches(name))
        };
        tensors.filter(fits).collect()
    }
}

impl Tensor {
    /// One of a file, under its own name.
    pub(super) fn stored(entry: &Entry, file: &str) -> Self {
        let Entry { name, dtype, shape, range } = entry;
        let place =
            Place { file: file.to_owned(), offset: range.start, length: range.end - range.start };
        Self {
            name: name.clone(),
            stored_as: Vec::new(),
            dtype: dtype.to_string(),
            shape: shape.clone(),
            places: vec![place],
        }
    }

    /// One of an ONNX model.
    pub(super) fn of_model(initializer: &Initializer) -> Self {
        let place = initializer.external.iter().map(|external| Place {
            file: external.file.clone(),
            offset: external.offset,
            length: external.length.unwrap_or(0),
        });
        Self {
            name: initializer.name.clone(),
            stored_as: Vec::new(),
            dtype: initializer
                .dtype
                .map_or_else(|| "another type".to_owned(), |dtype| dtype.to_string()),
            shape: initializer.shape.clone(),
            places: place.collect(),
        }
    }
}

/// Files with what they hold, and the names of what is stored in them.
pub struct Stored {
    folder: PathBuf,
    /// Each file with its header.
    pub files: Vec<(PathBuf, Header)>,
    /// By file and offset.
    names: HashMap<(PathBuf, u64), String>,
}

impl Stored {
    /// Of these files.
    pub fn read(folder: &Path, files: &BTreeSet<PathBuf>) -> Result<Self, container::Error> {
        let read = |file: &PathBuf| Ok((file.clone(), Header::read(file)?));
        let files: Vec<_> = files.iter().map(read).collect::<Result<_, container::Error>>()?;
        let mut names = HashMap::new();
        for (file, header) in &files {
            for entry in &header.tensors {
                names.insert((file.clone(), entry.range.start), entry.name.clone());
            }
        }
        Ok(Self { folder: folder.to_owned(), files, names })
    }

    /// A weight of a checkpoint.
    pub fn tensor(&self, weight: &Weight) -> Tensor {
        let sources = weight.recipe.sources();
        let name = |source: &&crate::files::FileRange| {
            self.names.get(&(source.file.to_path_buf(), source.range.start)).cloned()
        };
        let place = |source: &&crate::files::FileRange| Place {
            file: self.within(&source.file),
            offset: source.range.start,
            length: source.len(),
        };
        Tensor {
            name: weight.name.clone(),
            stored_as: sources
                .iter()
                .filter_map(name)
                .filter(|name| *name != weight.name)
                .collect(),
            dtype: weight.dtype.to_string(),
            shape: weight.shape.clone(),
            places: sources.iter().map(place).collect(),
        }
    }

    /// A file as it is called from the folder.
    pub fn within(&self, file: &Path) -> String {
        file.strip_prefix(&self.folder).unwrap_or(file).display().to_string()
    }
}

/// Sums up tensors given by name, element type and bytes.
pub fn totals(tensors: impl Iterator<Item = (String, String, u64)>) -> Vec<Total> {
    let mut totals: BTreeMap<usize, Total> = BTreeMap::new();
    for (name, dtype, bytes) in tensors {
        let at = kind(&name);
        let total = totals.entry(at).or_insert_with(|| Total {
            kind: KINDS[at],
            tensors: 0,
            bytes: 0,
            dtypes: BTreeSet::new(),
        });
        total.tensors += 1;
        total.bytes = total.bytes.saturating_add(bytes);
        total.dtypes.insert(dtype);
    }
    totals.into_values().collect()
}

const KINDS: [&str; 7] =
    ["embedding", "attention", "router", "experts", "norms", "lm_head", "other"];

/// The kind of a tensor by its canonical name.
fn kind(name: &str) -> usize {
    let is = |kind: &str| KINDS.iter().position(|listed| *listed == kind).expect("a kind");
    match name {
        _ if name.starts_with("embedding") => is("embedding"),
        _ if name.starts_with("lm_head") => is("lm_head"),
        _ if name.starts_with("norm.") || name.contains(".norm.") => is("norms"),
        _ if name.contains(".attn.") => is("attention"),
        _ if name.contains(".router.") => is("router"),
        _ if name.contains(".experts.") => is("experts"),
        _ => is("other"),
    }
}

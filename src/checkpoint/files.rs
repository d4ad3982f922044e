//! The tensors of a checkpoint, whichever files they are in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use glob::Pattern;
use serde::Deserialize;

use super::{Error, Result};
use crate::container::{Entry, Header};
use crate::files::json;

/// The usual name of weights in one file.
pub const USUAL: &str = "model.safetensors";

/// The file that says which shards a checkpoint has.
pub const INDEX: &str = "model.safetensors.index.json";

/// No index is longer: that of a 120B with a tensor for each expert has 4 MB.
const LARGEST_INDEX: u64 = 8 << 20;

/// Headers of files that are not there yet, by the paths that they will have.
pub type Headers = BTreeMap<PathBuf, Header>;

/// Which SafeTensors files of a folder are the checkpoint's.
#[derive(Clone, Debug, Default)]
pub enum Which {
    /// Those of the index if there is one, else the only one.
    #[default]
    Found,
    /// Those of the index.
    Indexed,
    /// The one of this name, whatever else is there.
    Only(String),
}

/// Tensors by name, with the file that holds each; a layout takes them out.
pub struct Tensors {
    place: PathBuf,
    map: BTreeMap<String, (Arc<Path>, Entry)>,
}

/// The part of an index that says where tensors are.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// The index of a folder, if it has one.
    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(INDEX);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let text = json::read(&path, LARGEST_INDEX)?;
        let invalid = |reason| Error::Json { file: path.display().to_string(), reason };
        json::reject_duplicate_keys(&text).map_err(invalid)?;
        let index: Self =
            serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        for shard in index.weight_map.values() {
            let plain = Path::new(shard).file_name() == Some(shard.as_ref());
            if !plain || shard.contains('\\') {
                return Err(Error::ShardName { index: path, shard: shard.clone() });
            }
        }
        Ok(Some(index))
    }

    fn shards(&self) -> BTreeSet<&String> {
        self.weight_map.values().collect()
    }
}

/// The names of the shards of a folder, if it has an index.
pub fn shards(folder: &Path) -> Result<Option<Vec<String>>> {
    let index = Index::read(folder)?;
    Ok(index.map(|index| index.shards().into_iter().cloned().collect()))
}

/// Opens the files of a folder: those that its index names, or its only one.
/// Some may not be there yet, but their headers are known.
pub fn open_folder(folder: &Path, which: &Which, awaited: &Headers) -> Result<Tensors> {
    let mut tensors = Tensors { place: folder.to_owned(), map: BTreeMap::new() };
    let index = match which {
        Which::Only(_) => None,
        Which::Found | Which::Indexed => Index::read(folder)?,
    };
    let Some(index) = index else {
        let only = match which {
            Which::Only(name) => folder.join(name),
            Which::Found | Which::Indexed => only_file(folder)?,
        };
        tensors.read_or_await(&only, awaited)?;
        return Ok(tensors);
    };
    let path = folder.join(INDEX);
    for shard in index.shards() {
        let file = folder.join(shard);
        if !file.exists() && !awaited.contains_key(&file) {
            return Err(Error::MissingShard { index: path, shard: shard.clone() });
        }
        tensors.read_or_await(&file, awaited)?;
    }
    if matches!(which, Which::Found) {
        refuse_another(folder, &index)?;
    }
    for (tensor, shard) in index.weight_map {
        let held = tensors.map.get(&tensor);
        if held.is_none_or(|(file, _)| file.file_name() != Some(shard.as_ref())) {
            return Err(Error::NotInShard { index: path, tensor, shard });
        }
    }
    Ok(tensors)
}

/// Refuses weights in one file beside shards: programs differ in which of the two they
/// read, and one is left from an earlier save.
fn refuse_another(folder: &Path, index: &Index) -> Result<()> {
    let usual = folder.join(USUAL);
    match usual.is_file() && !index.shards().iter().any(|shard| *shard == USUAL) && !is_ours(&usual)
    {
        true => Err(Error::TwoCheckpoints { folder: folder.to_owned() }),
        false => Ok(()),
    }
}

/// Whether an export has put a file here, which is not the checkpoint.
fn is_ours(path: &Path) -> bool {
    Header::read(path).is_ok_and(|header| header.metadata.is_some())
}

/// Opens one file, with what it says of itself.
pub fn open_file(path: &Path) -> Result<(Tensors, Option<String>)> {
    let mut tensors = Tensors { place: path.to_owned(), map: BTreeMap::new() };
    let metadata = tensors.read(path)?;
    Ok((tensors, metadata))
}

/// `model.safetensors`, or the one SafeTensors file there is.
fn only_file(folder: &Path) -> Result<PathBuf> {
    let usual = folder.join(USUAL);
    if usual.is_file() {
        return Ok(usual);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let fits = path.extension().is_some_and(|extension| extension == "safetensors");
        if fits && !is_ours(&path) {
            found.push(path);
        }
    }
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (Some(_), more) => Err(Error::Ambiguous { folder: folder.to_owned(), count: more + 1 }),
        (None, _) => Err(Error::lacks(folder, USUAL)),
    }
}

impl Tensors {
    /// Takes in a file, and returns what it says of itself.
    fn read(&mut self, path: &Path) -> Result<Option<String>> {
        let header = Header::read(path)?;
        let metadata = header.metadata.clone();
        self.add(path, header).map(|()| metadata)
    }

    fn read_or_await(&mut self, path: &Path, awaited: &Headers) -> Result<()> {
        match awaited.get(path) {
            Some(header) => self.add(path, header.clone()),
            None => self.read(path).map(drop),
        }
    }

    fn add(&mut self, path: &Path, header: Header) -> Result<()> {
        let file: Arc<Path> = path.into();
        for entry in header.tensors {
            let tensor = entry.name.clone();
            if let Some((other, _)) = self.map.insert(tensor.clone(), (file.clone(), entry)) {
                return Err(Error::TwiceStored {
                    tensor,
                    first: other.to_path_buf(),
                    second: path.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Whether there is such a tensor, under its name or without the `model.`
    /// before it, which some files lack.
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name) || self.map.contains_key(without_model(name))
    }

    /// The shape of a tensor that may be there.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        let found = self.map.get(name).or_else(|| self.map.get(without_model(name)));
        found.map(|(_, entry)| &*entry.shape)
    }

    /// Takes out a tensor that must be there.
    pub fn take(&mut self, name: &str) -> Result<(Arc<Path>, Entry)> {
        let found = self.map.remove(name).or_else(|| self.map.remove(without_model(name)));
        found.ok_or_else(|| self.lacks(name))
    }

    /// That a tensor is not there. An adapter keeps what it adapts under another name.
    fn lacks(&self, name: &str) -> Error {
        let place = self.place.clone();
        match self.adapted() {
            Some(tensor) => Error::Unmerged { place, tensor },
            None => Error::MissingTensor { place, tensor: name.to_owned() },
        }
    }

    /// A tensor that an adapter has moved.
    fn adapted(&self) -> Option<String> {
        self.map.keys().find(|name| name.contains(".base_layer.")).cloned()
    }

    /// That no layout's experts are there, with what there is in their place.
    pub fn lacks_experts(&self) -> Error {
        let place = self.place.clone();
        let tensor = self.map.keys().find(|name| name.contains(".experts.")).cloned();
        let prefix = tensor.as_ref().and_then(|name| Some(name.split_once(".model.layers.")?.0));
        match (prefix, self.adapted()) {
            (Some(prefix), _) => Error::Wrapped { place, prefix: format!("{prefix}.") },
            (None, Some(tensor)) => Error::Unmerged { place, tensor },
            (None, None) => Error::UnknownExperts { place, tensor },
        }
    }

    /// What no one has taken is not understood, unless it is known by name, or by a pattern.
    pub fn refuse_rest(self, layout: &'static str, ignored: &[String]) -> Result<()> {
        let fits = |pattern: &str, name: &str| {
            pattern == name || Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name))
        };
        let is_idle = |pattern: &&String| !self.map.keys().any(|name| fits(pattern, name));
        if let Some(name) = ignored.iter().find(is_idle) {
            let (place, name) = (self.place.display().to_string(), name.clone());
            return Err(Error::NothingToIgnore { place, what: "tensor", name });
        }
        let is_known = |name: &str| ignored.iter().any(|pattern| fits(pattern, name));
        let mut unknown = self.map.into_iter().filter(|(name, _)| !is_known(name));
        match unknown.next() {
            Some((tensor, _)) if tensor.contains("lora_") => {
                Err(Error::Unmerged { place: self.place, tensor })
            }
            Some((tensor, (file, _))) => {
                let (file, more) = (file.to_path_buf(), unknown.count());
                Err(Error::UnknownTensor { file, tensor, more, layout })
            }
            None => Ok(()),
        }
    }
}

fn without_model(name: &str) -> &str {
    name.strip_prefix("model.").unwrap_or(name)
}

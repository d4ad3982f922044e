//! The tensors of a checkpoint by the names of its layout.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ignored::IgnoredNames;
use super::names::{Wrapping, is_ignored, layer, patterns};
use super::numbered::NumberedSet;
use super::selection::{self, Headers, Index};
use crate::container::{Header, StoredTensor};
use crate::error::{Error, Result, Setting, bail, err};

/// Tensors by the names of a layout, which are the stored ones without what wrappers added. A
/// layout takes them out.
#[derive(Default)]
pub struct Tensors {
    /// The folder or file that errors name.
    pub path: PathBuf,
    pub map: BTreeMap<String, StoredTensor>,
    /// Tensors that the index names and no shard has.
    pub absent: BTreeMap<String, AbsentTensor>,
    /// Shards that the index names and the folder lacks.
    pub missing_shards: Vec<String>,
    /// The first tensor of a shard that the index does not have, by shard.
    pub unlisted: BTreeMap<String, String>,
    /// SafeTensors files of the folder that are no part of the checkpoint.
    pub unused_files: Vec<String>,
    /// The names of files that no index lists.
    pub unindexed: Vec<String>,
    pub wrapping: Wrapping,
    /// What the user ignores.
    pub ignored: IgnoredNames,
    /// Ignored tensors whose names others have.
    pub displaced: Vec<String>,
    /// Tensors that a layout has taken, by its names.
    pub taken: BTreeMap<String, StoredTensor>,
    /// What a layout has asked for in vain.
    pub missing: Vec<Missing>,
}

/// A missing tensor, by its name in the layout.
pub struct Missing {
    pub name: String,
    /// The shape that it should have.
    pub shape: Vec<u64>,
}

/// An entry of an index.
pub struct AbsentTensor {
    /// As in the index.
    pub name: String,
    pub shard: String,
}

impl Tensors {
    /// Opens the checkpoint of a folder, which consists of these files by an index, if there is one.
    /// `remote` ones are still to be downloaded.
    pub fn open_folder(
        folder: &Path,
        (index, files): (Option<Index>, BTreeSet<String>),
        remote: &Headers,
        ignored: &IgnoredNames,
    ) -> Result<Self> {
        let mut tensors =
            Self { path: folder.to_owned(), ignored: ignored.clone(), ..Self::default() };
        tensors.unused_files = selection::unused(folder, &files);
        let mut damaged = Vec::new();
        for name in &files {
            let file = folder.join(name);
            if index.is_some() && file.symlink_metadata().is_err() && !remote.contains_key(&file) {
                tensors.missing_shards.push(name.clone());
            } else {
                damaged.extend(tensors.add(&file, remote, index.as_ref()).err());
            }
        }
        Error::all(damaged)?;
        match index {
            None => tensors.unindexed = files.into_iter().collect(),
            Some(index) => {
                let absent = index.into_iter().filter(|(name, _)| !tensors.map.contains_key(name));
                let absent =
                    absent.map(|(name, shard)| (name.clone(), AbsentTensor { name, shard }));
                tensors.absent = absent.collect();
            }
        }
        tensors.unwrapped()
    }

    /// Opens one file, and returns the metadata that an export wrote.
    pub fn open_file(path: &Path) -> Result<(Self, Option<String>)> {
        let mut tensors = Self { path: path.to_owned(), ..Self::default() };
        let metadata = tensors.add(path, &Headers::default(), None)?;
        Ok((tensors, metadata))
    }

    /// Adds the tensors of a file, but for those that the index finds in another.
    fn add(
        &mut self,
        path: &Path,
        remote: &Headers,
        index: Option<&Index>,
    ) -> Result<Option<String>> {
        let header = match remote.get(path) {
            Some(header) => header.clone(),
            None => Header::read(path)?,
        };
        let file: Arc<Path> = path.into();
        for mut tensor in header.tensors {
            // A remote header may have been read from a copy in a cache.
            tensor.data.file = file.clone();
            let name = tensor.name.clone();
            let shard = index.and_then(|index| index.get(&name));
            if shard.is_some_and(|shard| path.file_name() != Some(shard.as_ref())) {
                continue;
            }
            if index.is_some() && shard.is_none() && !self.is_ignored(&name) {
                let shard = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.unlisted.entry(shard).or_insert_with(|| name.clone());
            }
            if let Some(other) = self.map.insert(name.clone(), tensor) {
                let (first, second) = (other.data.file.display(), path.display());
                bail!(
                    "tensor `{name}` is both in `{first}` and in `{second}`, which are of different saves: copy all shards of one save again, or add the index that says which counts"
                );
            }
        }
        Ok(header.metadata)
    }

    /// The same tensors without what wrappers added to their names.
    fn unwrapped(mut self) -> Result<Self> {
        let names = self.map.keys().chain(self.absent.keys()).map(String::as_str);
        self.wrapping = Wrapping::of(names.filter(|name| !self.is_ignored(name)));
        let (ignored, stored): (Vec<_>, Vec<_>) = std::mem::take(&mut self.map)
            .into_values()
            .partition(|tensor| self.is_ignored(&tensor.name));
        for tensor in stored {
            let name = self.wrapping.unwrapped(&tensor.name);
            if let Some(other) = self.map.get(&name) {
                let error = err!(
                    "`{}` holds `{}` and `{}`, one name without the wrappers: ignore one of them",
                    self.path.display(),
                    other.name,
                    tensor.name
                );
                let error = error.with_remedy(Setting::IgnoreTensor, &other.name);
                return Err(error.with_remedy(Setting::IgnoreTensor, &tensor.name));
            }
            self.map.insert(name, tensor);
        }
        for tensor in ignored {
            let name = self.wrapping.unwrapped(&tensor.name);
            match self.map.entry(name) {
                Entry::Vacant(place) => drop(place.insert(tensor)),
                Entry::Occupied(_) => self.displaced.push(tensor.name),
            }
        }
        let absent = std::mem::take(&mut self.absent).into_iter();
        self.absent = absent.map(|(name, it)| (self.wrapping.unwrapped(&name), it)).collect();
        self.absent.retain(|name, _| !self.map.contains_key(name));
        Ok(self)
    }

    /// The names of all tensors in files.
    pub fn stored(&self) -> impl Iterator<Item = &str> {
        self.map.values().chain(self.taken.values()).map(|it| &*it.name)
    }

    /// The names in the layout of all tensors in files and index that the user does not ignore.
    pub fn wanted(&self) -> impl Iterator<Item = &str> {
        let stored = self.map.iter().chain(&self.taken).map(|(key, it)| (key, &it.name));
        let all = stored.chain(self.absent.iter().map(|(key, it)| (key, &it.name)));
        all.filter(|(_, name)| !self.is_ignored(name)).map(|(key, _)| &**key)
    }

    /// The numbers of the layers with tensors.
    pub fn layers_there(&self) -> BTreeSet<usize> {
        self.wanted().filter_map(layer).collect()
    }

    /// The number of layers with tensors, if they are numbered without gaps.
    pub fn layers(&self) -> Option<u64> {
        let there = self.layers_there();
        let end = there.last()? + 1;
        (end == there.len()).then_some(end as u64)
    }

    /// The error with the patterns that ignore these stored tensors and no others.
    pub fn ignoring<'n>(&self, error: Error, names: impl IntoIterator<Item = &'n str>) -> Error {
        let ignored: BTreeSet<&str> = names.into_iter().collect();
        let others = self.stored().filter(|name| !ignored.contains(name));
        let patterns = patterns(ignored.iter().copied(), others).into_iter();
        error.with_remedies(patterns.map(|pattern| (Setting::IgnoreTensor, pattern)).collect())
    }

    /// The end of a sentence about missing tensors: a file that may hold them.
    pub fn doubt(&self) -> String {
        let set = NumberedSet::of(self.unindexed.iter().map(String::as_str));
        set.and_then(|set| set.uncertain()).map_or(String::new(), |file| {
            format!("; no index says whether `{file}` belongs to it too")
        })
    }

    /// Number of tensors that were stored.
    pub fn count(&self) -> usize {
        self.map.len() + self.taken.len()
    }

    /// Whether more tensors are missing than files and index have: no list of all is needed.
    pub fn lacks_most(&self) -> bool {
        self.missing.len() > self.count() + self.absent.len()
    }

    /// The stored names of tensors that no layout has taken.
    pub fn left(&self) -> impl Iterator<Item = &String> {
        let absent = self.absent.values().map(|it| &it.name);
        self.map.values().map(|it| &it.name).chain(absent).chain(&self.displaced)
    }

    pub fn is_ignored(&self, stored: &str) -> bool {
        is_ignored(stored, &self.ignored.tensors)
    }

    /// The key of a layout's name: some files lack the prefix `model.`.
    fn key<'n>(&self, name: &'n str) -> &'n str {
        let short = name.strip_prefix("model.").unwrap_or(name);
        if self.has_key(name) { name } else { short }
    }

    fn has_key(&self, key: &str) -> bool {
        let Self { map, absent, taken, .. } = self;
        map.contains_key(key) || absent.contains_key(key) || taken.contains_key(key)
    }

    /// Whether a file or the index has a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.has_key(self.key(name))
    }

    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.map.get(self.key(name))
    }

    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        Some(&self.get(name)?.shape)
    }

    /// Takes a tensor out, or notes that one of this shape is missing.
    pub fn take(&mut self, name: &str, shape: &[u64]) -> Option<StoredTensor> {
        let key = self.key(name);
        let Some(tensor) = self.map.remove(key) else {
            let known = if self.has_key(key) { key } else { name };
            self.missing.push(Missing { name: known.to_owned(), shape: shape.to_owned() });
            return None;
        };
        self.taken.insert(key.to_owned(), tensor.clone());
        Some(tensor)
    }
}

/// The file of some tensors of a folder if they are in one, otherwise the folder.
pub fn place<'t>(folder: &'t Path, mut files: impl Iterator<Item = &'t Path>) -> Option<&'t Path> {
    let first = files.next()?;
    Some(if files.all(|file| file == first) { first } else { folder })
}

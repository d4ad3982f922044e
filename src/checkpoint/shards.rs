//! The tensors of a checkpoint's SafeTensors files, by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::Pattern;

use super::numbered::NumberedSet;
use super::selection::{self, Headers, INDEX, Index, SINGLE_FILE};
use super::suggest::{self, MERGE_ADAPTER};
use crate::container::{Header, StoredTensor};
use crate::error::{Error, Result, Setting, bail, ensure, err};

fn matches(pattern: &str, name: &str) -> bool {
    pattern == name || Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name))
}

/// Whether a tensor is one of the `ignored` names and patterns.
pub fn is_ignored(name: &str, ignored: &[String]) -> bool {
    ignored.iter().any(|pattern| matches(pattern, name))
}

/// Whether a tensor holds the frequencies of the rotary embedding. They follow from the
/// config, and transformers computes them from it whatever is stored; Megatron-Bridge and older
/// versions of transformers save them.
fn is_rotary_buffer(name: &str) -> bool {
    let (module, buffer) = name.rsplit_once('.').unwrap_or_default();
    let module = module.rsplit('.').next().unwrap_or_default();
    module == "rotary_emb" && ["inv_freq", "original_inv_freq"].contains(&buffer)
}

/// Whether a tensor scales queries, keys or values for a cache in FP8, which a cache of floats
/// does not need. Calibration writes them.
fn is_cache_scale(name: &str) -> bool {
    let scales = ["q", "k", "v"].map(|it| [format!("{it}_scale"), format!("{it}_proj.{it}_scale")]);
    let scale = name.rsplit_once(".self_attn.").map(|(_, scale)| scale);
    scale.is_some_and(|scale| scales.as_flattened().iter().any(|it| it == scale))
}

/// Tensors by name. A layout takes them out.
pub struct Tensors {
    /// The folder or file that errors name.
    path: PathBuf,
    map: BTreeMap<String, StoredTensor>,
    /// Tensors that the index names and no shard has, with the shards that should have them.
    absent: BTreeMap<String, String>,
    /// Shards that the index names and that are not there.
    missing: Vec<String>,
    /// The names of files that no index lists.
    unindexed: Vec<String>,
}

impl Tensors {
    fn none(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            map: BTreeMap::new(),
            absent: BTreeMap::new(),
            missing: Vec::new(),
            unindexed: Vec::new(),
        }
    }

    /// Opens the checkpoint of a folder, of which `remote` files are still to be downloaded.
    pub fn open_folder(folder: &Path, remote: &Headers) -> Result<Self> {
        let mut tensors = Self::none(folder);
        let (index, files) = selection::select_local(folder, remote)?;
        if index.is_none() && files.is_empty() {
            return Err(suggest::missing_file(folder, SINGLE_FILE));
        }
        let mut damaged = Vec::new();
        for name in &files {
            let file = folder.join(name);
            if index.is_some() && !file.exists() && !remote.contains_key(&file) {
                tensors.missing.push(name.clone());
            } else {
                damaged.extend(tensors.add(&file, remote, index.as_ref()).err());
            }
        }
        Error::all(damaged)?;
        match index {
            None => tensors.unindexed = files.into_iter().collect(),
            Some(index) => tensors.absent = index,
        }
        tensors.absent.retain(|tensor, _| !tensors.map.contains_key(tensor));
        Ok(tensors)
    }

    /// Refuses missing shards, but for those of which all tensors are `ignored`; the rest can only
    /// be told with a config.
    pub fn require_shards(self, ignored: &[String]) -> Result<Self> {
        let is_wanted = |(tensor, shard): &(&String, &String)| {
            self.missing.contains(shard) && !is_ignored(tensor, ignored)
        };
        let wanted = self.absent.iter().find(is_wanted);
        let missing = wanted.map(|(tensor, _)| Error::new(self.absence(tensor)));
        Error::all(missing)?;
        Ok(self)
    }

    /// Opens one file, and returns the metadata that an export wrote.
    pub fn open_file(path: &Path) -> Result<(Self, Option<String>)> {
        let mut tensors = Self::none(path);
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
            if let Some(other) = self.map.insert(name.clone(), tensor) {
                let (first, second) = (other.data.file.display(), path.display());
                bail!("tensor `{name}` is both in `{first}` and in `{second}`");
            }
        }
        Ok(header.metadata)
    }

    /// The name under which a tensor is stored: some files lack the prefix `model.`.
    fn stored_name<'n>(&self, name: &'n str) -> &'n str {
        let short = name.strip_prefix("model.").unwrap_or(name);
        if self.map.contains_key(name) || self.absent.contains_key(name) { name } else { short }
    }

    /// What is wrong with the index, which names this absent tensor.
    fn absence(&self, tensor: &str) -> String {
        let (index, shard) = (self.path.join(INDEX), &self.absent[tensor]);
        let index = index.display();
        if !self.missing.contains(shard) {
            return format!(
                "`{index}` says that tensor `{tensor}` is in `{shard}`, which does not hold it"
            );
        }
        let shards = suggest::listed(self.missing.iter());
        if self.missing.len() == 1 {
            format!("`{index}` names the shard {shards}, which is missing: add it")
        } else {
            format!("`{index}` names the shards {shards}, which are missing: add them")
        }
    }

    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        Some(&self.get(name)?.shape)
    }

    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.map.get(self.stored_name(name))
    }

    pub fn take(&mut self, name: &str) -> Result<StoredTensor> {
        let stored = self.stored_name(name);
        self.map.remove(stored).ok_or_else(|| {
            let missing = || {
                let set = NumberedSet::of(self.unindexed.iter().map(String::as_str));
                let doubt = set.and_then(|set| set.uncertain()).map_or(String::new(), |file| {
                    format!("; no index says whether `{file}` belongs to it too")
                });
                err!(
                    "`{}` lacks tensor `{name}` of the model that its config describes{doubt}",
                    self.path.display()
                )
            };
            if self.absent.contains_key(stored) {
                return Error::new(self.absence(stored));
            }
            self.adapted().map_or_else(missing, |tensor| self.unmerged(tensor))
        })
    }

    /// A tensor that PEFT renamed because an adapter belongs to it.
    fn adapted(&self) -> Option<&str> {
        self.map.keys().map(String::as_str).find(|name| name.contains(".base_layer."))
    }

    fn unmerged(&self, tensor: &str) -> Error {
        let path = self.path.display();
        err!("`{path}` holds `{tensor}` of a model with an unmerged adapter: {MERGE_ADAPTER}")
    }

    /// The error for tensors without the experts of any layout.
    pub fn unknown_experts(&self) -> Error {
        let path = self.path.display();
        if let Some(tensor) = self.absent.keys().find(|name| name.contains(".experts.")) {
            return Error::new(self.absence(tensor));
        }
        let tensor = self.map.keys().find(|name| name.contains(".experts."));
        if let Some((prefix, _)) = tensor.and_then(|name| name.split_once(".model.layers.")) {
            return err!(
                "tensors in `{path}` have the prefix `{prefix}.` of a wrapper (PEFT, torch.compile or a larger model): save the wrapped model, with adapters merged"
            );
        }
        if let Some(tensor) = self.adapted() {
            return self.unmerged(tensor);
        }
        let found = tensor.map_or_else(String::new, |tensor| format!(", found `{tensor}`"));
        err!("`{path}` holds no experts under the names of a supported layout{found}")
    }

    /// Refuses tensors that the layout has not taken, but for `ignored` names and patterns.
    pub fn refuse_unused(self, layout: &str, ignored: &[String]) -> Result<()> {
        for pattern in ignored {
            ensure!(
                self.map.keys().chain(self.absent.keys()).any(|name| matches(pattern, name)),
                "nothing to ignore: `{}` has no unknown tensor `{pattern}`",
                self.path.display()
            );
        }
        let is_unknown = |name: &str| {
            !is_ignored(name, ignored) && !is_rotary_buffer(name) && !is_cache_scale(name)
        };
        let mut unknown = self.map.values().filter(|it| is_unknown(&it.name));
        let Some(StoredTensor { name, data, .. }) = unknown.next() else {
            let absent = self.absent.keys().map(String::as_str).filter(|name| is_unknown(name));
            return self.refuse_absent(&absent.collect::<Vec<_>>());
        };
        if name.contains("lora_") {
            return Err(self.unmerged(name));
        }
        let more = match unknown.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let file = data.file.display();
        let error = err!(
            "`{file}` holds tensors that are not part of {layout}: `{name}`{more}; ignore what the model does not use, by name or by a pattern with * and ?"
        );
        Err(error.with_remedy(Setting::IgnoreTensor, name))
    }

    /// Refuses tensors of the index that no shard has, and the model does not use.
    fn refuse_absent(&self, names: &[&str]) -> Result<()> {
        let Some(first) = names.first() else { return Ok(()) };
        let error = err!(
            "{}; the model does not use {}: ignore what the index names in vain, by name or by a pattern with * and ?",
            self.absence(first),
            suggest::listed(names.iter())
        );
        Err(error.with_remedy(Setting::IgnoreTensor, suggest::pattern(names)))
    }
}

//! Which SafeTensors files are a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use super::numbered::NumberedSet;
use super::suggest::{self, is_safetensors};
use crate::container::Header;
use crate::error::{Result, ensure, err};
use crate::files::json;

pub const SINGLE_FILE: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read. A 120B with a tensor per expert has 4 MB.
const LARGEST_INDEX: u64 = 8 << 20;

/// Headers of files that are not downloaded yet, by their future paths.
pub type Headers = BTreeMap<PathBuf, Header>;

/// Which SafeTensors files of a folder are the checkpoint.
#[derive(Clone, Debug, Default)]
pub enum ShardSelection {
    /// Those of the index, or without one those of [`unindexed`].
    #[default]
    Auto,
    /// Those of the index, whatever else is there.
    Indexed,
    Only(Vec<String>),
}

/// The shard of each tensor by a folder's index, if it has one.
pub fn read_index(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(INDEX);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let (text, path) = (json::read(&path, LARGEST_INDEX)?, path.display());
    let Index { weight_map } = json::parse(&path, &text)?;
    for shard in weight_map.values() {
        ensure!(
            Path::new(shard).file_name() == Some(shard.as_ref()) && !shard.contains('\\'),
            "`{path}` names the shard {shard:?}, which is not a plain file name"
        );
    }
    Ok(Some(weight_map))
}

/// The names of the shards in a folder's index, if it has one.
pub fn shards(folder: &Path) -> Result<Option<BTreeSet<String>>> {
    Ok(read_index(folder)?.map(|index| index.into_values().collect()))
}

/// Whether an export wrote a file; it is no part of a checkpoint then.
pub fn is_own_file(path: &Path) -> bool {
    Header::read(path).is_ok_and(|header| header.metadata.is_some())
}

/// The files of a checkpoint without an index, of all SafeTensors files at a place by their
/// names: `model.safetensors`, the only file, or all shards of one numbered set. `None` if
/// others are there.
pub fn unindexed<T>(
    place: &str,
    mut files: BTreeMap<String, T>,
) -> Result<Option<Vec<(String, T)>>> {
    if let Some(single) = files.remove_entry(SINGLE_FILE) {
        return Ok(Some(vec![single]));
    }
    match NumberedSet::of(files.keys().map(String::as_str)) {
        Some(set) => set.require_all(place)?,
        None if files.len() > 1 => return Ok(None),
        None => {}
    }
    Ok(Some(files.into_iter().collect()))
}

/// The files of a folder without an index.
pub fn local_files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let usual = folder.join(SINGLE_FILE);
    if usual.is_file() {
        return Ok(vec![(SINGLE_FILE.to_owned(), usual)]);
    }
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let entries = entries.iter().map(|entry| (entry.file_name(), entry.path()));
    let found: BTreeMap<_, _> = entries
        .filter(|(_, path)| is_safetensors(path) && !is_own_file(path))
        .map(|(name, path)| (name.to_string_lossy().into_owned(), path))
        .collect();
    if found.is_empty() {
        return Err(suggest::missing_file(folder, SINGLE_FILE));
    }
    let (place, count) = (folder.display().to_string(), found.len());
    unindexed(&place, found)?.ok_or_else(|| {
        err!(
            "`{place}` holds {count} .safetensors files and no {INDEX} that lists which belong to the checkpoint; move the others away, or download the index"
        )
    })
}

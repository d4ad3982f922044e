//! Which SafeTensors files are the checkpoint: one rule for folders and repositories, by the
//! names of all files in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::instead::refuse_unfinished;
use super::numbered::NumberedSet;
use super::renamed;
use super::suggest::{self, CONFIG, is_safetensors};
use crate::container::Header;
use crate::error::{Error, Result, ensure, err};
use crate::files::foreign::Foreign;
use crate::files::json;

pub const SINGLE_FILE: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read. A 120B with a tensor per expert has 4 MB.
const LARGEST_INDEX: u64 = 8 << 20;

/// Headers of files that are not downloaded yet, by their future paths.
pub type Headers = BTreeMap<PathBuf, Header>;

/// The shard of each tensor.
pub type Index = BTreeMap<String, String>;

/// Reads a folder's index, if it has one.
pub fn read_index(folder: &Path) -> Result<Option<Index>> {
    #[derive(Deserialize)]
    struct IndexFile {
        weight_map: Index,
    }
    let path = folder.join(INDEX);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let (text, path) = (json::read(&path, LARGEST_INDEX)?, path.display());
    let IndexFile { weight_map } = json::parse(&path, &text)?;
    for shard in weight_map.values() {
        ensure!(
            Path::new(shard).file_name() == Some(shard.as_ref()) && !shard.contains('\\'),
            "`{path}` names the shard {shard:?}, which is not a plain file name: put the shards beside the index, and name them there without folders"
        );
    }
    Ok(Some(weight_map))
}

/// The index of a folder, and the files of its checkpoint, of which `remote` ones are still to be
/// downloaded.
pub fn select_local(folder: &Path, remote: &Headers) -> Result<(Option<Index>, BTreeSet<String>)> {
    let index = read_index(folder)?;
    let here = suggest::names(folder);
    let mut there = here.clone();
    let names = remote.keys().filter_map(|path| path.file_name()?.to_str());
    there.extend(names.map(str::to_owned));
    let is_own = |name: &str| Header::is_own(&folder.join(name));
    let files = select(folder.display(), &there, index.as_ref(), is_own)?;
    let read = files.iter().map(String::as_str).chain([CONFIG, INDEX]);
    refuse_unfinished(folder, &here, read)?;
    Ok((index, files))
}

/// The SafeTensors files of a folder that are not those of its checkpoint, nor written by an
/// export.
pub fn unused(folder: &Path, files: &BTreeSet<String>) -> Vec<String> {
    let others = suggest::names(folder).into_iter().filter(|name| !files.contains(name));
    let others = others.filter(|name| is_safetensors(name.as_ref()));
    others.filter(|name| !Header::is_own(&folder.join(name))).collect()
}

/// The files of the checkpoint at a place, of all names that are `there`: those that its index
/// names, which may be missing; without an index `model.safetensors`, the only file, or all shards
/// of one numbered set; none if there is none. Files of which `is_own` says that an export wrote
/// them are no part of a checkpoint.
pub fn select(
    place: impl Display,
    there: &BTreeSet<String>,
    index: Option<&Index>,
    is_own: impl Fn(&str) -> bool,
) -> Result<BTreeSet<String>> {
    suggest::refuse_adapter(&place, there)?;
    let has_single = there.contains(SINGLE_FILE);
    if let Some(index) = index {
        let shards: BTreeSet<String> = index.values().cloned().collect();
        ensure!(
            shards.contains(SINGLE_FILE) || !has_single || is_own(SINGLE_FILE),
            "`{place}` holds both {SINGLE_FILE} and a {INDEX} that names other files, and programs differ in which they read: export a folder with the files of one save alone"
        );
        return Ok(shards);
    }
    if has_single {
        return Ok([SINGLE_FILE.to_owned()].into());
    }
    suggest::refuse_variants(&place, INDEX, there)?;
    let is_shard = |name: &&String| is_safetensors(name.as_ref()) && !is_own(name);
    let found: BTreeSet<String> = there.iter().filter(is_shard).cloned().collect();
    let renamed = renamed::numbered_set(there);
    ensure!(
        renamed.is_empty(),
        "`{place}` holds a set of shards of which some have other names: rename {}",
        suggest::renaming(renamed.iter())
    );
    match NumberedSet::of(found.iter().map(String::as_str)) {
        Some(set) => set.require_all(&place.to_string(), there)?,
        None if found.len() > 1 => return Err(without_index(&place, there, &found)),
        None => {}
    }
    Ok(found)
}

/// The error for several files of which nothing tells whether they are one checkpoint.
fn without_index(place: impl Display, there: &BTreeSet<String>, found: &BTreeSet<String>) -> Error {
    let format = Foreign::of_files(found.iter().map(String::as_str));
    if let Some((name, format)) = format.filter(|(_, it)| it.is_in_parts) {
        return err!("`{place}/{name}` is {format}");
    }
    let near = renamed::near(INDEX, there.iter().map(String::as_str));
    let near = near.map_or(String::new(), |near| format!(" (rename `{near}` if it is that)"));
    err!(
        "`{place}` holds {count} .safetensors files and no {INDEX} that lists which belong to the checkpoint: export a folder with its index{near}, or with those of the checkpoint alone, under the names `model-00001-of-{count:05}.safetensors` to `model-{count:05}-of-{count:05}.safetensors` if there are {count}",
        count = found.len()
    )
}

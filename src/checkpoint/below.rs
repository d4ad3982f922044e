//! What lies below a folder, as far as somebody would look who was given the wrong one.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use super::names::{numbers, without_numbers};

/// Levels of folders that are looked at (`HF_HOME` has `hub/models--owner--name/snapshots/COMMIT`),
/// folders in all of them, and names in each folder.
const LEVELS: usize = 5;
const FOLDERS: usize = 1024;
const NAMES: usize = 1024;

/// A folder, and the names in it that are UTF-8.
pub struct Subfolder {
    pub path: PathBuf,
    pub names: BTreeSet<String>,
    level: usize,
}

/// The folders below one, the nearest first, those in one by names and numbers in them. Links are
/// not followed.
pub fn below(folder: &Path) -> Vec<Subfolder> {
    let mut found: Vec<Subfolder> = Vec::new();
    let mut waiting = VecDeque::from([(folder.to_owned(), 0)]);
    while let Some((path, level)) = waiting.pop_front() {
        let entries = path.read_dir().into_iter().flatten().flatten().take(NAMES);
        let (mut names, mut folders) = (BTreeSet::new(), Vec::new());
        for entry in entries {
            folders.extend(entry.file_type().is_ok_and(|it| it.is_dir()).then(|| entry.path()));
            names.extend(entry.file_name().into_string());
        }
        folders.sort_by_cached_key(|path| order(path));
        let room = FOLDERS.saturating_sub(found.len() + waiting.len());
        let deeper = folders.into_iter().take(if level < LEVELS { room } else { 0 });
        waiting.extend(deeper.map(|path| (path, level + 1)));
        found.push(Subfolder { path, names, level });
    }
    found.split_off(1)
}

/// The nearest folders of a kind, all of one level.
pub fn nearest(folders: &[Subfolder], is_it: impl Fn(&Subfolder) -> bool) -> Vec<&Path> {
    let found: Vec<&Subfolder> = folders.iter().filter(|it| is_it(it)).collect();
    let of_first = |it: &&&Subfolder| it.level == found[0].level;
    found.iter().filter(of_first).map(|it| &*it.path).collect()
}

/// Whether folders are steps of one run of training: their names differ in the number at the end.
pub fn are_steps(folders: &[&Path]) -> bool {
    let stem = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        let stem = name.trim_end_matches(|it: char| it.is_ascii_digit());
        (stem != name).then(|| path.with_file_name(stem))
    };
    folders.iter().all(|it| stem(it).is_some() && stem(it) == stem(folders[0]))
}

/// A key by which `step-9` comes before `step-10`.
fn order(path: &Path) -> (String, Vec<u64>, PathBuf) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbers = numbers(&name).into_iter().map(|it| it.parse().unwrap_or(u64::MAX));
    (without_numbers(&name), numbers.collect(), path.to_owned())
}

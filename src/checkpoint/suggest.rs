//! Paths that are no checkpoint: refusals that name what is there, and what to use instead.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use glob::Pattern;

use super::names::numbers;
use super::similar::{is_slip, most_like};
use crate::container::Header;
use crate::error::{Error, Result, Setting, ensure, err};
use crate::files::foreign::Foreign;
use crate::files::parent_dir;

pub const CONFIG: &str = "config.json";
/// Most names that a sentence lists.
pub const LISTED: usize = 8;
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Prefixes of files that training writes beside a checkpoint.
const TRAINING_STATE: [&str; 5] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];

/// The format of a file of this name, if it is a known one that cannot be read.
pub fn identify(name: &str) -> Option<&'static Foreign> {
    find_format(&[name]).map(|(_, format)| format)
}

/// The first name of a known format, but for what training writes.
fn find_format<'n>(names: &[&'n str]) -> Option<(&'n str, &'static Foreign)> {
    Foreign::of_files(&without_state(names))
}

/// The error for the folder of an adapter with a file in another format than SafeTensors.
pub fn refuse_other_format(adapter: &Path) -> Option<Error> {
    let names = names(adapter);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (name, format, remedy) = Foreign::in_adapter(&without_state(&names))?;
    Some(err!("`{}` is {}: {remedy}", adapter.join(name).display(), format.what))
}

fn without_state<'n>(names: &[&'n str]) -> Vec<&'n str> {
    let is_state = |name: &str| TRAINING_STATE.iter().any(|it| name.to_lowercase().starts_with(it));
    names.iter().copied().filter(|name| !is_state(name)).collect()
}

/// The refusal of a file in a known format.
pub fn refuse_file(path: &Path) -> Option<Error> {
    let format = identify(path.file_name()?.to_str()?)?;
    Some(refusal(path, format))
}

fn refusal(path: &Path, format: &Foreign) -> Error {
    let error = err!("`{}` is {format}", path.display());
    if !format.is_adapter {
        return error;
    }
    let adapter = parent_dir(path).display().to_string();
    error.with_remedies(vec![(Setting::Checkpoint, "BASE".into()), (Setting::Adapter, adapter)])
}

/// Refuses a place where only variants have an index; programs have to be told which.
pub fn refuse_variants(place: impl Display, index: &str, there: &BTreeSet<String>) -> Result<()> {
    let variant = Pattern::new("model.safetensors.index.*.json").expect("a pattern");
    let indices: Vec<_> = there.iter().filter(|it| variant.matches(it)).collect();
    ensure!(
        indices.is_empty(),
        "`{place}` holds no {index}, but one for each saved variant, {}: copy that of the variant to export to `{index}`",
        listed(indices.iter())
    );
    Ok(())
}

/// The names in a folder that are UTF-8, sorted.
pub fn names(folder: &Path) -> BTreeSet<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The folder with the highest number among those that a Trainer of transformers saved.
fn newest_saved<'p>(paths: impl Iterator<Item = &'p Path>) -> Option<&'p Path> {
    let number =
        |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    let saved = paths.filter(|path| number(path).is_some() && path.is_dir());
    saved.max_by_key(|path| number(path))
}

/// What to do about a folder in which others hold what is wanted: use the newest that a Trainer saved,
/// the only one, or one of several; `None` if there are none. The noun has its article.
pub fn use_one(folders: &BTreeSet<PathBuf>, [article, noun]: [&str; 2]) -> Option<String> {
    if let Some(newest) = newest_saved(folders.iter().map(PathBuf::as_path)) {
        return Some(format!("`{}` is the newest {noun} in it: use it", newest.display()));
    }
    let shown = listed(folders.iter().map(|it| it.display()));
    match folders.len() {
        0 => None,
        1 => Some(format!("{shown} in it holds {article} {noun}: use it")),
        _ => Some(format!("several folders in it hold {noun}s, {shown}: choose one")),
    }
}

/// Whether these names at one place are those of an adapter, without the weights of a whole model.
pub fn is_adapter(there: &BTreeSet<String>) -> bool {
    there.contains(ADAPTER_CONFIG) && !has_weights(there)
}

/// Refuses an adapter, which would change the result of a whole model beside it.
pub fn refuse_adapter(place: impl Display, there: &BTreeSet<String>) -> Result<()> {
    if !there.contains(ADAPTER_CONFIG) {
        return Ok(());
    }
    let adapter = Path::new(&place.to_string()).join(ADAPTER_CONFIG);
    let Some(format) = identify(ADAPTER_CONFIG).filter(|_| is_adapter(there)) else {
        let adapter = adapter.display();
        return Err(err!(
            "`{adapter}` is a LoRA adapter beside a whole model, and the model may have it or lack it: move the adapter's files into a folder of their own, and add that if the model lacks it"
        )
        .with_remedy(Setting::Adapter, "FOLDER"));
    };
    Err(refusal(&adapter, format))
}

/// Whether an export wrote a SafeTensors file.
pub fn is_own_file(path: &Path) -> bool {
    Header::read(path).is_ok_and(|header| header.metadata.is_some())
}

/// Whether there are weights of a whole model: SafeTensors files that are not those of an adapter.
fn has_weights(names: &BTreeSet<String>) -> bool {
    names.iter().any(|name| is_safetensors(Path::new(name)) && identify(name).is_none())
}

/// The error for a folder without `file`, which is no checkpoint: where a checkpoint is, what there
/// is instead, or what is to be renamed or added.
pub fn missing_file(folder: &Path, file: &str) -> Error {
    let lacks = format!("`{}` holds no {file}", folder.display());
    let names = names(folder);
    let has_weights = has_weights(&names);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let below = checkpoints_in(folder);
    // The real path, because `.` has no parent in its name.
    let real = folder.canonicalize().ok();
    let above = real.as_deref().and_then(Path::parent).filter(|parent| is_checkpoint(parent));
    let original = folder.join("original");
    if original.join(CONFIG).is_file() {
        let original = original.display();
        return err!(
            "{lacks}; `{original}` holds a checkpoint with the weights as released: use it"
        );
    }
    if let Some((name, format)) = find_format(&names).filter(|_| !has_weights) {
        return refusal(&folder.join(name), format);
    }
    let mut weights_files =
        names.iter().map(|name| folder.join(name)).filter(|it| is_safetensors(it));
    if let Some(own) = weights_files.find(|it| is_own_file(it)) {
        let own = own.display();
        return err!("{lacks}, but weights that an export wrote: give `{own}` in its place");
    }
    // That another SafeTensors file has been passed over has a reason.
    let mut others = names.iter().copied().filter(|it| !is_safetensors(it.as_ref()));
    let is_weights = |name: &str| name.to_lowercase().ends_with(".safetensors");
    let weights = others.clone().find(|it| is_safetensors(file.as_ref()) && is_weights(it));
    if let Some(near) = near(file, &mut others).or(weights) {
        return err!("{lacks}, but `{near}`: rename it to {file} if it is that file");
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    if let Some(newest) = newest_saved(paths.iter().map(PathBuf::as_path)) {
        if let Err(adapter) = refuse_adapter(newest.display(), &self::names(newest)) {
            return adapter;
        }
        return err!("{lacks}; `{}` is the newest checkpoint in it: use it", newest.display());
    }
    if let Some(advice) = use_one(&below, ["a", "checkpoint"]) {
        return err!("{lacks}; {advice}");
    }
    match above {
        Some(above) => err!("{lacks}; `{}` above it holds a checkpoint: use it", above.display()),
        None if names.is_empty() => {
            err!("{lacks}: it is empty; download the checkpoint into it, or choose another folder")
        }
        None if file == CONFIG && has_weights => {
            err!("{lacks}: copy the one that was saved with its weights into it")
        }
        None => err!("{lacks}: add the files that the checkpoint lacks, or choose another folder"),
    }
}

/// The first name of what seems to be a file under a changed name.
pub fn near<'n>(file: &str, mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names.find(|name| is_near(name, file))
}

/// Whether a file seems to be another one under a changed name, as `Config.json`,
/// `config.json.txt` or `config (1).json`.
fn is_near(name: &str, file: &str) -> bool {
    let name = name.to_lowercase();
    let is_copy = || {
        let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
        let suffix = name.strip_prefix(stem).and_then(|it| it.strip_suffix(extension));
        let suffix = suffix.map(|it| it.trim_matches([' ', '.', '-', '_']));
        suffix.is_some_and(|it| it.starts_with('(') || it.starts_with("copy"))
    };
    let added = name.strip_prefix(file).unwrap_or_default();
    [".txt", ".json", ".bak", ".orig", ".1"].contains(&added)
        || is_copy()
        || is_slip(&name, file) && numbers(&name) == numbers(file)
}

/// The checkpoints one level below a folder, or in `snapshots`, as Hugging Face's cache has them.
fn checkpoints_in(folder: &Path) -> BTreeSet<PathBuf> {
    let folders = [folder.to_owned(), folder.join("snapshots")];
    let entries = folders.iter().filter_map(|it| it.read_dir().ok()).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_checkpoint(path)).collect()
}

/// The error for a checkpoint's path that is not a folder.
pub fn not_a_folder(path: &Path) -> Error {
    let shown = path.display();
    if !path.is_file() {
        let similar = did_you_mean(similar_dir(path).as_deref());
        return err!(
            "there is no folder `{shown}`{similar}; a checkpoint is a folder with {CONFIG}, or owner/name of a repository on the hub"
        );
    }
    refuse_file(path).unwrap_or_else(|| {
        err!("`{shown}` is a file{}; a checkpoint is a folder with {CONFIG}", enclosing(path))
    })
}

/// A question whether the folder of a file was meant, if that has a config.
pub fn enclosing(file: &Path) -> String {
    did_you_mean(Some(parent_dir(file)).filter(|folder| folder.join(CONFIG).is_file()))
}

/// Names for a sentence, the first few of many.
pub fn listed(names: impl ExactSizeIterator<Item = impl Display>) -> String {
    several(names.map(|name| format!("`{name}`")))
}

/// Parts of a sentence, the first few of many.
pub fn several(parts: impl ExactSizeIterator<Item = String>) -> String {
    let more = parts.len().saturating_sub(LISTED);
    let shown: Vec<String> = parts.take(LISTED).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(", ") + &more
}

fn did_you_mean(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" (did you mean `{}`?)", path.display()))
}

/// The checkpoint with the most similar name in the same folder, or one whose name is longer or
/// shorter.
pub fn similar_dir(folder: &Path) -> Option<PathBuf> {
    let lower = |path: &Path| Some(path.file_name()?.to_string_lossy().to_lowercase());
    let wanted = lower(folder)?;
    let siblings = parent_dir(folder).read_dir().ok()?.flatten().map(|entry| entry.path());
    let checkpoints = siblings.filter(|path| is_checkpoint(path));
    let named: Vec<_> = checkpoints.filter_map(|path| Some((lower(&path)?, path))).collect();
    let extends = |name: &str| name.starts_with(&wanted) || wanted.starts_with(name);
    let similar = most_like(&wanted, named.iter(), |(name, _)| name);
    similar.or_else(|| named.iter().find(|(name, _)| extends(name))).map(|(_, path)| path.clone())
}

pub fn is_checkpoint(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
        && folder.read_dir().is_ok_and(|all| all.flatten().any(|it| is_safetensors(&it.path())))
}

pub fn is_safetensors(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "safetensors")
}

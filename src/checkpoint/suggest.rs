//! Paths that are no checkpoint: refusals that name what was found, and what to use instead.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use glob::Pattern;

use super::below::{self, Subfolder};
use super::renamed;
use super::similar::most_like;
use crate::display::{listed, several};
use crate::error::{Error, Result, Setting, ensure, err};
use crate::files::foreign::{self, Foreign, ForeignName};
use crate::files::{canonicalize, parent_dir, require_file};

pub const CONFIG: &str = "config.json";
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The file of an adapter's tensors.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// Prefixes of files that training writes beside a checkpoint, and parts of the names of those that say
/// how far its data has been read.
const TRAINING_STATE: [&str; 6] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "data.pt"];
const DATA_STATE: [&str; 2] = ["dataloader", "dataset_state"];

/// The format of a file of this name, if it is a known one that cannot be read.
pub fn identify(name: &str) -> Option<&'static Foreign> {
    find_format([name]).map(|(_, format)| format)
}

/// The first name of a known format, but for what training writes.
pub fn find_format<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<ForeignName<'n>> {
    Foreign::of_files(without_state(names))
}

/// The beginning of a sentence about a folder without `file`.
fn lacks(folder: &Path, file: &str) -> String {
    format!("`{}` holds no {file}", folder.display())
}

/// The error for a folder that `lacks` a file, and has a name like that of the file.
fn misnamed(lacks: &str, near: &str, file: &str) -> Error {
    err!("{lacks}, but `{near}`: rename it to {file} if it is that file")
}

/// The error for the folder of an adapter with a file in another format than SafeTensors. In the
/// folder of a whole model such a file is not the reason.
pub fn refuse_other_format(adapter: &Path) -> Option<Error> {
    let names = Some(names(adapter)).filter(|names| !has_weights(names))?;
    let (name, format, remedy) = Foreign::in_adapter(without_state(all(&names)))?;
    Some(err!("`{}` is {}: {remedy}", adapter.join(name).display(), format.what))
}

fn without_state<'n>(names: impl IntoIterator<Item = &'n str>) -> impl Iterator<Item = &'n str> {
    let is_state = |name: &str| {
        let name = name.to_lowercase();
        let is_of_data = DATA_STATE.iter().any(|it| name.contains(it));
        is_of_data || TRAINING_STATE.iter().any(|it| name.starts_with(it))
    };
    names.into_iter().filter(move |name| !is_state(name))
}

fn all(names: &BTreeSet<String>) -> impl Iterator<Item = &str> + Clone {
    names.iter().map(String::as_str)
}

/// The refusal of a file in a known format, by its name or its first bytes.
pub fn refuse_file(path: &Path) -> Option<Error> {
    let by_name = path.file_name()?.to_str().and_then(identify);
    let format = by_name.or_else(|| Foreign::of_bytes(&foreign::first_bytes(path)))?;
    Some(refusal(path, format))
}

fn refusal(path: &Path, format: &Foreign) -> Error {
    if !format.is_adapter {
        return err!("`{}` is {format}", path.display());
    }
    let folder = parent_dir(path);
    if !folder.join(ADAPTER_CONFIG).exists() {
        return renamed_adapter_file(folder).unwrap_or_else(|| adapter_without_config(path));
    }
    with_adapter(err!("`{}` is {format}", path.display()), folder)
}

/// The error for the weights of an adapter without its config.
pub fn adapter_without_config(weights: &Path) -> Error {
    err!(
        "`{}` is a LoRA adapter without its {ADAPTER_CONFIG}: put the one that was saved with it beside it",
        weights.display()
    )
}

/// The error for a folder without `file`, and with weights of an exported model that are no
/// checkpoint by themselves.
pub fn exported_instead(folder: &Path, file: &str, weights: &Path) -> Error {
    err!(
        "{}, but weights of an exported model, `{}`: give the checkpoint that it was exported from",
        lacks(folder, file),
        weights.display()
    )
}

/// The error for a folder in which a file of an adapter has another name.
pub fn renamed_adapter_file(folder: &Path) -> Option<Error> {
    let names = names(folder);
    let mut missing =
        [ADAPTER_CONFIG, ADAPTER_WEIGHTS].into_iter().filter(|it| !names.contains(*it));
    missing.find_map(|file| {
        let others = all(&names).filter(|it| !it.starts_with("._"));
        Some(misnamed(&lacks(folder, file), renamed::near(file, others)?, file))
    })
}

/// The error for an adapter's folder in which a file of another name has its tensors.
pub fn other_adapter_file(folder: &Path) -> Option<Error> {
    let names = names(folder);
    if !names.contains(ADAPTER_CONFIG) || names.contains(ADAPTER_WEIGHTS) {
        return None;
    }
    let is_other = |name: &&str| is_safetensors(name.as_ref()) && identify(name).is_none();
    let other = renamed::factors(folder, all(&names).filter(is_other))?;
    Some(err!(
        "{}, but `{other}` with factors of LoRA: rename it to {ADAPTER_WEIGHTS}",
        lacks(folder, ADAPTER_WEIGHTS)
    ))
}

/// The error that exporting the base of an adapter with it would help against.
fn with_adapter(error: Error, folder: &Path) -> Error {
    let adapter = (Setting::Adapter, folder.display().to_string());
    error.with_remedies(vec![(Setting::Checkpoint, "BASE".into()), adapter])
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

/// Whether these names at one place are those of an adapter, without the weights of a whole model.
/// Beside its own file an adapter may have other weights, such as those of a value head.
pub fn is_adapter(there: &BTreeSet<String>) -> bool {
    let has_own = || there.contains(ADAPTER_WEIGHTS) && !there.contains(CONFIG);
    there.contains(ADAPTER_CONFIG) && (!has_weights(there) || has_own())
}

/// Refuses an adapter, which would change the result of a whole model beside it.
pub fn refuse_adapter(place: impl Display, there: &BTreeSet<String>) -> Result<()> {
    if !there.contains(ADAPTER_CONFIG) {
        return Ok(());
    }
    let folder = PathBuf::from(place.to_string());
    if let Some(error) = other_adapter_file(&folder) {
        return Err(error);
    }
    let adapter = folder.join(ADAPTER_CONFIG);
    let Some(format) = identify(ADAPTER_CONFIG).filter(|_| is_adapter(there)) else {
        let adapter = adapter.display();
        return Err(err!(
            "`{adapter}` is a LoRA adapter beside a whole model, and the model may have it or lack it: move the adapter's files into a folder of their own, and add that if the model lacks it"
        )
        .with_remedy(Setting::Adapter, "FOLDER"));
    };
    Err(refusal(&adapter, format))
}

/// Whether there are weights of a whole model: SafeTensors files that are not those of an adapter.
fn has_weights(names: &BTreeSet<String>) -> bool {
    names.iter().any(|name| is_safetensors(Path::new(name)) && identify(name).is_none())
}

/// The error for a folder without `file`, which is no checkpoint: where a checkpoint is, what there
/// is instead, or what is to be renamed or added.
pub fn missing_file(folder: &Path, file: &str) -> Error {
    let lacks = lacks(folder, file);
    let names = names(folder);
    let has_weights = has_weights(&names);
    let original = folder.join("original");
    if original.join(CONFIG).is_file() {
        let original = original.display();
        return err!(
            "{lacks}; `{original}` holds a checkpoint with the weights as released: use it"
        );
    }
    let refuse = |(name, format): (&str, _)| refusal(&folder.join(name), format);
    let found = Foreign::instead_of(file, &names)
        .map(refuse)
        .or_else(|| other_adapter_file(folder))
        .or_else(|| renamed_file(folder, file, &names, &lacks))
        .or_else(|| below(folder, &lacks, has_weights))
        .or_else(|| find_format(all(&names)).filter(|_| !has_weights).map(refuse))
        .or_else(|| above(folder, &lacks));
    if let Some(error) = found {
        return error;
    }
    if names.is_empty() {
        err!("{lacks}: it is empty; download the checkpoint into it, or choose another folder")
    } else if file == CONFIG && has_weights {
        err!("{lacks}: copy the one that was saved with its weights into it")
    } else {
        err!("{lacks}: add the files that the checkpoint lacks, or choose another folder")
    }
}

/// The error for a folder without `file`, and with staged weights files.
pub fn staged_instead(folder: &Path, file: &str, files: &[PathBuf]) -> Option<Error> {
    let lacks = lacks(folder, file);
    let (first, others) = files.split_first()?;
    let first = first.display();
    if others.is_empty() {
        let error = err!("{lacks}, but weights that an export wrote: give `{first}` in its place");
        return Some(error.with_remedy(Setting::Weights, first.to_string()));
    }
    let all = listed(files.iter().map(|it| it.display()));
    let error = err!(
        "{lacks}, but several files of weights that exports wrote, {all}: give one of them in its place, such as the first"
    );
    Some(error.with_remedy(Setting::Weights, first.to_string()).with_another_remedy())
}

/// The error for a folder that `lacks` a file and has it under another name.
fn renamed_file(folder: &Path, file: &str, names: &BTreeSet<String>, lacks: &str) -> Option<Error> {
    if file == CONFIG {
        match &renamed::configs(folder, names)[..] {
            [] => {}
            [one] => {
                return Some(err!("{lacks}, but `{one}`, which has its keys: rename it to {file}"));
            }
            several => {
                let several = listed(several.iter());
                return Some(err!(
                    "{lacks}, but several files with its keys, {several}: rename that of these weights to {file}"
                ));
            }
        }
    }
    // That another SafeTensors file has been passed over has a reason.
    let mut others = all(names).filter(|it| !is_safetensors(it.as_ref()));
    let is_weights = |name: &str| name.to_lowercase().ends_with(".safetensors");
    let weights = others.clone().find(|it| is_safetensors(file.as_ref()) && is_weights(it));
    Some(misnamed(lacks, renamed::near(file, &mut others).or(weights)?, file))
}

/// The error for a folder that `lacks` something, if there is something known below it; with
/// weights of its own it lacks no other format.
fn below(folder: &Path, lacks: &str, has_weights: bool) -> Option<Error> {
    let places = below::below(folder);
    let is_adapter = |it: &Subfolder| it.names.contains(ADAPTER_CONFIG);
    let checkpoints = below::nearest(&places, |it| !is_adapter(it) && is_checkpoint(&it.path));
    if let Some(choice) = choice(&checkpoints, "checkpoint") {
        return Some(err!("{lacks}; {choice}"));
    }
    let is_dangling =
        |it: &Subfolder| it.names.contains(CONFIG) && require_file(&it.path.join(CONFIG)).is_err();
    if let [first, ..] = below::nearest(&places, is_dangling)[..] {
        let error = require_file(&first.join(CONFIG)).err()?;
        return Some(err!("{error}, or copy what it links to along with it"));
    }
    let adapters = below::nearest(&places, is_adapter);
    if let [one] = &adapters[..] {
        return refuse_adapter(one.display(), &names(one)).err();
    }
    if let Some(choice) = choice(&adapters, "LoRA adapter") {
        let error = err!("{lacks}; {choice}, and export the checkpoint of its base model with it");
        let of_steps = below::are_steps(&adapters).then(|| adapters.last()).flatten();
        return Some(with_adapter(error, of_steps.unwrap_or(&adapters[0])));
    }
    let format = |it: &Subfolder| {
        let (name, format) = find_format(all(&it.names))?;
        Some((it.path.join(name), format))
    };
    let found = below::nearest(&places, |it| format(it).is_some());
    let place = places.iter().find(|it| Some(&&*it.path) == found.last())?;
    let (path, format) = format(place).filter(|_| !has_weights)?;
    if format.is_adapter {
        return Some(refusal(&path, format));
    }
    Some(err!("{lacks}, and `{}` in it is {format}", path.display()))
}

/// The error for a folder that `lacks` something, if it is in a checkpoint's folder, or beside files
/// that were saved in parts.
fn above(folder: &Path, lacks: &str) -> Option<Error> {
    // The real path, because `.` has no parent in its name.
    let real = canonicalize(folder).ok()?;
    let above = real.parent()?;
    if is_checkpoint(above) {
        return Some(err!("{lacks}; `{}` above it holds a checkpoint: use it", above.display()));
    }
    let names = names(above);
    let (name, format) = find_format(all(&names)).filter(|(_, format)| format.is_in_parts)?;
    Some(err!("{lacks}, and `{}` beside it is {format}", above.join(name).display()))
}

/// The end of a sentence about a folder in which others are what was meant: which to use.
pub fn choice(folders: &[&Path], what: &str) -> Option<String> {
    let (last, others) = folders.split_last()?;
    if others.is_empty() {
        return Some(format!("`{}` in it holds a {what}: use it", last.display()));
    }
    let several = listed(folders.iter().map(|it| it.display()));
    let last = if below::are_steps(folders) {
        format!(", such as the last, `{}`", last.display())
    } else {
        String::new()
    };
    Some(format!("several folders in it hold {what}s, {several}: choose one{last}"))
}

/// The end of a sentence about a path that may be meant for a folder of a repository: how to write it.
pub fn folder_on_hub(path: &Path) -> String {
    let parts: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    match parts.as_deref() {
        Some([owner, name, folder @ ..])
            if !folder.is_empty() && !Path::new(owner).exists() && !name.contains('@') =>
        {
            format!("; a folder of one is hf:{owner}/{name}/{}", folder.join("/"))
        }
        _ => String::new(),
    }
}

/// The error for a checkpoint's path that is not a folder.
pub fn not_a_folder(path: &Path) -> Error {
    let shown = path.display();
    if !path.is_file() {
        if path.starts_with("~") {
            return err!(
                "there is no folder `{shown}`: the shell has not replaced `~`; write the whole path"
            );
        }
        let similar = did_you_mean(path);
        return err!(
            "there is no folder `{shown}`{similar}; a checkpoint is a folder with {CONFIG}, or owner/name of a repository on the hub{}",
            folder_on_hub(path)
        );
    }
    refuse_file(path).unwrap_or_else(|| {
        err!("`{shown}` is a file{}; a checkpoint is a folder with {CONFIG}", enclosing(path))
    })
}

/// A question whether the folder of a file was meant, if that has a config.
pub fn enclosing(file: &Path) -> String {
    question(Some(parent_dir(file)).filter(|folder| folder.join(CONFIG).is_file()))
}

/// What to rename to what.
pub fn renaming<'n>(names: impl ExactSizeIterator<Item = &'n (String, String)>) -> String {
    several(names.map(|(from, to)| format!("`{from}` to `{to}`")))
}

/// A question whether a checkpoint with a similar name was meant.
pub fn did_you_mean(folder: &Path) -> String {
    question(similar_dir(folder).as_deref())
}

fn question(path: Option<&Path>) -> String {
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

/// By its name; those that macOS puts beside files (`._model.safetensors`) hold attributes of them.
pub fn is_safetensors(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    !name.starts_with(b"._") && file.extension().is_some_and(|it| it == "safetensors")
}

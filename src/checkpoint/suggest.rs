//! Paths that are no checkpoint: refusals that name what is there, and what to use instead.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use glob::Pattern;

use super::names::is_slip;
use crate::error::{Error, Result, Setting, ensure, err};
use crate::files::parent_dir;

pub const CONFIG: &str = "config.json";
/// Jaro-Winkler similarity from which a name is suggested.
const SIMILAR: f64 = 0.85;
/// Most names that a sentence lists.
pub const LISTED: usize = 8;
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Prefixes of files that training writes beside a checkpoint.
const TRAINING_STATE: [&str; 5] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];

pub const MERGE_ADAPTER: &str = "merge it into its base model (merge_and_unload of PEFT, then save_pretrained) and export the result";
const ADD_ADAPTER: &str = "export the checkpoint of its base model with it";
pub const USE_SOURCE: &str = "use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b";
const SAVE_AGAIN: &str =
    "load it in transformers and save it as SafeTensors (save_pretrained does)";

/// Names of files and folders in lower case, the format that they have, and what to do. The
/// first of these formats counts; of names joined by `+` all have to be there.
const FORMATS: [(&str, &str, &str); 13] = [
    ("adapter_config.json adapter_model.*", "a LoRA adapter", ADD_ADAPTER),
    ("*.gguf", "GGUF, llama.cpp's format", USE_SOURCE),
    (
        "model.bin",
        "OpenAI's format for Metal",
        "use the same model in SafeTensors, in the folder `original` or the root of the repository",
    ),
    (
        "zero_to_fp32.py global_step* *zero_pp_rank_*_states.pt mp_rank_*_states.pt",
        "DeepSpeed's format, in parts as each process saved them",
        "join them with its zero_to_fp32.py (option safe_serialization), add config.json and export the result",
    ),
    (
        "*.nemo context+weights *.distcp+common.pt",
        "NeMo's or Megatron's format",
        "convert it to Hugging Face's (llm.export_ckpt of NeMo and AutoBridge of Megatron-Bridge do) and export the result",
    ),
    (
        "*.distcp pytorch_model_fsdp_*",
        "PyTorch's format of distributed checkpoints (DCP), in parts as each process saved them",
        "run `accelerate merge-weights FOLDER OUTPUT` on the folder of the .distcp files, add config.json and export the result",
    ),
    (
        "consolidated*.pth",
        "PyTorch's format, which can run code when it is read, with names that are not Hugging Face's",
        "convert it to Hugging Face's names and SafeTensors with the program that wrote it",
    ),
    ("*.bin.index.json", "an index of files in PyTorch's format", SAVE_AGAIN),
    ("*.bin *.pt *.pth *.ckpt", "PyTorch's format, which can run code when it is read", SAVE_AGAIN),
    (
        "*.incomplete *.part *.partial *.crdownload *.aria2 *.download",
        "an unfinished download",
        "finish it or download again",
    ),
    (
        "*.tar *.tar.* *.tgz *.tbz2 *.txz *.zip *.7z *.rar",
        "an archive",
        "unpack it and export the folder that was in it",
    ),
    ("params.json", "a config in Meta's or Mistral's format", USE_SOURCE),
    ("*.onnx *.onnx_data *.onnx.data", "an ONNX model and no checkpoint", USE_SOURCE),
];

/// The format of a file of this name, if it is a known one that cannot be read, and what to
/// use instead.
pub fn identify(name: &str) -> Option<String> {
    find_format(&[name]).map(|(_, what, remedy)| format!("{what}: {remedy}"))
}

/// The format of a file of this name, if it is a known one that cannot be read.
pub fn format_of(name: &str) -> Option<&'static str> {
    find_format(&[name]).map(|(_, what, _)| what)
}

/// The first name that has a format of [`FORMATS`], what it is, and what to do.
fn find_format<'n>(names: &[&'n str]) -> Option<(&'n str, &'static str, &'static str)> {
    let find = |pattern: &str| {
        let pattern = Pattern::new(pattern).expect("a pattern of a table");
        let matches = |name: &str| pattern.matches(&name.to_lowercase());
        names.iter().find(|name| matches(name) && !is_training_state(name)).copied()
    };
    FORMATS.into_iter().find_map(|(patterns, what, remedy)| {
        let all = |joined: &str| joined.split('+').map(find).collect::<Option<Vec<_>>>();
        let found = patterns.split(' ').find_map(all)?;
        Some((found[0], what, remedy))
    })
}

fn is_training_state(name: &str) -> bool {
    TRAINING_STATE.iter().any(|prefix| name.to_lowercase().starts_with(prefix))
}

/// The refusal of a file in a known format.
pub fn refuse_file(path: &Path) -> Option<Error> {
    let (_, what, remedy) = find_format(&[path.file_name()?.to_str()?])?;
    Some(refusal(path, what, remedy))
}

fn refusal(path: &Path, what: &str, remedy: &str) -> Error {
    let error = err!("`{}` is {what}: {remedy}", path.display());
    if remedy != ADD_ADAPTER {
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

/// The folder with the highest number that a Trainer of transformers saved in its output folder.
fn newest_saved<'n>(folder: &Path, names: &[&'n str]) -> Option<&'n str> {
    let number = |name: &str| name.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    let saved = names.iter().filter(|name| number(name).is_some() && folder.join(name).is_dir());
    saved.max_by_key(|name| number(name)).copied()
}

/// Refuses an adapter beside a whole model, whose result it would change.
pub fn refuse_adapter(place: impl Display, there: &BTreeSet<String>) -> Result<()> {
    if !there.contains(ADAPTER_CONFIG) {
        return Ok(());
    }
    let error = err!(
        "`{place}/{ADAPTER_CONFIG}` is a LoRA adapter beside a whole model, and the model may have it or lack it: move the adapter's files into a folder of their own, and add that if the model lacks it"
    );
    Err(error.with_remedy(Setting::Adapter, "FOLDER"))
}

/// The error for a folder without `file`, which is no checkpoint: what is to be renamed, where a
/// checkpoint is, or what there is instead.
pub fn missing_file(folder: &Path, file: &str) -> Error {
    let lacks = format!("`{}` holds no {file}", folder.display());
    let names = names(folder);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some(near) = names.iter().find(|name| is_near(name, file)) {
        return err!("{lacks}, but `{near}`: rename it to {file} if it is that file");
    }
    let original = folder.join("original");
    if original.join(CONFIG).is_file() {
        let original = original.display();
        return err!("{lacks}; `{original}` holds a checkpoint with the weights as released");
    }
    if let Some((name, what, remedy)) = find_format(&names) {
        return refusal(&folder.join(name), what, remedy);
    }
    if let Some(newest) = newest_saved(folder, &names) {
        let newest = folder.join(newest);
        return err!("{lacks}; `{}` is the newest checkpoint in it", newest.display());
    }
    match &checkpoints_in(folder)[..] {
        [] => {}
        [one] => return err!("{lacks}; `{}` in it holds a checkpoint", one.display()),
        several => {
            let several = listed(several.iter().map(|it| it.display()));
            return err!("{lacks}; several folders in it hold checkpoints, {several}: choose one");
        }
    }
    // The real path, because `.` has no parent in its name.
    let real = folder.canonicalize().ok();
    match real.as_deref().and_then(Path::parent).filter(|parent| is_checkpoint(parent)) {
        Some(parent) => err!("{lacks}; `{}` above it holds a checkpoint", parent.display()),
        None if folder.read_dir().is_ok_and(|mut entries| entries.next().is_none()) => {
            err!("{lacks}: it is empty")
        }
        None => err!("{lacks}"),
    }
}

/// Whether a file seems to be another one under a changed name, as `Config.json` or
/// `config.json.txt`.
fn is_near(name: &str, file: &str) -> bool {
    // That another file has been passed over has a reason.
    if is_safetensors(name.as_ref()) {
        return false;
    }
    let name = name.to_lowercase();
    let is_copy = || {
        let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
        let suffix = name.strip_prefix(stem).and_then(|it| it.strip_suffix(extension));
        suffix.is_some_and(|it| it.trim_end_matches('.').trim().starts_with('('))
    };
    let added = name.strip_prefix(file).unwrap_or_default();
    [".txt", ".json", ".bak", ".orig", ".1"].contains(&added)
        || is_copy()
        || is_safetensors(file.as_ref()) && name.ends_with(".safetensors")
        || is_slip(&name, file)
}

/// The checkpoints one level below a folder, or in `snapshots`, as Hugging Face's cache has them.
fn checkpoints_in(folder: &Path) -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| is_checkpoint(path)).collect()
    };
    let mut found: Vec<PathBuf> = [below(folder), below(&folder.join("snapshots"))].concat();
    found.sort();
    found
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
    let more = names.len().saturating_sub(LISTED);
    let shown: Vec<_> = names.take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(", ") + &more
}

fn did_you_mean(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" (did you mean `{}`?)", path.display()))
}

/// The checkpoint with the most similar name in the same folder.
pub fn similar_dir(folder: &Path) -> Option<PathBuf> {
    let wanted = folder.file_name()?.to_string_lossy().to_lowercase();
    let siblings = parent_dir(folder).read_dir().ok()?.flatten().map(|entry| entry.path());
    let similar = siblings.filter(|path| is_checkpoint(path)).filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let similarity = strsim::jaro_winkler(&name, &wanted);
        (similarity > SIMILAR).then_some((similarity, path))
    });
    similar.max_by(|one, two| one.0.total_cmp(&two.0)).map(|(_, path)| path)
}

pub fn is_checkpoint(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
        && folder.read_dir().is_ok_and(|all| all.flatten().any(|it| is_safetensors(&it.path())))
}

pub fn is_safetensors(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "safetensors")
}

//! Paths that are no checkpoint: refusals that name what is there, and what to use instead.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use glob::Pattern;

use crate::error::{Error, Result, ensure, err};
use crate::files::parent_dir;

pub const CONFIG: &str = "config.json";
/// Jaro-Winkler similarity from which a name is suggested, as in clap.
const SIMILAR: f64 = 0.7;
/// Most names that a sentence lists.
const LISTED: usize = 8;
const ADAPTER_CONFIG: &str = "adapter_config.json";
const PYTORCH: [&str; 4] = [".bin", ".pt", ".pth", ".ckpt"];
/// Prefixes of files that training writes beside a checkpoint.
const TRAINING_STATE: [&str; 5] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];

pub const MERGE_ADAPTER: &str = "merge it into its base model (merge_and_unload of PEFT, then save_pretrained) and export the result";
pub const USE_SOURCE: &str = "use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b";

/// The format of a file of this name, if it is a known one that cannot be read, and what to
/// use instead.
pub fn identify(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    if name == ADAPTER_CONFIG || name.starts_with("adapter_model.") {
        Some(format!("a LoRA adapter: {MERGE_ADAPTER}"))
    } else if name.ends_with(".gguf") {
        Some(format!("GGUF, llama.cpp's format: {USE_SOURCE}"))
    } else if name == "model.bin" {
        Some("OpenAI's format for Metal: use the same model in SafeTensors, in the folder `original` or the root of the repository".to_owned())
    } else if PYTORCH.iter().any(|extension| name.ends_with(extension))
        && !TRAINING_STATE.iter().any(|prefix| name.starts_with(prefix))
    {
        Some("PyTorch's format, which can run code when it is read: load it in transformers and save it as SafeTensors (save_pretrained does)".to_owned())
    } else {
        None
    }
}

/// The refusal of a file in a known format.
pub fn refuse_file(path: &Path) -> Option<Error> {
    let identified = identify(path.file_name()?.to_str()?)?;
    Some(err!("`{}` is {identified}", path.display()))
}

/// Refuses an adapter beside a whole model, whose result it would change.
pub fn refuse_adapter(folder: &Path) -> Result<()> {
    let path = folder.join(ADAPTER_CONFIG);
    ensure!(
        !path.exists(),
        "`{}` is a LoRA adapter beside a whole model: {MERGE_ADAPTER}, or move it away if this model is the result",
        path.display()
    );
    Ok(())
}

/// The error for a folder without `file`, which is no checkpoint.
pub fn missing_file(folder: &Path, file: &str) -> Error {
    let lacks = format!("`{}` holds no {file}", folder.display());
    let original = folder.join("original");
    if original.join(CONFIG).is_file() {
        let original = original.display();
        return err!("{lacks}; `{original}` holds a checkpoint with the weights as released");
    }
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let files: BTreeSet<PathBuf> = entries.map(|entry| entry.path()).collect();
    if let Some(error) = files.iter().find_map(|file| refuse_file(file)) {
        return error;
    }
    // The real path, because `.` has no parent in its name.
    let real = folder.canonicalize().ok();
    match real.as_deref().and_then(Path::parent).filter(|parent| is_checkpoint(parent)) {
        Some(parent) => err!("{lacks}; `{}` above it holds a checkpoint", parent.display()),
        None => err!("{lacks}"),
    }
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
        let folder = Some(parent_dir(path)).filter(|folder| is_checkpoint(folder));
        err!("`{shown}` is a file{}; a checkpoint is a folder with {CONFIG}", did_you_mean(folder))
    })
}

/// Names for a sentence, the first few of many.
pub fn listed(names: impl ExactSizeIterator<Item = impl Display>) -> String {
    let more = names.len().saturating_sub(LISTED);
    let shown: Vec<_> = names.take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(", ") + &more
}

/// The name, or a pattern that fits all names if they begin with the same modules, else the
/// first.
pub fn pattern(names: &[&str]) -> String {
    let [first, others @ ..] = names else { unreachable!("something is unknown") };
    let prefixes = first.rmatch_indices('.').map(|(at, _)| &first[..=at]);
    let mut shared = prefixes.filter(|it| others.iter().all(|name| name.starts_with(it)));
    match shared.next() {
        Some(prefix) if !others.is_empty() => Pattern::escape(prefix) + "*",
        _ => (*first).to_owned(),
    }
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

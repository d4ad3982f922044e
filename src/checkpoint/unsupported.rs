//! Files of other formats: named in errors, with what to use instead.

use std::path::Path;

use crate::error::{Error, err};

/// A format that cannot be read.
struct ForeignFormat {
    /// Whether a lowercase file name has this format.
    matches: fn(&str) -> bool,
    name: &'static str,
    advice: &'static str,
}

/// In order of precedence.
const FORMATS: [ForeignFormat; 4] = [
    ForeignFormat {
        matches: |name| name == ADAPTER_CONFIG || name.starts_with("adapter_model."),
        name: "a LoRA adapter",
        advice: MERGE_ADAPTER,
    },
    ForeignFormat {
        matches: |name| name.ends_with(".gguf"),
        name: "GGUF, llama.cpp's format",
        advice: USE_SOURCE,
    },
    ForeignFormat {
        // Before PyTorch, which has the same extension.
        matches: |name| name == "model.bin",
        name: "OpenAI's format for Metal",
        advice: "use the same model in SafeTensors, in the folder `original` or the root of the repository",
    },
    ForeignFormat {
        matches: |name| {
            [".bin", ".pt", ".pth", ".ckpt"].iter().any(|extension| name.ends_with(extension))
                && !TRAINING_STATE.iter().any(|prefix| name.starts_with(prefix))
        },
        name: "PyTorch's format, which can run code when it is read",
        advice: "load it in transformers and save it as SafeTensors (save_pretrained does)",
    },
];

const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Prefixes of files that training writes beside a checkpoint.
const TRAINING_STATE: [&str; 5] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];

pub const MERGE_ADAPTER: &str = "merge it into its base model (merge_and_unload of PEFT, then save_pretrained) and export the result";
pub const USE_SOURCE: &str = "use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b";

/// The first name of a known format, in order of precedence.
fn find<'n>(names: &[&'n str]) -> Option<(&'n str, &'static ForeignFormat)> {
    FORMATS.iter().find_map(|format| {
        let name = names.iter().find(|name| (format.matches)(&name.to_lowercase()))?;
        Some((*name, format))
    })
}

/// The format of the files of these names, if it is known, and what to use instead.
pub fn identify(names: &[&str]) -> Option<String> {
    find(names).map(|(_, format)| format!("{}: {}", format.name, format.advice))
}

/// The refusal of a file whose format is known.
pub fn refuse_file(path: &Path) -> Option<Error> {
    let identified = identify(&[path.file_name()?.to_str()?])?;
    Some(err!("`{}` is {identified}", path.display()))
}

/// The refusal of a folder with a file whose format is known.
pub fn refuse_folder(folder: &Path) -> Option<Error> {
    let entries = folder.read_dir().ok()?.flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let (name, _) = find(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    refuse_file(&folder.join(name))
}

/// The refusal of an adapter beside a whole model, whose result it would change.
pub fn refuse_adapter(folder: &Path) -> Option<Error> {
    let path = folder.join(ADAPTER_CONFIG);
    path.exists().then(|| {
        err!(
            "`{}` is a LoRA adapter beside a whole model: {MERGE_ADAPTER}, or move it away if this model is the result",
            path.display()
        )
    })
}

//! What people have besides SafeTensors checkpoints: named, with what to use
//! instead. Guessing at a format is the worst that can be done.

use std::path::Path;

use super::Error;

/// A kind of file that is no checkpoint here.
struct Kind {
    /// Whether a file's name, in lower case, is of this kind.
    is: fn(&str) -> bool,
    what: &'static str,
    instead: &'static str,
}

/// In the order in which a folder is asked for them.
const KINDS: [Kind; 4] = [
    Kind {
        is: |name| name == "adapter_config.json" || name.starts_with("adapter_model."),
        what: "a LoRA adapter",
        instead: "merge it into its base model (peft's merge_and_unload, then save_pretrained) and export the result",
    },
    Kind { is: |name| name.ends_with(".gguf"), what: "GGUF, llama.cpp's format", instead: SOURCE },
    Kind {
        // Before PyTorch's, whose files have the same ending.
        is: |name| name == "model.bin",
        what: "OpenAI's format for Metal",
        instead: "use `original` beside its folder, or the root of the repository, which hold the same model in SafeTensors",
    },
    Kind {
        is: |name| {
            [".bin", ".pt", ".pth", ".ckpt"].iter().any(|ending| name.ends_with(ending))
                && !TRAINING.iter().any(|beginning| name.starts_with(beginning))
        },
        what: "PyTorch's format, which can run code when it is read",
        instead: "load it in transformers and save it as SafeTensors (save_pretrained does)",
    },
];

/// How names of files begin that training leaves behind, in PyTorch's format too.
const TRAINING: [&str; 5] = ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];

const SOURCE: &str = "use the SafeTensors checkpoint that it was made from, as openai/gpt-oss-20b or openai/gpt-oss-120b";

/// What a file is, if it is known and no SafeTensors.
pub fn file(path: &Path) -> Option<Error> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let kind = KINDS.iter().find(|kind| (kind.is)(&name))?;
    Some(Error::Foreign { path: path.to_owned(), what: kind.what, instead: kind.instead })
}

/// What these names of files, of which none is a checkpoint's, say that they are,
/// and what to use instead.
pub fn among<'n>(names: impl Iterator<Item = &'n str>) -> Option<(&'static str, &'static str)> {
    let names: Vec<String> = names.map(str::to_lowercase).collect();
    let fits = |kind: &&Kind| names.iter().any(|name| (kind.is)(name));
    KINDS.iter().find(fits).map(|kind| (kind.what, kind.instead))
}

/// What a folder without a checkpoint holds in its place.
pub fn folder(folder: &Path) -> Option<Error> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let first = |kind: &Kind| {
        let fits = |path: &&std::path::PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| (kind.is)(&name.to_lowercase()))
        };
        paths.iter().find(fits).and_then(|path| file(path))
    };
    KINDS.iter().find_map(first)
}

/// An adapter beside a whole model, which would change what it computes.
pub fn adapter(folder: &Path) -> Option<Error> {
    let path = folder.join("adapter_config.json");
    path.exists().then_some(Error::Adapter { path })
}

/// Names of quantisation methods in configs, and what people call them.
const METHODS: [(&str, &str); 13] = [
    ("auto-round", "AutoRound"),
    ("awq", "AWQ"),
    ("bitsandbytes", "bitsandbytes"),
    ("bitnet", "BitNet"),
    ("compressed-tensors", "compressed-tensors (llm-compressor)"),
    ("fbgemm_fp8", "FP8 by FBGEMM"),
    ("fp8", "FP8"),
    ("gptq", "GPTQ"),
    ("hqq", "HQQ"),
    ("mlx", "MLX"),
    ("modelopt", "NVIDIA's ModelOpt (NVFP4 or FP8)"),
    ("quark", "AMD's Quark"),
    ("torchao", "torchao"),
];

/// That weights are quantised by a method other than MXFP4 as released.
pub fn quantised(file: &str, method: &str) -> Error {
    let known = METHODS.iter().find(|(name, _)| *name == method);
    let method = known.map_or_else(|| format!("{method:?}"), |(_, name)| (*name).to_owned());
    Error::Quantised { file: file.to_owned(), method, instead: SOURCE }
}

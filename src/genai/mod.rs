//! The folder that onnxruntime-genai opens: the model, a `genai_config.json`
//! that describes it, and the tokenizer's files.

mod config;
mod generation;
mod tokenizer;

use std::path::PathBuf;

pub use config::{Setup, genai_config};
pub use generation::{FILE as GENERATION_FILE, Generation};
pub use tokenizer::{Tokenizer, find, sources};

/// The name that onnxruntime-genai looks for.
pub const CONFIG_FILE: &str = "genai_config.json";

/// Why there is no such folder.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("`{}` is not valid JSON: {reason}", path.display())]
    Json { path: PathBuf, reason: String },
    #[error("`{}`: key `{key}` must be {expected}, found {found}", path.display())]
    Key { path: PathBuf, key: &'static str, expected: &'static str, found: String },
    #[error(
        "which tokens begin, end and pad a text is unknown: there is no generation_config.json beside the weights, and a vocabulary of {vocab} lacks the {token} of the released models; put that file there"
    )]
    NoTokens { vocab: u64, token: u64 },
    #[error("--max-length {asked} is more than the model's context of {context} tokens")]
    TooLong { asked: u64, context: u64 },
    #[error(
        "`{}` exists and differs from `{}`, and a model there may be using it: write into another folder, or move it away",
        there.display(),
        source_file.display()
    )]
    Differs { there: PathBuf, source_file: PathBuf },
}

/// The result of describing a folder.
pub type Result<T> = std::result::Result<T, Error>;

//! What onnxruntime-genai reads beside a model and its tokenizer: a `genai_config.json`
//! that describes it.

mod config;
mod generation;

use std::path::PathBuf;

pub use config::{Setup, bytes_per_token, described_model, genai_config};
pub use generation::Generation;

/// The name that onnxruntime-genai looks for.
pub const CONFIG_FILE: &str = "genai_config.json";

/// Why there is no such folder.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    File(#[from] crate::error::Error),
    #[error("`{}` is not a JSON object: {reason}", path.display())]
    Json { path: PathBuf, reason: String },
    #[error("`{}`: key `{key}` must be {expected}, found {found}", path.display())]
    Key { path: PathBuf, key: &'static str, expected: &'static str, found: String },
    #[error(
        "--genai needs to know which tokens begin and end a text: the released models' {key}, {token}, is beyond a vocabulary of {vocab}; {} eos_token_id, bos_token_id and pad_token_id",
        file.as_ref().map_or_else(
            || "put a generation_config.json beside the weights, with".to_owned(),
            |file| format!("add to `{}`", file.display())
        )
    )]
    NoToken { file: Option<PathBuf>, key: &'static str, vocab: u64, token: u64 },
    #[error(
        "`{}` describes another model, {model}, and onnxruntime-genai opens one a folder: write into another folder, or move it away",
        path.display()
    )]
    AnotherModel { path: PathBuf, model: String },
    #[error("--max-length {asked} is more than the model's context of {context} tokens")]
    TooLong { asked: u64, context: u64 },
}

/// The result of describing a folder.
pub type Result<T> = std::result::Result<T, Error>;

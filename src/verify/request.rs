//! What to verify.

use std::path::PathBuf;

use crate::adapter::{AdapterSource, FactorOrder};
use crate::checkpoint::IgnoredNames;

/// The requested tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct InputOptions {
    /// Tokens of the longest row; past the sliding window if `None`.
    pub tokens: Option<usize>,
    /// Number of rows; 3 if `None` and the model takes a mask, otherwise 1.
    pub batch: Option<usize>,
    /// Decode steps of one token, after the prompt; depends on the model if `None`.
    pub decode: Option<usize>,
    /// Seed of the random tokens.
    pub seed: u64,
}

/// A text to predict.
#[derive(Clone, Debug)]
pub struct TextSource {
    /// UTF-8; as `.jsonl` an object of JSON in each line.
    pub file: PathBuf,
    /// The field with the text of a line; `text` by default.
    pub field: Option<String>,
    /// The folder with the tokenizer; that of the checkpoint if `None`.
    pub tokenizer: Option<PathBuf>,
}

/// A model to verify, and how.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct VerifyRequest {
    /// The ONNX file, or stages of the model; one stands for all that lie beside it. Patterns too.
    pub models: Vec<PathBuf>,
    /// The folder of the checkpoint that it was made from, or a staged file.
    pub checkpoint: PathBuf,
    /// The adapters that it was exported with, in any order.
    pub adapters: Vec<AdapterSource>,
    /// How adapters store the factors of experts, where their files do not tell.
    pub adapter_layout: Option<FactorOrder>,
    pub ignored: IgnoredNames,
    /// Random tokens, or the windows of a text, of which `inputs` says the length alone.
    pub inputs: InputOptions,
    pub text: Option<TextSource>,
    /// The largest absolute difference of logits; the default of the model if `None`.
    pub tolerance: Option<f64>,
    /// onnxruntime's library or its folder; searched for if `None`.
    pub onnxruntime: Option<PathBuf>,
    /// Compare the residual stream after each layer too.
    pub trace: bool,
}

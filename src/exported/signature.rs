//! The inputs and outputs of a model that continues texts.

use super::file::{ModelFile, unexpected};
use crate::error::{Result, bail, ensure, err};
use crate::onnx::{OnnxFile, ValueInfo};
use crate::tensor::DType;

/// What the inputs and outputs of a model allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Rows of a batch, if fixed.
    pub batch: Option<usize>,
    /// Tokens of a row in a step, if fixed.
    pub length: Option<usize>,
    /// Has a cache: a step continues the earlier ones.
    pub cache: bool,
    /// Takes a mask: padding may be on either side of the tokens.
    pub mask: bool,
    /// Gives the logits of each row's last token alone.
    pub last: bool,
    /// Number of logits of a token.
    pub vocab: u64,
}

/// The keys or values of a layer.
pub struct Cache {
    pub past: String,
    pub present: String,
    pub layer: usize,
    pub heads: usize,
    pub width: usize,
    /// F32 or F16.
    pub dtype: DType,
}

pub const INPUT_IDS: &str = "input_ids";
pub const ATTENTION_MASK: &str = "attention_mask";
pub const LOGITS: &str = "logits";
/// Begins the name of the residual stream that a stage gives to the next one.
const HIDDEN_STATES: &str = "hidden_states.";
const PAST: &str = "past_key_values";

impl Signature {
    /// Of the files of a model, with its caches layer by layer. Refuses a model that is not like ours.
    pub fn of(files: &[ModelFile]) -> Result<(Self, Vec<Cache>)> {
        let (mut caches, mut given) = (Vec::new(), None);
        for file in files {
            let found =
                caches_of(&file.onnx, given).map_err(|what| unexpected(&file.path, what))?;
            caches.extend(found);
            given = file.onnx.outputs.iter().find(|it| is_hidden_states(it));
        }
        let (first, last) = (&files[0], &files[files.len() - 1]);
        let inputs = Self::of_inputs(&first.onnx, !caches.is_empty());
        let signature = inputs.map_err(|what| unexpected(&first.path, what))?;
        let signature =
            signature.with_logits(&last.onnx).map_err(|what| unexpected(&last.path, what))?;
        Ok((signature, caches))
    }

    fn of_inputs(first: &OnnxFile, cache: bool) -> Result<Self> {
        let input = |name: &str| first.inputs.iter().find(|input| input.name == name);
        let ids = input(INPUT_IDS).ok_or_else(|| err!("no input `{INPUT_IDS}`"))?;
        let [batch, length] = [size(ids, 0), size(ids, 1)];
        ensure!(batch != Some(0) && length != Some(0), "an input `{INPUT_IDS}` without tokens");
        let mask = input(ATTENTION_MASK).is_some();
        ensure!(mask || !cache, "a cache and no input `{ATTENTION_MASK}`");
        Ok(Self { batch, length, cache, mask, last: false, vocab: 0 })
    }

    fn with_logits(self, last: &OnnxFile) -> Result<Self> {
        let logits = last.outputs.iter().find(|it| it.name == LOGITS && is_of(it, DType::F32, 3));
        let logits =
            logits.ok_or_else(|| err!("no output `{LOGITS}` f32 [rows, tokens, vocab]"))?;
        let vocab = size(logits, 2).filter(|it| *it > 0);
        let vocab = vocab.ok_or_else(|| err!("logits of unknown number"))? as u64;
        let last = size(logits, 1) == Some(1) && self.length != Some(1);
        Ok(Self { last, vocab, ..self })
    }

    /// Tokens of the longest row that the model takes, if it is limited.
    pub fn longest_row(self) -> Option<usize> {
        self.length.filter(|_| !self.cache)
    }

    /// Refuses rows of so many tokens if the model or its context is shorter.
    pub fn check_row(self, tokens: usize, context: usize) -> Result<()> {
        if let Some(limit) = self.longest_row().filter(|limit| tokens > *limit) {
            bail!(
                "the model takes at most {limit} tokens, and {tokens} were requested: request fewer"
            );
        }
        ensure!(
            tokens <= context,
            "the model's context is {context} tokens, and {tokens} were requested: request fewer"
        );
        Ok(())
    }
}

/// The caches of a stage, which is `given` hidden states unless it is the first one. An error says
/// what it would not have if it were like ours.
fn caches_of(stage: &OnnxFile, given: Option<&ValueInfo>) -> Result<Vec<Cache>> {
    for input in &stage.inputs {
        let is_known = match &*input.name {
            INPUT_IDS | ATTENTION_MASK => is_of(input, DType::I64, 2),
            name if name.starts_with(PAST) => {
                is_of(input, DType::F32, 4) || is_of(input, DType::F16, 4)
            }
            _ => given == Some(input),
        };
        ensure!(is_known, "an unknown input `{}` {}", input.name, input.dtype);
    }
    if let Some(ValueInfo { name, .. }) = given {
        ensure!(stage.inputs.iter().any(|it| it.name == *name), "no input `{name}`");
    }
    let past = stage.inputs.iter().filter(|input| input.name.starts_with(PAST));
    past.map(|past| Cache::new(past, &stage.outputs)).collect()
}

impl Cache {
    fn new(past: &ValueInfo, outputs: &[ValueInfo]) -> Result<Self> {
        let present = past.name.replacen(PAST, "present", 1);
        let has_present = outputs.iter().any(|output| output.name == present);
        ensure!(has_present, "no output `{present}`");
        let layer = past.name.split('.').nth(1).and_then(|number| number.parse().ok());
        let layer = layer.ok_or_else(|| err!("an input `{}` of no layer", past.name))?;
        let known =
            |axis| size(past, axis).ok_or_else(|| err!("a symbolic size in `{}`", past.name));
        let dtype = if is_of(past, DType::F16, 4) { DType::F16 } else { DType::F32 };
        let (heads, width) = (known(1)?, known(3)?);
        Ok(Self { past: past.name.clone(), present, layer, heads, width, dtype })
    }
}

fn is_hidden_states(value: &ValueInfo) -> bool {
    value.name.starts_with(HIDDEN_STATES) && is_of(value, DType::F32, 3)
}

fn is_of(value: &ValueInfo, dtype: DType, rank: usize) -> bool {
    value.dtype == dtype.to_string() && value.shape.len() == rank
}

/// The size of an axis; `None` if it is symbolic.
fn size(value: &ValueInfo, axis: usize) -> Option<usize> {
    value.shape[axis].known().map(|size| size as usize)
}

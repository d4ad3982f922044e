//! The inputs and outputs of a model that continues texts.

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

const PAST: &str = "past_key_values";

impl Signature {
    /// Of a model like ours, with its caches in the order of its inputs. An error says what such a
    /// model would not have.
    pub fn of(OnnxFile { inputs, outputs, .. }: &OnnxFile) -> Result<(Self, Vec<Cache>)> {
        for input in inputs {
            let is_known = match &*input.name {
                "input_ids" | "attention_mask" => is_of(input, DType::I64, 2),
                name if name.starts_with(PAST) => {
                    is_of(input, DType::F32, 4) || is_of(input, DType::F16, 4)
                }
                _ => false,
            };
            ensure!(is_known, "an unknown input `{}` {}", input.name, input.dtype);
        }
        let input = |name: &str| inputs.iter().find(|input| input.name == name);
        let ids = input("input_ids").ok_or_else(|| err!("no input `input_ids`"))?;
        let [batch, length] = [size(ids, 0), size(ids, 1)];
        ensure!(batch != Some(0) && length != Some(0), "an input `input_ids` without tokens");
        let past = inputs.iter().filter(|input| input.name.starts_with(PAST));
        let caches = past.map(|past| Cache::new(past, outputs)).collect::<Result<Vec<_>>>()?;
        let (cache, mask) = (!caches.is_empty(), input("attention_mask").is_some());
        ensure!(mask || !cache, "a cache and no input `attention_mask`");
        let logits = outputs.iter().find(|it| it.name == "logits" && is_of(it, DType::F32, 3));
        let logits = logits.ok_or_else(|| err!("no output `logits` f32 [rows, tokens, vocab]"))?;
        let vocab = size(logits, 2).ok_or_else(|| err!("logits of unknown number"))? as u64;
        let last = size(logits, 1) == Some(1) && length != Some(1);
        Ok((Self { batch, length, cache, mask, last, vocab }, caches))
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

fn is_of(value: &ValueInfo, dtype: DType, rank: usize) -> bool {
    value.dtype == dtype.to_string() && value.shape.len() == rank
}

/// The size of an axis; `None` if it is symbolic.
fn size(value: &ValueInfo, axis: usize) -> Option<usize> {
    value.shape[axis].known().map(|size| size as usize)
}

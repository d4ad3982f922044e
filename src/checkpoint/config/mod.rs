//! What a model's `config.json` says, in whichever dialect: one file for each.

mod hugging_face;
mod openai;

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::keys::Keys;
use super::{Error, Result};
use crate::tensor::mxfp4;

/// The numbers that define a GPT-OSS model besides its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Width inside an expert.
    pub intermediate_size: u64,
    /// Query heads.
    pub num_heads: u64,
    /// Key and value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// For each layer, how many experts it has.
    pub experts: Vec<u64>,
    /// Experts that each token uses.
    pub experts_per_token: u64,
    /// For each layer, how many keys a query sees, itself included: `None` for all.
    pub windows: Vec<Option<u64>>,
    /// Where SwiGLU's inputs are clamped.
    pub swiglu_limit: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the embedding is the matrix of the logits too.
    pub tied: bool,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
}

/// Who has written a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI: `ModelConfig`, as in `original/config.json`.
    OpenAi,
    /// Hugging Face: `GptOssConfig` of transformers.
    HuggingFace,
}

/// Rotary position embedding with YaRN scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// By how much YaRN stretches positions; up to 1 there is no YaRN.
    pub factor: f64,
    /// Length of the context before stretching.
    pub initial_context: f64,
    /// Rotations over the context below which a dimension is stretched fully
    /// (`ntk_alpha`, `beta_slow`).
    pub slow: f64,
    /// Rotations above which it is not stretched (`ntk_beta`, `beta_fast`).
    pub fast: f64,
}

impl Config {
    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.windows.len()
    }

    /// The config as a fingerprint and a weights file hold it: JSON, with keys
    /// in the order of these fields.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("plain numbers")
    }

    /// Reads a `config.json`, OpenAI's or Hugging Face's. Keys that the dialect
    /// does not define are refused unless they are known to change nothing.
    pub fn read(file: &str, text: &[u8], ignored: &[String]) -> Result<(Self, Dialect)> {
        let mut keys = Keys::parse(file, text, ignored)?;
        let dialect = match keys.has("model_type") || keys.has("architectures") {
            true => Dialect::HuggingFace,
            false => Dialect::OpenAi,
        };
        let config = match dialect {
            Dialect::HuggingFace => hugging_face::read(&mut keys)?,
            Dialect::OpenAi => openai::read(&mut keys)?,
        };
        let harmless = match dialect {
            Dialect::HuggingFace => &hugging_face::HARMLESS[..],
            Dialect::OpenAi => &openai::HARMLESS,
        };
        keys.refuse_rest(harmless)?;
        config.check(file)?;
        Ok((config, dialect))
    }

    /// What must hold for the numbers, wherever they were read from.
    pub fn check(&self, file: &str) -> Result<()> {
        let broken = |rule, found| Err(Error::Rule { file: file.to_owned(), rule, found });
        if let Some((name, size)) = self.sizes().into_iter().find(|(_, size)| !SIZES.contains(size))
        {
            return broken(
                "sizes are whole numbers from 1 to 4294967295",
                format!("`{name}` {size}"),
            );
        }
        if let Some((name, number)) =
            self.numbers().into_iter().find(|(_, number)| !positive(*number))
        {
            return broken("parameters are positive numbers", format!("`{name}` {number}"));
        }
        match self.relations().into_iter().find(|(holds, _, _)| !holds) {
            Some((_, rule, found)) => broken(rule, found),
            None => Ok(()),
        }
    }

    fn sizes(&self) -> Vec<(&'static str, u64)> {
        let mut sizes = vec![
            ("num_hidden_layers", self.windows.len() as u64),
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("experts_per_token", self.experts_per_token),
        ];
        sizes.extend(self.experts.iter().map(|experts| ("num_experts", *experts)));
        sizes.extend(self.windows.iter().flatten().map(|window| ("sliding_window", *window)));
        sizes
    }

    fn numbers(&self) -> [(&'static str, f64); 7] {
        let Rope { theta, factor, initial_context, slow, fast } = self.rope;
        [
            ("swiglu_limit", self.swiglu_limit),
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", theta),
            ("rope_scaling_factor", factor),
            ("initial_context_length", initial_context),
            ("rope_ntk_alpha", slow),
            ("rope_ntk_beta", fast),
        ]
    }

    /// What must hold besides where experts are in MXFP4: blocks fill their rows.
    pub fn check_blocks(&self, file: &str, sizes: &[(&'static str, u64)]) -> Result<()> {
        match sizes.iter().find(|(_, size)| !size.is_multiple_of(mxfp4::BLOCK)) {
            Some((what, size)) => {
                let (file, found) = (file.to_owned(), size.to_string());
                Err(Error::Blocks { file, what, found })
            }
            None => Ok(()),
        }
    }

    /// What must hold between the numbers, in words, and what is there.
    fn relations(&self) -> [(bool, &'static str, String); 7] {
        let (heads, kv, width) = (self.num_heads, self.num_kv_heads, self.head_dim);
        let rows = (heads + 2 * kv).checked_mul(width);
        let [low, high] = self.rope.bounds(width);
        let fewest = self.experts.iter().min().copied().unwrap_or_default();
        [
            (
                heads.is_multiple_of(kv),
                "`num_attention_heads` is a multiple of `num_key_value_heads`",
                format!("{heads} and {kv}"),
            ),
            (width.is_multiple_of(2), "`head_dim` is even", width.to_string()),
            (
                rows.is_some_and(|rows| SIZES.contains(&rows)),
                "all heads together have at most 4294967295 rows",
                format!("{heads} and {kv} heads of {width}"),
            ),
            (
                self.experts_per_token <= fewest,
                "`experts_per_token` is at most `num_experts`",
                format!("{} of {}", self.experts_per_token, fewest),
            ),
            (
                self.experts.len() == self.windows.len(),
                "every layer has a number of experts and a window or none",
                format!("{} and {}", self.experts.len(), self.windows.len()),
            ),
            (self.rope.theta > 1.0, "`rope_theta` is above 1", self.rope.theta.to_string()),
            (
                self.rope.is_ordered(width),
                "YaRN's bounds satisfy 0 < low < high < head_dim / 2 - 1",
                format!("{low:.4} and {high:.4} for a head_dim of {width}"),
            ),
        ]
    }
}

impl Rope {
    /// YaRN's two bounds, as (fractional) indices of a rotation's frequency:
    /// up to the first a frequency is kept, from the second on it is divided
    /// by `factor`. Not rounded.
    pub fn bounds(&self, head_dim: u64) -> [f64; 2] {
        let half = head_dim as f64 / 2.0;
        [self.fast, self.slow].map(|rotations| {
            half * (self.initial_context / (rotations * 2.0 * PI)).ln() / self.theta.ln()
        })
    }

    /// Tokens of the longest text that the rotation is made for.
    pub fn context(&self) -> u64 {
        (self.initial_context * self.factor.max(1.0)) as u64
    }

    /// The reference implementation asserts this too.
    fn is_ordered(&self, head_dim: u64) -> bool {
        let [low, high] = self.bounds(head_dim);
        self.factor <= 1.0 || (0.0 < low && low < high && high < head_dim as f64 / 2.0 - 1.0)
    }
}

/// No size of a model is larger.
const SIZES: std::ops::RangeInclusive<u64> = 1..=u32::MAX as u64;

fn positive(number: f64) -> bool {
    number.is_finite() && number > 0.0
}

/// The same number in every layer.
fn in_each_layer(layers: u64, experts: u64) -> Vec<u64> {
    vec![experts; layers as usize]
}

/// Sliding windows on even layers, as the model's definition has it; what a
/// window does is in `model/portable/mask.rs`.
fn alternating(layers: u64, window: Option<u64>) -> Vec<Option<u64>> {
    (0..layers).map(|layer| window.filter(|_| layer % 2 == 0)).collect()
}

//! The numbers that define a model, and what must hold for them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reader::{POSITIVE, RESTORE, SIZE, SIZES};
use crate::error::{Error, Result, err};

/// The numbers that define a GPT-OSS model besides its weights. Fingerprints and weights
/// files contain it as JSON, so names and order of the fields are fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub vocab_size: u64,
    pub hidden_size: u64,
    /// Width inside an expert.
    pub intermediate_size: u64,
    pub num_heads: u64,
    /// Key and value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: u64,
    pub head_dim: u64,
    pub experts: Vec<u64>,
    pub experts_per_token: u64,
    /// Number of keys that a query sees, itself included, by layer; `None` for all.
    pub windows: Vec<Option<u64>>,
    /// Limit to which SwiGLU's inputs are clamped.
    pub swiglu_limit: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Whether the embedding is also the output projection.
    pub tied: bool,
    pub attention_bias: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Length of the context after stretching, if it is not what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<f64>,
}

impl Config {
    pub fn num_layers(&self) -> usize {
        self.windows.len()
    }

    /// Checks what must hold wherever the numbers come from, and says all that does not;
    /// errors name `file`.
    pub fn check(&self, file: &str) -> Result<()> {
        let numbers = serde_json::to_value(self).expect("plain numbers");
        Error::all(wrong_numbers(file, "", &numbers))?;
        let (layers, experts) = (self.windows.len(), self.experts.len());
        let (heads, kv_heads, width) = (self.num_heads, self.num_kv_heads, self.head_dim);
        let rows = (heads + 2 * kv_heads).checked_mul(width);
        let fewest = self.experts.iter().min().copied().unwrap_or_default();
        let used = self.experts_per_token;
        let Rope { theta, factor, .. } = self.rope;
        let [low, high] = self.rope.bounds(width);
        let rules = [
            (
                layers > 0 && layers == experts,
                format!(
                    "each layer must have a window and a number of experts, found {layers} windows and {experts} numbers"
                ),
            ),
            (
                heads.is_multiple_of(kv_heads),
                format!(
                    "`num_attention_heads` must be a multiple of `num_key_value_heads`, found {heads} and {kv_heads}"
                ),
            ),
            (width.is_multiple_of(2), format!("`head_dim` must be even, found {width}")),
            (
                rows.is_some_and(|rows| SIZES.contains(&rows)),
                format!(
                    "all heads together must have at most 4294967295 rows, found {heads} query heads and {kv_heads} key-value heads of {width}"
                ),
            ),
            (
                used <= fewest,
                format!(
                    "the number of experts per token must be at most the number of experts, found {used} of {fewest}"
                ),
            ),
            (theta > 1.0, format!("`rope_theta` must be above 1, found {theta}")),
            (
                // The reference implementation asserts this too.
                theta <= 1.0
                    || factor <= 1.0
                    || (0.0 < low && low < high && high < width as f64 / 2.0 - 1.0),
                format!(
                    "YaRN's bounds must satisfy 0 < low < high < head_dim / 2 - 1, found {low:.4} and {high:.4} for a head_dim of {width}"
                ),
            ),
        ];
        let broken = rules.into_iter().filter(|(holds, _)| !holds);
        let sentence = |rule| err!("`{file}`: {rule}: {RESTORE}");
        Error::all(broken.map(|(_, rule)| sentence(rule)))
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

    pub fn context(&self) -> u64 {
        self.context.unwrap_or(self.initial_context * self.factor.max(1.0)) as u64
    }
}

/// The errors for numbers in a config that are out of range, one for each key.
fn wrong_numbers(file: &str, key: &str, value: &Value) -> Vec<Error> {
    let (expected, fits) = match value {
        Value::Object(map) => {
            return map.iter().flat_map(|(key, it)| wrong_numbers(file, key, it)).collect();
        }
        Value::Array(list) => {
            return list.iter().flat_map(|it| wrong_numbers(file, key, it)).take(1).collect();
        }
        Value::Number(number) if number.is_f64() => (POSITIVE.0, POSITIVE.1(value).is_some()),
        Value::Number(_) => (SIZE.0, SIZE.1(value).is_some()),
        Value::Null | Value::Bool(_) | Value::String(_) => return Vec::new(),
    };
    let error = || err!("`{file}`: `{key}` must be {expected}, found {value}: {RESTORE}");
    if fits { Vec::new() } else { vec![error()] }
}

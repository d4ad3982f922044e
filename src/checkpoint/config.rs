//! What a model's `config.json` says, in one form for all dialects.

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
    /// Experts in each layer.
    pub num_experts: u64,
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

    /// Reads OpenAI's `ModelConfig`, as in `original/config.json`. Keys that it
    /// does not define are refused unless they are known to change nothing.
    pub fn from_openai(file: &str, text: &[u8], ignored: &[String]) -> Result<Self> {
        let mut keys = Keys::parse(file, text)?;
        ignored.iter().for_each(|key| keys.ignore(key));
        if keys.has("model_type") || keys.has("architectures") {
            return Err(Error::HuggingFace { file: file.to_owned() });
        }
        let num_layers = keys.size("num_hidden_layers")?;
        let window = Some(keys.size_or_zero("sliding_window")?).filter(|window| *window > 0);
        let config = Self {
            vocab_size: keys.size("vocab_size")?,
            hidden_size: keys.size("hidden_size")?,
            intermediate_size: keys.size("intermediate_size")?,
            num_heads: keys.size("num_attention_heads")?,
            num_kv_heads: keys.size("num_key_value_heads")?,
            head_dim: keys.size("head_dim")?,
            num_experts: keys.size("num_experts")?,
            experts_per_token: keys.size("experts_per_token")?,
            windows: alternating(file, num_layers, window)?,
            swiglu_limit: if keys.has("swiglu_limit") {
                keys.positive("swiglu_limit")?
            } else {
                7.0
            },
            // The reference implementation's constant; this dialect has no key for it.
            rms_norm_eps: 1e-5,
            rope: Rope {
                theta: keys.positive("rope_theta")?,
                factor: keys.positive("rope_scaling_factor")?,
                initial_context: keys.positive("initial_context_length")?,
                slow: keys.positive("rope_ntk_alpha")?,
                fast: keys.positive("rope_ntk_beta")?,
            },
        };
        if let Some(key) = keys.left().find(|key| !HARMLESS.contains(key)) {
            return Err(Error::UnknownKey { file: file.to_owned(), key: key.to_owned() });
        }
        config.check(file)?;
        Ok(config)
    }

    /// What must hold between the numbers.
    pub fn check(&self, file: &str) -> Result<()> {
        let [hidden, inner, block] = [self.hidden_size, self.intermediate_size, mxfp4::BLOCK];
        let rules = [
            (self.num_layers() > 0, "there is at least one layer"),
            (
                self.num_heads.is_multiple_of(self.num_kv_heads),
                "`num_attention_heads` is a multiple of `num_key_value_heads`",
            ),
            (self.head_dim.is_multiple_of(2), "`head_dim` is even"),
            (
                self.experts_per_token <= self.num_experts,
                "`experts_per_token` is at most `num_experts`",
            ),
            (
                hidden % block == 0,
                "`hidden_size` is a multiple of 32, the length of an MXFP4 block",
            ),
            (
                inner % block == 0,
                "`intermediate_size` is a multiple of 32, the length of an MXFP4 block",
            ),
            (self.rope.theta > 1.0, "`rope_theta` is above 1"),
            (
                self.rope.is_ordered(self.head_dim),
                "YaRN's bounds satisfy 0 < low < high < head_dim / 2 - 1",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::Rule { file: file.to_owned(), rule }),
            None => Ok(()),
        }
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

    /// The reference implementation asserts this too.
    fn is_ordered(&self, head_dim: u64) -> bool {
        let [low, high] = self.bounds(head_dim);
        self.factor <= 1.0 || (0.0 < low && low < high && high < head_dim as f64 / 2.0 - 1.0)
    }
}

/// Keys of this dialect that say nothing about the computation.
const HARMLESS: [&str; 2] = ["torch_dtype", "dtype"];

/// Sliding windows on even layers, as the model's definition has it.
fn alternating(file: &str, layers: u64, window: Option<u64>) -> Result<Vec<Option<u64>>> {
    // A config of some bytes must not ask for gigabytes.
    if layers > 10_000 {
        return Err(Error::Rule {
            file: file.to_owned(),
            rule: "`num_hidden_layers` is at most 10000",
        });
    }
    Ok((0..layers).map(|layer| window.filter(|_| layer % 2 == 0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 20B's `original/config.json`, by its published values.
    const OPENAI_20B: &str = r#"{"num_hidden_layers":24,"num_experts":32,"experts_per_token":4,"vocab_size":201088,
        "hidden_size":2880,"intermediate_size":2880,"head_dim":64,"num_attention_heads":64,"num_key_value_heads":8,
        "sliding_window":128,"initial_context_length":4096,"rope_theta":150000,"rope_scaling_factor":32.0,
        "rope_ntk_alpha":1,"rope_ntk_beta":32}"#;

    fn edited(from: &str, to: &str) -> Result<Config> {
        assert!(OPENAI_20B.contains(from));
        Config::from_openai("config.json", OPENAI_20B.replace(from, to).as_bytes(), &[])
    }

    #[test]
    fn reads_the_published_config() {
        let config = edited("24", "24").unwrap();
        assert_eq!(config.num_layers(), 24);
        assert_eq!((config.windows[0], config.windows[1]), (Some(128), None));
        assert_eq!(config.swiglu_limit, 7.0, "absent means 7");
        let [low, high] = config.rope.bounds(config.head_dim);
        assert!((low - 8.0928).abs() < 1e-4 && (high - 17.3980).abs() < 1e-4, "{low} {high}");
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let cases = [
            ("\"num_experts\":32,", "", "`config.json` lacks the key `num_experts`"),
            (
                "\"num_experts\":32",
                "\"num_experts\":-1",
                "key `num_experts` must be a whole number from 1 to 4294967295, found -1",
            ),
            (
                "\"num_experts\":32",
                "\"num_experts\":3",
                "breaks the rule that `experts_per_token` is at most `num_experts`",
            ),
            ("\"head_dim\":64", "\"head_dim\":63", "`head_dim` is even"),
            ("150000", "\"x\"", "key `rope_theta` must be a positive number, found \"x\""),
            ("150000", "1", "`rope_theta` is above 1"),
            ("4096", "10", "YaRN's bounds satisfy"),
            (
                "{",
                "{\"attention_dropout\":0.5,",
                "the key `attention_dropout`, whose meaning is unknown",
            ),
            ("{", "[", "is not valid JSON"),
        ];
        for (from, to, sentence) in cases {
            let error = edited(from, to).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}\nlacks: {sentence}");
        }
    }

    #[test]
    fn a_key_can_be_ignored_by_name() {
        let text = OPENAI_20B.replace('{', "{\"extra\":1,");
        let ignored = ["extra".to_owned()];
        assert!(Config::from_openai("config.json", text.as_bytes(), &ignored).is_ok());
    }

    #[test]
    fn without_a_window_all_layers_see_everything() {
        let config = edited("\"sliding_window\":128", "\"sliding_window\":0").unwrap();
        assert!(config.windows.iter().all(Option::is_none));
    }
}

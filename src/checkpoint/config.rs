//! What a model's `config.json` says. Other dialects would end in the same form.

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

    /// The config as a fingerprint and a weights file hold it: JSON, with keys
    /// in the order of these fields.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("plain numbers")
    }

    /// Reads OpenAI's `ModelConfig`, as in `original/config.json`. Keys that it
    /// does not define are refused unless they are known to change nothing.
    pub fn from_openai(file: &str, text: &[u8], ignored: &[String]) -> Result<Self> {
        let mut keys = Keys::parse(file, text)?;
        if keys.has("model_type") || keys.has("architectures") {
            return Err(Error::HuggingFace { file: file.to_owned(), original: None });
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
        if let Some(key) = keys
            .left()
            .find(|key| !HARMLESS.contains(key) && !ignored.iter().any(|name| name == key))
        {
            return Err(Error::UnknownKey { file: file.to_owned(), key: key.to_owned() });
        }
        if let Some(name) = ignored.iter().find(|name| !keys.left().any(|key| key == *name)) {
            let (place, name) = (file.to_owned(), name.clone());
            return Err(Error::NothingToIgnore { place, what: "key", name });
        }
        config.check(file)?;
        Ok(config)
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
            ("num_experts", self.num_experts),
            ("experts_per_token", self.experts_per_token),
        ];
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

    /// What must hold between the numbers, in words, and what is there.
    fn relations(&self) -> [(bool, &'static str, String); 8] {
        let (heads, kv, width) = (self.num_heads, self.num_kv_heads, self.head_dim);
        let [hidden, inner] = [self.hidden_size, self.intermediate_size];
        let rows = (heads + 2 * kv).checked_mul(width);
        let [low, high] = self.rope.bounds(width);
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
                self.experts_per_token <= self.num_experts,
                "`experts_per_token` is at most `num_experts`",
                format!("{} of {}", self.experts_per_token, self.num_experts),
            ),
            (
                hidden.is_multiple_of(mxfp4::BLOCK),
                "`hidden_size` is a multiple of 32, the length of an MXFP4 block",
                hidden.to_string(),
            ),
            (
                inner.is_multiple_of(mxfp4::BLOCK),
                "`intermediate_size` is a multiple of 32, the length of an MXFP4 block",
                inner.to_string(),
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

/// Keys of this dialect that say nothing about the computation.
const HARMLESS: [&str; 2] = ["torch_dtype", "dtype"];

/// Sliding windows on even layers, as the model's definition has it; what a
/// window does is in `model/mask.rs`.
fn alternating(file: &str, layers: u64, window: Option<u64>) -> Result<Vec<Option<u64>>> {
    // A config of some bytes must not ask for gigabytes.
    if layers > 10_000 {
        let (file, found) = (file.to_owned(), layers.to_string());
        return Err(Error::Rule { file, rule: "`num_hidden_layers` is at most 10000", found });
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
                "breaks the rule that `experts_per_token` is at most `num_experts`: found 4 of 3",
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

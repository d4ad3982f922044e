//! OpenAI's dialect: the fields of `ModelConfig`, as in `original/config.json`.

use super::{Config, Rope, alternating, in_each_layer};
use crate::checkpoint::Result;
use crate::checkpoint::keys::Keys;

/// Keys that say nothing about the computation.
pub const HARMLESS: [&str; 2] = ["torch_dtype", "dtype"];

/// Takes the keys that say something.
pub fn read(keys: &mut Keys) -> Result<Config> {
    let num_layers = keys.layers("num_hidden_layers")?;
    let window = Some(keys.size_or_zero("sliding_window")?).filter(|window| *window > 0);
    Ok(Config {
        vocab_size: keys.size("vocab_size")?,
        hidden_size: keys.size("hidden_size")?,
        intermediate_size: keys.size("intermediate_size")?,
        num_heads: keys.size("num_attention_heads")?,
        num_kv_heads: keys.size("num_key_value_heads")?,
        head_dim: keys.size("head_dim")?,
        experts: in_each_layer(num_layers, keys.size("num_experts")?),
        experts_per_token: keys.size("experts_per_token")?,
        windows: alternating(num_layers, window),
        swiglu_limit: keys.positive_or("swiglu_limit", 7.0)?,
        // The reference implementation's constant; this dialect has no key for it.
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: keys.positive("rope_theta")?,
            factor: keys.positive("rope_scaling_factor")?,
            initial_context: keys.positive("initial_context_length")?,
            slow: keys.positive("rope_ntk_alpha")?,
            fast: keys.positive("rope_ntk_beta")?,
        },
        tied: false,
        attention_bias: true,
    })
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
        let text = OPENAI_20B.replace(from, to);
        Ok(Config::read("config.json", text.as_bytes(), &[])?.0)
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
        assert!(Config::read("config.json", text.as_bytes(), &ignored).is_ok());
    }

    #[test]
    fn without_a_window_all_layers_see_everything() {
        let config = edited("\"sliding_window\":128", "\"sliding_window\":0").unwrap();
        assert!(config.windows.iter().all(Option::is_none));
    }
}

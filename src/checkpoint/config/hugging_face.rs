//! Hugging Face's dialect: `GptOssConfig` of transformers, versions 4 and 5.

use serde_json::{Value, json};

use super::{Config, Rope, alternating, in_each_layer};
use crate::checkpoint::keys::Keys;
use crate::checkpoint::{Result, foreign};

/// Keys that say nothing about the computation.
pub const HARMLESS: [&str; 25] = [
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "initial_context_length",
    "initializer_range",
    "label2id",
    "max_position_embeddings",
    "model_name",
    "output_router_logits",
    "pad_token_id",
    "router_aux_loss_coef",
    "torch_dtype",
    "rope_parameters.finetuned",
    "rope_scaling.finetuned",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_fixed_mxfp4",
    "unsloth_version",
    "use_cache",
    "return_dict",
];

/// Takes the keys that say something.
pub fn read(keys: &mut Keys) -> Result<Config> {
    keys.must_be("model_type", &json!("gpt_oss"))?;
    keys.may_be("hidden_act", &json!("silu"))?;
    // What OpenAI's implementation has as a constant.
    keys.may_be("swiglu_alpha", &json!(1.702))?;
    refuse_quantised(keys)?;
    let num_layers = keys.layers("num_hidden_layers")?;
    let num_heads = keys.size("num_attention_heads")?;
    let window = keys.optional("sliding_window", Keys::size)?;
    Ok(Config {
        vocab_size: keys.size("vocab_size")?,
        hidden_size: keys.size("hidden_size")?,
        intermediate_size: keys.size("intermediate_size")?,
        num_heads,
        num_kv_heads: keys.size("num_key_value_heads")?,
        head_dim: keys.size("head_dim")?,
        experts: in_each_layer(
            num_layers,
            keys.one_of(&["num_local_experts", "num_experts"], Keys::size)?,
        ),
        experts_per_token: keys
            .one_of(&["num_experts_per_tok", "experts_per_token"], Keys::size)?,
        windows: windows(keys, num_layers, window)?,
        swiglu_limit: keys.positive_or("swiglu_limit", 7.0)?,
        rms_norm_eps: keys.positive_or("rms_norm_eps", 1e-5)?,
        rope: rope(keys)?,
        tied: keys.optional("tie_word_embeddings", Keys::truth)?.unwrap_or(false),
        attention_bias: keys.optional("attention_bias", Keys::truth)?.unwrap_or(true),
    })
}

/// Weights that are quantised, but for MXFP4 as released.
fn refuse_quantised(keys: &mut Keys) -> Result<()> {
    // MLX writes a key of its own, and the same once more under the usual one, where
    // it names no method.
    if keys.nested("quantization")?.is_some() {
        return Err(foreign::quantised(keys.file(), "mlx"));
    }
    let Some(mut quantization) = keys.nested("quantization_config")? else { return Ok(()) };
    match quantization.text("quant_method")? {
        method if method == "mxfp4" => Ok(()),
        method => Err(foreign::quantised(keys.file(), &method)),
    }
}

/// `layer_types` names each layer's attention; without it they alternate. How wide a window
/// is must be said: transformers has 128 where nothing is.
fn windows(keys: &mut Keys, layers: u64, window: Option<u64>) -> Result<Vec<Option<u64>>> {
    let Some(types) = keys.optional("layer_types", Keys::list)? else {
        let window = window.ok_or_else(|| keys.missing("sliding_window"))?;
        return Ok(alternating(layers, Some(window)));
    };
    if types.len() as u64 != layers {
        let found = Value::from(types.len());
        return Err(keys.wrong("layer_types", "as long as `num_hidden_layers`", &found));
    }
    let of_type = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => Err(keys.missing("sliding_window")),
        _ => Err(keys.wrong(
            "layer_types",
            "a list of \"sliding_attention\" and \"full_attention\"",
            kind,
        )),
    };
    types.iter().map(of_type).collect()
}

/// YaRN as version 4 (`rope_scaling`, with `rope_theta` beside it) or 5
/// (`rope_parameters`, with it inside) has it; where both are there they agree. Where
/// neither is, versions differ in what they compute.
fn rope(keys: &mut Keys) -> Result<Rope> {
    let theta = keys.optional("rope_theta", Keys::positive)?;
    let mut found: Option<Rope> = None;
    for name in ["rope_scaling", "rope_parameters"] {
        let said = keys.value(name);
        let Some(mut scaling) = keys.nested(name)? else { continue };
        let rope = rope_of(keys, &mut scaling, theta)?;
        keys.give_back(scaling);
        if found.as_ref().is_some_and(|other| *other != rope) {
            return Err(keys.wrong(name, "the same rotation as `rope_scaling`", &said));
        }
        found = Some(rope);
    }
    found.ok_or_else(|| {
        let expected = "an object, {\"rope_type\": \"default\"} where positions are not stretched";
        keys.wrong("rope_scaling", expected, &Value::Null)
    })
}

/// transformers rounds YaRN's bounds unless `truncate` is false, which OpenAI's
/// implementation never does. Its version 4 stretches by how many times the original
/// context `max_position_embeddings` is, whatever `factor` is.
fn rope_of(keys: &mut Keys, scaling: &mut Keys, beside: Option<f64>) -> Result<Rope> {
    let within = scaling.optional("rope_theta", Keys::positive)?;
    let theta = match (within, beside) {
        (Some(within), Some(beside)) if within != beside => {
            let expected = format!("{beside}, as beside it");
            return Err(scaling.wrong("rope_theta", &expected, &within.into()));
        }
        (Some(theta), _) | (None, Some(theta)) => theta,
        (None, None) => return Err(keys.missing("rope_theta")),
    };
    match scaling.one_of(&["rope_type", "type"], Keys::text)?.as_str() {
        "default" => {
            let context = keys.seen("max_position_embeddings", Keys::positive)?;
            Ok(plain(theta, context))
        }
        "yarn" => {
            scaling.must_be("truncate", &json!(false))?;
            let rope = Rope {
                theta,
                factor: scaling.positive("factor")?,
                initial_context: scaling.positive("original_max_position_embeddings")?,
                slow: scaling.positive_or("beta_slow", 1.0)?,
                fast: scaling.positive_or("beta_fast", 32.0)?,
            };
            let (original, stretched) = (rope.initial_context, rope.initial_context * rope.factor);
            keys.follows(
                "initial_context_length",
                original,
                "as `original_max_position_embeddings`",
            )?;
            keys.follows(
                "max_position_embeddings",
                stretched,
                "which is `original_max_position_embeddings` times `factor`",
            )?;
            Ok(rope)
        }
        kind => Err(scaling.wrong("rope_type", "\"yarn\" or \"default\"", &json!(kind))),
    }
}

/// Rotation without stretching.
fn plain(theta: f64, context: Option<f64>) -> Rope {
    Rope { theta, factor: 1.0, initial_context: context.unwrap_or(4096.0), slow: 1.0, fast: 32.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 20B's `config.json` in the root of its repository, by its published values.
    fn published() -> Value {
        json!({
            "architectures": ["GptOssForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
            "eos_token_id": 200_002, "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu",
            "hidden_size": 2880, "initial_context_length": 4096, "initializer_range": 0.02,
            "intermediate_size": 2880, "max_position_embeddings": 131_072, "model_type": "gpt_oss",
            "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "output_router_logits": false,
            "pad_token_id": 199_999, "quantization_config": {"quant_method": "mxfp4"},
            "rms_norm_eps": 1e-5, "rope_theta": 150_000, "router_aux_loss_coef": 0.9,
            "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "truncate": false,
                             "original_max_position_embeddings": 4096, "rope_type": "yarn"},
            "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false,
            "transformers_version": "4.55.0.dev0", "use_cache": true, "vocab_size": 201_088,
        })
    }

    fn edited(pointer: &str, key: &str, value: Value) -> Result<Config> {
        let mut config = published();
        config.pointer_mut(pointer).unwrap()[key] = value;
        Ok(Config::read("config.json", config.to_string().as_bytes(), &[])?.0)
    }

    #[test]
    fn both_dialects_say_the_same_of_the_20b() {
        let openai = r#"{"num_hidden_layers":24,"num_experts":32,"experts_per_token":4,
            "vocab_size":201088,"hidden_size":2880,"intermediate_size":2880,"head_dim":64,
            "num_attention_heads":64,"num_key_value_heads":8,"sliding_window":128,
            "initial_context_length":4096,"rope_theta":150000,"rope_scaling_factor":32.0,
            "rope_ntk_alpha":1,"rope_ntk_beta":32}"#;
        let (openai, _) = Config::read("config.json", openai.as_bytes(), &[]).unwrap();
        assert_eq!(edited("", "use_cache", json!(true)).unwrap(), openai);
    }

    #[test]
    fn version_5_has_rope_parameters() {
        let mut config = published();
        let keys = config.as_object_mut().unwrap();
        let mut rope = keys.remove("rope_scaling").unwrap();
        rope["rope_theta"] = keys.remove("rope_theta").unwrap();
        keys.insert("rope_parameters".to_owned(), rope);
        keys.insert("dtype".to_owned(), json!("bfloat16"));
        let (newer, _) = Config::read("config.json", config.to_string().as_bytes(), &[]).unwrap();
        assert_eq!(newer, edited("", "use_cache", json!(true)).unwrap());
    }

    #[test]
    fn layer_types_decide_which_layers_slide() {
        let types = |slides: fn(usize) -> bool| -> Vec<&str> {
            let name = |n| if slides(n) { "sliding_attention" } else { "full_attention" };
            (0..24).map(name).collect()
        };
        let config = edited("", "layer_types", json!(types(|n| n % 3 == 1))).unwrap();
        assert_eq!(config.windows[..3], [None, Some(128), None]);
        let plain = json!({"rope_type": "default"});
        let mut config = published();
        for key in ["rope_scaling", "rope_parameters"] {
            config[key] = plain.clone();
            let (read, _) =
                Config::read("config.json", config.to_string().as_bytes(), &[]).unwrap();
            assert_eq!((read.rope.factor, read.rope.context()), (1.0, 131_072));
        }
    }

    /// As mlx-lm writes it; `null` says nothing.
    #[test]
    fn mlx_says_so_twice() {
        let how = json!({"group_size": 64, "bits": 4, "mode": "affine"});
        for both in [true, false] {
            let mut config = published();
            config["quantization"] = how.clone();
            config["quantization_config"] = if both { how.clone() } else { json!(null) };
            let read = Config::read("config.json", config.to_string().as_bytes(), &[]);
            let error = read.unwrap_err().to_string();
            assert!(error.contains("quantised by MLX, and"), "{error}");
        }
        assert!(edited("", "quantization", json!(null)).is_ok());
        let error = edited("", "quantization_config", how).unwrap_err().to_string();
        assert!(error.ends_with("lacks the key `quantization_config.quant_method`"), "{error}");
    }

    /// As transformers 5.24 saves it, and with what older ones left.
    #[test]
    fn what_says_the_same_twice_is_read() {
        let usual = edited("", "use_cache", json!(true)).unwrap();
        let mut rope = published()["rope_scaling"].clone();
        rope["rope_theta"] = json!(150_000);
        rope["type"] = json!("yarn");
        for (key, value) in [
            ("swiglu_alpha", json!(1.702)),
            ("rope_parameters", rope.clone()),
            ("rope_scaling", rope),
        ] {
            assert_eq!(edited("", key, value).unwrap(), usual, "{key}");
        }
    }

    /// The user may know better, of keys within an object too.
    #[test]
    fn keys_can_be_ignored_by_their_whole_names() {
        let mut config = published();
        config["max_position_embeddings"] = json!(262_144);
        config["rope_scaling"]["mscale"] = json!(0.7);
        let ignored = ["max_position_embeddings", "rope_scaling.mscale"].map(str::to_owned);
        let read = |ignored: &[String]| {
            Config::read("config.json", config.to_string().as_bytes(), ignored)
        };
        assert_eq!(read(&ignored).unwrap().0, edited("", "use_cache", json!(true)).unwrap());
        assert!(read(&ignored[..1]).is_err() && read(&ignored[1..]).is_err());
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (pointer, key, value, sentence) in [
            ("", "model_type", json!("llama"), "`model_type` must be \"gpt_oss\", found \"llama\""),
            ("", "hidden_act", json!("gelu"), "`hidden_act` must be \"silu\", found \"gelu\""),
            ("/rope_scaling", "truncate", json!(true), "`rope_scaling.truncate` must be false"),
            ("/rope_scaling", "truncate", json!(null), "lacks the key `rope_scaling.truncate`"),
            ("/rope_scaling", "rope_type", json!("llama3"), "must be \"yarn\" or \"default\""),
            ("/rope_scaling", "mscale", json!(0.7), "the key `rope_scaling.mscale`, whose meaning"),
            ("/quantization_config", "quant_method", json!("gptq"), "quantised by GPTQ"),
            (
                "",
                "layer_types",
                json!(["full_attention"]),
                "as long as `num_hidden_layers`, found 1",
            ),
            // transformers computes something else of each, and which depends on its version.
            ("", "rope_scaling", json!(null), "where positions are not stretched, found null"),
            ("", "sliding_window", json!(null), "lacks the key `sliding_window`"),
            (
                "",
                "sliding_window",
                json!(0),
                "must be a whole number from 1 to 4294967295, found 0",
            ),
            ("", "swiglu_alpha", json!(2.0), "`swiglu_alpha` must be 1.702, found 2.0"),
            (
                "",
                "rope_parameters",
                json!({"rope_type": "default"}),
                "the same rotation as `rope_scaling`, found {\"rope_type\":\"default\"}",
            ),
            ("/rope_scaling", "rope_theta", json!(10_000), "must be 150000, as beside it"),
            ("/rope_scaling", "type", json!("linear"), "must be \"yarn\", as `rope_type`"),
            ("", "initial_context_length", json!(8192), "must be 4096, as `original_max"),
            ("", "max_position_embeddings", json!(262_144), "must be 131072, which is `orig"),
            ("", "experts_per_token", json!(2), "must be 4, as `num_experts_per_tok`, found 2"),
            ("", "attention_bias", json!("yes"), "must be true or false"),
            ("", "use_qk_norm", json!(true), "the key `use_qk_norm`, whose meaning is unknown"),
        ] {
            let error = edited(pointer, key, value).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}\nlacks: {sentence}");
        }
    }
}

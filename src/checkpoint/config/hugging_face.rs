//! Hugging Face's dialect: `GptOssConfig` of transformers, versions 4 and 5.

use serde_json::{Value, json};

use super::reader::{BOOL, ConfigReader, LAYERS, LIST, POSITIVE, SIZE, STRING};
use super::values::{Config, Rope, alternating_windows};
use crate::checkpoint::unsupported;
use crate::error::{Result, bail, ensure};

/// Keys that do not change the computation. Two of them are checked where YaRN is used.
const HARMLESS: [&str; 26] = [
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
    "quantization_config.*",
    "return_dict",
    "rope_parameters.finetuned",
    "rope_scaling.finetuned",
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_fixed_mxfp4",
    "unsloth_version",
    "use_cache",
];

pub fn read(keys: &mut ConfigReader) -> Result<Config> {
    keys.require_only("model_type", &json!("gpt_oss"))?;
    keys.allow_only("hidden_act", &json!("silu"))?;
    // A constant of OpenAI's implementation.
    keys.allow_only("swiglu_alpha", &json!(1.702))?;
    refuse_quantized(keys)?;
    let layers = keys.required("num_hidden_layers", &LAYERS)?;
    let experts = keys.required_either(["num_local_experts", "num_experts"], &SIZE)?;
    let used = ["num_experts_per_tok", "experts_per_token"];
    let config = Config {
        vocab_size: keys.required("vocab_size", &SIZE)?,
        hidden_size: keys.required("hidden_size", &SIZE)?,
        intermediate_size: keys.required("intermediate_size", &SIZE)?,
        num_heads: keys.required("num_attention_heads", &SIZE)?,
        num_kv_heads: keys.required("num_key_value_heads", &SIZE)?,
        head_dim: keys.required("head_dim", &SIZE)?,
        experts: vec![experts; layers as usize],
        experts_per_token: keys.required_either(used, &SIZE)?,
        windows: windows(keys, layers)?,
        swiglu_limit: keys.optional("swiglu_limit", &POSITIVE)?.unwrap_or(7.0),
        rms_norm_eps: keys.optional("rms_norm_eps", &POSITIVE)?.unwrap_or(1e-5),
        rope: rope(keys)?,
        tied: keys.optional("tie_word_embeddings", &BOOL)?.unwrap_or(false),
        attention_bias: keys.optional("attention_bias", &BOOL)?.unwrap_or(true),
    };
    keys.refuse_unread(&HARMLESS)?;
    Ok(config)
}

/// Refuses weights that are quantized, except for MXFP4 as released.
fn refuse_quantized(keys: &mut ConfigReader) -> Result<()> {
    // MLX has a key of its own, and repeats it without a method under the usual name.
    let method = if keys.has("quantization.") {
        "mlx".to_owned()
    } else if keys.has("quantization_config.") {
        keys.required("quantization_config.quant_method", &STRING)?
    } else {
        return Ok(());
    };
    ensure!(
        method == "mxfp4",
        "`{}`: weights quantized with {method:?} cannot be read, only MXFP4 as released; {}",
        keys.file,
        unsupported::USE_SOURCE
    );
    Ok(())
}

/// `layer_types` names the attention of each layer; without it they alternate. The window
/// must be given: without it transformers takes 128.
fn windows(keys: &mut ConfigReader, layers: u64) -> Result<Vec<Option<u64>>> {
    let types = keys.optional("layer_types", &LIST)?;
    let window = keys.optional("sliding_window", &SIZE)?;
    let required = || window.ok_or_else(|| keys.missing("sliding_window"));
    let Some(types) = types else {
        return Ok(alternating_windows(layers, Some(required()?)));
    };
    if types.len() as u64 != layers {
        let expected = "a list with as many entries as `num_hidden_layers`";
        return Err(keys.invalid("layer_types", expected, &types.len().into()));
    }
    let window_of = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => required().map(Some),
        _ => {
            let expected = "a list of \"sliding_attention\" and \"full_attention\"";
            Err(keys.invalid("layer_types", expected, kind))
        }
    };
    types.iter().map(window_of).collect()
}

/// Version 4 has `rope_scaling`, with `rope_theta` beside it; version 5 has
/// `rope_parameters`, with `rope_theta` in it. Without either, versions differ in what
/// they compute.
fn rope(keys: &mut ConfigReader) -> Result<Rope> {
    let mut rope_in = |object| keys.has(object).then(|| rope_in(keys, object)).transpose();
    match (rope_in("rope_scaling.")?, rope_in("rope_parameters.")?) {
        (Some(rope), Some(other)) if rope != other => {
            bail!("`{}`: `rope_parameters` must be the same as `rope_scaling`", keys.file)
        }
        (Some(rope), _) | (None, Some(rope)) => Ok(rope),
        (None, None) => {
            let expected = "an object, {\"rope_type\": \"default\"} for no scaling";
            Err(keys.invalid("rope_scaling", expected, &Value::Null))
        }
    }
}

fn rope_in(keys: &mut ConfigReader, object: &str) -> Result<Rope> {
    let path = |key: &str| format!("{object}{key}");
    let theta = keys.required_either(["rope_theta", &path("rope_theta")], &POSITIVE)?;
    let rope_type = keys.required_either([&path("rope_type"), &path("type")], &STRING)?;
    if rope_type == "default" {
        let context = keys.peek("max_position_embeddings", &POSITIVE)?;
        let initial_context = context.unwrap_or(4096.0);
        return Ok(Rope { theta, factor: 1.0, initial_context, slow: 1.0, fast: 32.0 });
    }
    if rope_type != "yarn" {
        let expected = "\"yarn\" or \"default\"";
        return Err(keys.invalid(&path("rope_type"), expected, &rope_type.into()));
    }
    // transformers rounds YaRN's bounds otherwise, OpenAI's implementation never does.
    keys.require_only(&path("truncate"), &json!(false))?;
    let context_key = "original_max_position_embeddings";
    let initial_context = keys.required(&path(context_key), &POSITIVE)?;
    let factor = keys.required(&path("factor"), &POSITIVE)?;
    keys.expect_derived("initial_context_length", initial_context, &format!("as `{context_key}`"))?;
    // transformers 4 computes the factor from this key.
    let formula = format!("`{context_key}` times `factor`");
    keys.expect_derived("max_position_embeddings", initial_context * factor, &formula)?;
    let slow = keys.optional(&path("beta_slow"), &POSITIVE)?.unwrap_or(1.0);
    let fast = keys.optional(&path("beta_fast"), &POSITIVE)?.unwrap_or(32.0);
    Ok(Rope { theta, factor, initial_context, slow, fast })
}

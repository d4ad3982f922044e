//! `config.json`, in either dialect.

mod harmless;
mod reader;
mod values;

use serde_json::{Value, json};

use super::suggest;
use crate::error::{Result, ensure, err};
pub use reader::ConfigReader;
use reader::{BOOL, LAYERS, LIST, POSITIVE, SIZE, SIZE_OR_ZERO, STRING, choose};
pub use values::{Config, Rope};

/// Longest `config.json` that is read. Released ones have 2 kB.
pub const LARGEST_CONFIG: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `ModelConfig` of OpenAI's implementation, as in `original/config.json`.
    OpenAi,
    /// `GptOssConfig` of transformers, versions 4 and 5.
    HuggingFace,
}

impl Config {
    /// Parses and checks a `config.json`. Unknown keys are refused unless `ignored` has
    /// them, by name or by a pattern with `*` and `?`.
    pub fn read(file: &str, text: &[u8], ignored: &[String]) -> Result<(Self, Dialect)> {
        let mut keys = ConfigReader::parse(file, text, ignored)?;
        let is_hugging_face = keys.has("model_type") || keys.has("architectures");
        let (config, dialect) = if is_hugging_face {
            (hugging_face(&mut keys)?, Dialect::HuggingFace)
        } else {
            (openai(&mut keys)?, Dialect::OpenAi)
        };
        keys.refuse_unread(match dialect {
            Dialect::HuggingFace => harmless::hugging_face,
            Dialect::OpenAi => harmless::openai,
        })?;
        config.check(file)?;
        Ok((config, dialect))
    }
}

/// The keys that both dialects have; the other fields are still to be read.
fn common(keys: &mut ConfigReader) -> Result<Config> {
    Ok(Config {
        vocab_size: keys.required("vocab_size", &SIZE)?,
        hidden_size: keys.required("hidden_size", &SIZE)?,
        intermediate_size: keys.required("intermediate_size", &SIZE)?,
        num_heads: keys.required("num_attention_heads", &SIZE)?,
        num_kv_heads: keys.required("num_key_value_heads", &SIZE)?,
        head_dim: keys.required("head_dim", &SIZE)?,
        swiglu_limit: keys.optional("swiglu_limit", &POSITIVE)?.unwrap_or(7.0),
        experts: Vec::new(),
        experts_per_token: 0,
        windows: Vec::new(),
        rms_norm_eps: 0.0,
        rope: Rope::default(),
        tied: false,
        attention_bias: true,
    })
}

/// The model's definition: even layers have the window, odd layers see everything.
fn alternating_windows(layers: u64, window: Option<u64>) -> Vec<Option<u64>> {
    (0..layers).map(|layer| window.filter(|_| layer % 2 == 0)).collect()
}

fn openai(keys: &mut ConfigReader) -> Result<Config> {
    let layers = keys.required("num_hidden_layers", &LAYERS)?;
    let window = Some(keys.required("sliding_window", &SIZE_OR_ZERO)?).filter(|size| *size > 0);
    Ok(Config {
        experts: vec![keys.required("num_experts", &SIZE)?; layers as usize],
        experts_per_token: keys.required("experts_per_token", &SIZE)?,
        windows: alternating_windows(layers, window),
        // A constant of the reference implementation.
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: keys.required("rope_theta", &POSITIVE)?,
            factor: keys.required("rope_scaling_factor", &POSITIVE)?,
            initial_context: keys.required("initial_context_length", &POSITIVE)?,
            slow: keys.required("rope_ntk_alpha", &POSITIVE)?,
            fast: keys.required("rope_ntk_beta", &POSITIVE)?,
        },
        tied: false,
        attention_bias: true,
        ..common(keys)?
    })
}

fn hugging_face(keys: &mut ConfigReader) -> Result<Config> {
    keys.require_only("model_type", &json!("gpt_oss"))?;
    keys.allow_only("hidden_act", &json!("silu"))?;
    // A constant of OpenAI's implementation.
    keys.allow_only("swiglu_alpha", &json!(1.702))?;
    refuse_quantized(keys)?;
    let layers = keys.required("num_hidden_layers", &LAYERS)?;
    let experts = keys.either(["num_local_experts", "num_experts"], &SIZE)?;
    let used = ["num_experts_per_tok", "experts_per_token"];
    Ok(Config {
        experts: vec![experts; layers as usize],
        experts_per_token: keys.either(used, &SIZE)?,
        windows: windows(keys, layers)?,
        rms_norm_eps: keys.optional("rms_norm_eps", &POSITIVE)?.unwrap_or(1e-5),
        rope: rope(keys)?,
        tied: keys.optional("tie_word_embeddings", &BOOL)?.unwrap_or(false),
        attention_bias: keys.optional("attention_bias", &BOOL)?.unwrap_or(true),
        ..common(keys)?
    })
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
        "`{}`: weights quantized with {method:?} cannot be read, only MXFP4 as released; export the unquantized model, or {}",
        keys.file,
        suggest::USE_SOURCE
    );
    Ok(())
}

/// `layer_types` names the attention of each layer; without it they alternate. The window
/// must be given: without it transformers takes 128.
fn windows(keys: &mut ConfigReader, layers: u64) -> Result<Vec<Option<u64>>> {
    let types = keys.optional("layer_types", &LIST)?;
    let window = keys.optional("sliding_window", &SIZE)?;
    let required = || window.ok_or_else(|| keys.missing("sliding_window"));
    let Some(types) = types else { return Ok(alternating_windows(layers, Some(required()?))) };
    if types.len() as u64 != layers {
        let expected = format!("a list of {layers} entries (`num_hidden_layers`)");
        return Err(keys.invalid("layer_types", &expected, &types.into()));
    }
    let expected = "a list of \"sliding_attention\" and \"full_attention\"";
    let window_of = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => required().map(Some),
        _ => Err(keys.invalid("layer_types", expected, kind)),
    };
    types.iter().map(window_of).collect()
}

/// Version 4 has `rope_scaling`, with `rope_theta` beside it; version 5 has
/// `rope_parameters`, with `rope_theta` in it. Without either, versions differ in what
/// they compute.
fn rope(keys: &mut ConfigReader) -> Result<Rope> {
    let objects = ["rope_scaling.", "rope_parameters."];
    let [first, second] = keys.chosen(objects);
    let rope = first.then(|| rope_in(keys, objects[0])).transpose()?;
    let other = second.then(|| rope_in(keys, objects[1])).transpose()?;
    if rope.is_some() && other.is_some() && rope != other {
        let error = err!("`{}`: `rope_parameters` must be the same as `rope_scaling`", keys.file);
        return Err(choose(&error, ["rope_parameters.*", "rope_scaling.*"]));
    }
    let expected = "an object, {\"rope_type\": \"default\"} for no scaling";
    rope.or(other).ok_or_else(|| keys.invalid("rope_scaling", expected, &Value::Null))
}

fn rope_in(keys: &mut ConfigReader, object: &str) -> Result<Rope> {
    let path = |key: &str| format!("{object}{key}");
    let theta = keys.either(["rope_theta", &path("rope_theta")], &POSITIVE)?;
    let rope_type = keys.either([&path("rope_type"), &path("type")], &STRING)?;
    if rope_type == "default" {
        let initial_context = keys.peek("max_position_embeddings", &POSITIVE)?.unwrap_or(4096.0);
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

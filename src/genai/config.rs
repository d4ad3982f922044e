//! `genai_config.json`.

use serde_json::{Value, json};

use super::{Error, Generation, Result};
use crate::checkpoint::Config;
use crate::model::Provider;
use crate::tensor::DType;

/// What a cache of the default length may take. onnxruntime-genai makes room
/// for `max_length` tokens at once: the 20B's whole context would take 12.9 GB.
const CACHE_BYTES: u64 = 1 << 30;

/// Tokens of a prompt that are handled at once. Attention holds a score for
/// every head, token and place, so a long prompt at once takes more memory and
/// time. onnxruntime-genai can do this for a single row only.
const CHUNK: u64 = 512;

/// How the model is to be used.
pub struct Setup<'s> {
    /// The model's file name.
    pub model: &'s str,
    /// Rows in a batch, when that is fixed.
    pub batch: Option<u64>,
    /// Whether one buffer can hold earlier keys and values and take this step's
    /// too, as ONNX Runtime's own operators can.
    pub shared_buffer: bool,
    /// What the cache holds.
    pub cache: DType,
    /// Which execution provider runs it.
    pub provider: Provider,
    /// The longest text, prompt included; a default that fits a laptop otherwise.
    pub max_length: Option<u64>,
}

/// The file's text, and its `max_length`.
pub fn genai_config(
    config: &Config,
    generation: &Generation,
    setup: &Setup,
) -> Result<(String, u64)> {
    let context = config.rope.context();
    let max_length = match setup.max_length {
        Some(asked) if asked > context => return Err(Error::TooLong { asked, context }),
        Some(asked) => asked,
        None => default_length(config, setup).min(context),
    };
    let mut search = generation.search.clone();
    search.insert("max_length".to_owned(), max_length.into());
    search.insert("past_present_share_buffer".to_owned(), setup.shared_buffer.into());
    if setup.batch == Some(1) {
        search.insert("chunk_size".to_owned(), CHUNK.into());
    }
    let text = json!({
        "model": {
            "type": "gptoss",
            "vocab_size": config.vocab_size,
            "context_length": context,
            "bos_token_id": generation.bos,
            "eos_token_id": generation.eos,
            "pad_token_id": generation.pad,
            "decoder": decoder(config, setup),
        },
        "search": search,
    });
    let mut text = serde_json::to_string_pretty(&text).expect("plain data");
    text.push('\n');
    Ok((text, max_length))
}

/// No `sliding_window` here: that would have caches shortened, and the graph's
/// hold every token.
fn decoder(config: &Config, setup: &Setup) -> Value {
    json!({
        "filename": setup.model,
        "num_hidden_layers": config.num_layers(),
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_size": config.head_dim,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "session_options": { "provider_options": provider_options(setup.provider) },
    })
}

/// The providers to ask before the CPU, with what their users set most.
fn provider_options(provider: Provider) -> Value {
    match provider {
        Provider::Cpu => json!([]),
        Provider::Cuda => json!([{ "cuda": { "enable_cuda_graph": "0" } }]),
        Provider::WebGpu => json!([{ "webgpu": { "enableGraphCapture": "0" } }]),
    }
}

/// The name of the model that a config describes, when it can be read.
pub fn described_model(text: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(text).ok()?;
    Some(config.pointer("/model/decoder/filename")?.as_str()?.to_owned())
}

/// Bytes of a cache for one token of each row.
pub fn bytes_per_token(config: &Config, setup: &Setup) -> u64 {
    let heads = config.num_layers() as u64 * 2 * config.num_kv_heads;
    let width = config.head_dim * setup.cache.size();
    heads.saturating_mul(width).saturating_mul(setup.batch.unwrap_or(1))
}

/// The largest power of two for which the cache of a batch fits.
fn default_length(config: &Config, setup: &Setup) -> u64 {
    let token = bytes_per_token(config, setup);
    let most = (CACHE_BYTES / token).max(1);
    1 << most.ilog2()
}

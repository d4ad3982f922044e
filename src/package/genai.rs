//! The package for onnxruntime-genai: `genai_config.json` and the tokenizer in the
//! model's folder.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::chunk;
use super::generation::{GENAI_CONFIG, Generation};
use super::tokenizer::{self, GENERATION_CONFIG};
use super::{GenaiSummary, Package, PackagedModel, model_name};
use crate::checkpoint::{CONFIG, Config, LARGEST_CONFIG};
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::files::digest::sha256;
use crate::files::{json, parent_dir};
use crate::model::{GraphOptions, Provider, SLACK, SlidingCache, Target};

/// Limit to the size of a cache of the default length. onnxruntime-genai allocates it for
/// `max_length` tokens at once: the 20B's whole context would take 12.9 GB.
const DEFAULT_CACHE_BYTES: u64 = 1 << 30;

/// The largest chunk that has the logits of all its tokens: those of the 20B are 103 MB.
const LARGEST_SPECULATIVE_CHUNK: u64 = 128;

/// Whether the graph appends to buffers of past keys and values in place. In others
/// onnxruntime-genai goes back in a text to the wrong tokens if caches are limited to a window.
pub fn shares_buffers(options: &GraphOptions) -> bool {
    options.target == Target::Ort
}

/// Refuses a graph that onnxruntime-genai cannot use.
pub fn check(options: &GraphOptions, speculative: bool) -> Result<()> {
    let mut errors = Vec::new();
    if speculative {
        errors.extend(speculation_errors(options));
    } else if options.sliding_cache == SlidingCache::Window && !shares_buffers(options) {
        let error = err!(
            "onnxruntime-genai does not support target `{}` with caches that are limited to the window: it would go back in a text to the wrong tokens",
            options.target
        );
        errors.push(
            error
                .with_remedy(Setting::SlidingCache, SlidingCache::Full.to_string())
                .with_remedy(Setting::Target, Target::Ort.to_string()),
        );
    }
    if options.length.is_some() {
        errors.push(err!(
            "onnxruntime-genai takes prompts of any length, so the sequence length cannot be fixed"
        ));
    }
    Error::all(errors)
}

/// What keeps onnxruntime-genai from verifying drafts with a graph, and from dropping rejected ones.
fn speculation_errors(options: &GraphOptions) -> Vec<Error> {
    let GraphOptions { target, batch, last_logits, sliding_cache, .. } = *options;
    let mut errors = Vec::new();
    if !shares_buffers(options) {
        let error = err!(
            "speculative decoding does not support target `{target}`: onnxruntime-genai would continue a text after the wrong tokens"
        );
        errors.push(error.with_remedy(Setting::Target, Target::Ort.to_string()));
    }
    if sliding_cache == SlidingCache::Window {
        let error = err!(
            "speculative decoding goes back in a text when a draft is rejected, and caches that are limited to the window have lost its tokens"
        );
        errors.push(error.with_remedy(Setting::SlidingCache, SlidingCache::Full.to_string()));
    }
    if let Some(rows @ 2..) = batch {
        let error =
            err!("speculative decoding supports one row in a batch, and {rows} are asked for");
        errors.push(error.with_remedy(Setting::BatchSize, "1"));
    }
    if last_logits {
        errors.push(err!(
            "speculative decoding verifies drafts by the logits of all tokens: do not ask for those of the last token alone"
        ));
    }
    errors
}

/// Plans the package: reads files, and writes none. An existing config is replaced if it has the digest
/// `written`, which the existing model records.
pub fn plan(
    model: &PackagedModel,
    asked_max_length: Option<u64>,
    speculative: bool,
    written: Option<&str>,
) -> Result<Package> {
    let (config, options) = (&model.checkpoint.config, model.options);
    let dir = parent_dir(model.path);
    let dirs = tokenizer::checkpoint_dirs(model.checkpoint_dir)?;
    // The output folder's own config may be another model's.
    let configs: Vec<PathBuf> = dirs.iter().map(|dir| dir.join(CONFIG)).collect();
    let with_output = [&dirs[..], &[dir.to_owned()]].concat();
    let generation_config = tokenizer::find(&with_output, GENERATION_CONFIG)?;
    let generation = Generation::read(generation_config.as_deref(), &configs, config.vocab_size)?;
    let max_length = max_length(asked_max_length, config, options)?;
    let name = model_name(model.path)?;
    let text = genai_config(name, config, options, &generation, max_length, speculative);
    let path = dir.join(GENAI_CONFIG);
    let replaced = replaces(&path, name, &text, written)?;
    let (copies, tokenizer) = model.tokenizer(&dirs, dir)?;
    let summary = GenaiSummary {
        config: path.clone(),
        replaced,
        max_length,
        speculative,
        cache_bytes: cache_bytes(config, options, max_length),
        eos_token_ids: generation.eos,
        eos_assumed: generation.eos_assumed,
        left_out: generation.left_out,
        tokenizer,
    };
    Ok(Package { copies, config: Some((path, text)), genai: Some(summary), ..Package::default() })
}

/// The longest text in tokens: the one asked for if it fits the model's context, or else
/// the context or the largest power of two for which the cache of a batch fits
/// [`DEFAULT_CACHE_BYTES`].
fn max_length(asked: Option<u64>, config: &Config, options: &GraphOptions) -> Result<u64> {
    let context = config.rope.context();
    let powers = (0..u64::BITS).rev().map(|exponent| 1 << exponent).filter(|it| *it < context);
    let fits = |length: &u64| cache_bytes(config, options, *length) <= DEFAULT_CACHE_BYTES;
    let length =
        asked.unwrap_or_else(|| [context].into_iter().chain(powers).find(fits).unwrap_or(1));
    if length > context {
        let error =
            err!("the maximum length is {length} tokens, and the model's context is {context}");
        return Err(error.with_remedy(Setting::MaxLength, context.to_string()));
    }
    Ok(length)
}

/// Bytes of the cache for a text of this length in each row of a batch.
fn cache_bytes(config: &Config, options: &GraphOptions, length: u64) -> u64 {
    // Beside the window a limited cache has places for a chunk, or for the slack if that is more.
    let beyond = chunk_size(config, options, length).map_or(SLACK, |chunk| SLACK.max(chunk - 1));
    let short = limited_layers(config, options)
        .map_or(length, |(window, _)| window.saturating_add(beyond).min(length));
    let places = config.windows.iter().map(|window| match options.cache_window(*window) {
        Some(_) => short,
        None => length,
    });
    let bytes = 2 * config.num_kv_heads * config.head_dim * options.compute.size();
    let row = places.fold(0, u64::saturating_add).saturating_mul(bytes);
    row.saturating_mul(options.batch.unwrap_or(1))
}

/// The layers with limited caches, and the largest of their windows: onnxruntime-genai knows one
/// for all of them.
fn limited_layers(config: &Config, options: &GraphOptions) -> Option<(u64, Vec<usize>)> {
    let windows = config.windows.iter().map(|window| options.cache_window(*window)).enumerate();
    let limited = windows.filter_map(|(n, window)| Some((window?, n)));
    let (windows, layers): (Vec<u64>, Vec<usize>) = limited.unzip();
    Some((windows.into_iter().max()?, layers))
}

/// Prompt tokens that are processed at once, in texts of this length. onnxruntime-genai splits
/// prompts for batches of one row only.
fn chunk_size(config: &Config, options: &GraphOptions, length: u64) -> Option<u64> {
    (options.batch == Some(1)).then(|| chunk::chunk_size(config.num_heads, length))
}

fn genai_config(
    name: &str,
    config: &Config,
    options: &GraphOptions,
    generation: &Generation,
    max_length: u64,
    speculative: bool,
) -> String {
    let mut search = Value::Object(generation.search.clone());
    search["max_length"] = max_length.into();
    search["past_present_share_buffer"] = shares_buffers(options).into();
    if let Some(size) = chunk_size(config, options, max_length) {
        let size = if speculative { size.min(LARGEST_SPECULATIVE_CHUNK) } else { size };
        search["chunk_size"] = size.into();
    }
    // The providers to use before the CPU, with the options that are set most.
    let provider_options = match options.provider {
        Provider::Cpu => json!([]),
        Provider::Cuda => json!([{ "cuda": { "enable_cuda_graph": "0" } }]),
        Provider::WebGpu => json!([{ "webgpu": { "enableGraphCapture": "0" } }]),
    };
    let mut genai_config = json!({
        "model": {
            "type": "gptoss",
            "vocab_size": config.vocab_size,
            "context_length": config.rope.context(),
            "bos_token_id": generation.bos,
            "eos_token_id": generation.eos,
            "pad_token_id": generation.pad,
            "decoder": {
                "filename": name,
                "num_hidden_layers": config.num_layers(),
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_heads,
                "num_key_value_heads": config.num_kv_heads,
                "head_size": config.head_dim,
                "inputs": {
                    "input_ids": "input_ids", "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key", "present_value_names": "present.%d.value",
                },
                "session_options": { "provider_options": provider_options },
            },
        },
        "search": search,
    });
    if let Some((window, layers)) = limited_layers(config, options) {
        genai_config["model"]["decoder"]["sliding_window"] = json!({
            "window_size": window,
            "cache_slack": SLACK,
            // The graph drops tokens itself, and takes all of a prompt.
            "slide_key_value_cache": false,
            "slide_inputs": false,
            "layers": layers,
        });
    }
    if speculative {
        genai_config["speculative"] = json!({
            "ngram_size": 4,
            "max_draft_tokens": 8,
            "ngram_chained_lookup": true,
            "min_adaptive_k": 2,
            "cooldown": false,
        });
    }
    format!("{genai_config:#}\n")
}

/// The config beside a model that is written without one, and of which it has the name.
pub fn outdated(model: &Path) -> Option<PathBuf> {
    let path = parent_dir(model).join(GENAI_CONFIG);
    let existing = json::read(&path, LARGEST_CONFIG).ok()?;
    (described(&existing).as_deref() == model.file_name()?.to_str()).then_some(path)
}

/// The name of the model that a `genai_config.json` describes.
fn described(config: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(config).ok()?;
    config.pointer("/model/decoder/filename")?.as_str().map(str::to_owned)
}

/// Whether a different `genai_config.json` will be replaced. Refuses to replace the config of another
/// model in the folder, and an edited one, which does not have the digest `written`.
fn replaces(path: &Path, model: &str, text: &str, written: Option<&str>) -> Result<bool> {
    ensure!(!path.is_dir(), "`{}` is a folder, expected a file to write", path.display());
    if !path.is_file() {
        return Ok(false);
    }
    let existing = json::read(path, LARGEST_CONFIG)?;
    let other = described(&existing).filter(|it| it != model);
    if let Some(other) = other.filter(|it| parent_dir(path).join(it).exists()) {
        let path = path.display();
        bail!(
            "`{path}` describes another model, `{other}`, and onnxruntime-genai opens one model in a folder: choose another output folder, or move the file away"
        );
    }
    if existing == text.as_bytes() {
        return Ok(false);
    }
    ensure!(
        written == Some(&*sha256(&existing)),
        "`{}` differs from the file to write, and is not as the export of `{model}` wrote it, so that edits would be lost: move it away, or choose another output folder",
        path.display()
    );
    Ok(true)
}

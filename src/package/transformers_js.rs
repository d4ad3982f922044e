//! The package for transformers.js: `config.json` and the tokenizer in the root of a
//! repository, whose folder `onnx` has the model.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Package, PackagedModel, TransformersJsSummary, model_name, tokenizer};
use crate::checkpoint::{BLOCKS, CONFIG, Config, LARGEST_CONFIG, PUZZLE, is_checkpoint};
use crate::display::size;
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::files::{canonicalize_existing, json, parent_dir};
use crate::model::{GraphOptions, Provider, SlidingCache, Target};
use crate::tensor::DType;

/// The most bytes of a file: browsers take less than 2 GB.
pub const MAX_FILE_BYTES: u64 = 2_000_000_000;

/// The folder of models in a repository.
pub const MODEL_DIR: &str = "onnx";
const MAX_DATA_FILES: usize = 100;
const KEY: &str = "transformers.js_config";

/// The suffixes of model files, and the `dtype` by which users choose each.
const DTYPES: [(&str, &str); 8] = [
    ("", "fp32"),
    ("_fp16", "fp16"),
    ("_quantized", "q8"),
    ("_int8", "int8"),
    ("_uint8", "uint8"),
    ("_q4", "q4"),
    ("_q4f16", "q4f16"),
    ("_bnb4", "bnb4"),
];

/// Refuses what transformers.js cannot use, whatever the checkpoint is.
pub fn check(model: &Path, options: &GraphOptions, max_shard_size: Option<u64>) -> Result<()> {
    if options.target == Target::Ort && options.provider != Provider::WebGpu {
        return Err(err!(
            "transformers.js cannot run ONNX Runtime's operators for the execution provider `{}`",
            options.provider
        )
        .with_remedy(Setting::Provider, "webgpu")
        .with_remedy(Setting::Target, "onnx"));
    }
    ensure!(
        options.length.is_none(),
        "transformers.js takes prompts of any length, so the sequence length cannot be fixed"
    );
    if options.compute == DType::BF16 {
        return Err(err!("transformers.js has no tensors in bf16")
            .with_remedy(Setting::Compute, "f16")
            .with_remedy(Setting::Compute, "f32"));
    }
    if let Some(asked) = max_shard_size.filter(|asked| *asked > MAX_FILE_BYTES) {
        let [asked, most] = [asked, MAX_FILE_BYTES].map(size);
        return Err(err!(
            "the maximum shard size is {asked}, and browsers take files of at most {most}"
        )
        .with_remedy(Setting::MaxShardSize, "2GB"));
    }
    let (name, dir) = (model_name(model)?, model_dir(model)?);
    if let Err(error) = dtype(name) {
        let name = if options.compute == DType::F16 { "model_q4f16.onnx" } else { "model.onnx" };
        return Err(error.with_remedy(Setting::Output, output(&dir, name)));
    }
    if !dir.ends_with(MODEL_DIR) {
        return Err(err!(
            "transformers.js looks for models in a folder called `{MODEL_DIR}`, found `{}`",
            model.display()
        )
        .with_remedy(Setting::Output, output(&dir, name)));
    }
    Ok(())
}

/// Whether the first cache is as long as the text: transformers.js takes the length from it.
pub fn can_measure(config: &Config, options: &GraphOptions) -> bool {
    config.windows.iter().any(|window| options.cache_window(*window).is_none())
}

/// The path of a model of this name in a folder, or in the folder for models below it.
fn output(dir: &Path, name: &str) -> String {
    let dir = if dir.ends_with(MODEL_DIR) { dir.to_owned() } else { dir.join(MODEL_DIR) };
    dir.join(name).display().to_string()
}

pub fn data_file(model: &Path, at: usize) -> Result<String> {
    let name = model_name(model)?;
    Ok(if at == 0 { format!("{name}_data") } else { format!("{name}_data_{at}") })
}

/// Plans the package for a model with so many data files: reads files, and writes none.
pub fn plan(model: &PackagedModel, data_files: usize) -> Result<Package> {
    ensure!(
        data_files <= MAX_DATA_FILES,
        "the weights take {data_files} data files, and transformers.js looks for at most {MAX_DATA_FILES}: use a larger maximum shard size, or smaller formats"
    );
    if !can_measure(&model.checkpoint.config, model.options) {
        return Err(err!(
            "transformers.js takes the length of a text from the first cache, and no layer of this model keeps all tokens: keep full caches"
        )
        .with_remedy(Setting::SlidingCache, SlidingCache::Full.to_string()));
    }
    let folder = parent_dir(&model_dir(model.path)?).to_owned();
    let path = folder.join(CONFIG);
    let dirs = tokenizer::checkpoint_dirs(model.checkpoint_dir)?;
    let real = canonicalize_existing(&folder)?;
    let is_root = |dir: &PathBuf| canonicalize_existing(dir).is_ok_and(|dir| dir == real);
    ensure!(
        !is_checkpoint(&folder) && !dirs.iter().any(is_root),
        "`{}` belongs to a checkpoint and would be changed: choose an output folder outside the checkpoint",
        path.display()
    );
    let (source, text, mut config) = find_config(&folder, &dirs)?;
    json::reject_duplicate_keys(&text)
        .map_err(Error::new)
        .and_then(|()| add_entry(&mut config, model, data_files))
        .map_err(|why| err!("`{}` is not a config of this model: {why}", source.display()))?;
    let (copies, tokenizer) = model.tokenizer(&dirs, &folder)?;
    let device = if model.options.provider == Provider::WebGpu { "webgpu" } else { "wasm" };
    let dtype = dtype(model_name(model.path)?)?;
    let replaces_bf16 = model.replaces_bf16;
    let summary = TransformersJsSummary { folder, dtype, device, replaces_bf16, tokenizer };
    let config = Some((path, format!("{config:#}\n")));
    Ok(Package { copies, config, transformers_js: Some(summary), ..Package::default() })
}

/// The model's folder by a path that ends in its name.
fn model_dir(model: &Path) -> Result<PathBuf> {
    let dir = parent_dir(model);
    Ok(if dir.file_name().is_some() { dir.to_owned() } else { canonicalize_existing(dir)? })
}

fn dtype(name: &str) -> Result<&'static str> {
    let suffix = name.strip_suffix(".onnx").and_then(|stem| stem.strip_prefix("model"));
    let known = DTYPES.into_iter().find(|(known, _)| Some(*known) == suffix);
    known.map(|(_, dtype)| dtype).ok_or_else(|| {
        err!(
            "transformers.js looks for `model.onnx` or `model_DTYPE.onnx` with fp16, quantized, int8, uint8, q4, q4f16 or bnb4 as DTYPE, found `{name}`"
        )
    })
}

/// The first `config.json` in Hugging Face's format: its path, text and value. The
/// repository's own comes first: it may have entries of other models.
fn find_config(repo_root: &PathBuf, dirs: &[PathBuf]) -> Result<(PathBuf, Vec<u8>, Value)> {
    let paths = [repo_root].into_iter().chain(dirs).map(|dir| dir.join(CONFIG));
    for path in paths.filter(|path| path.exists()) {
        let text = json::read(&path, LARGEST_CONFIG)?;
        let config: Value = serde_json::from_slice(&text).unwrap_or_default();
        if config["model_type"].is_string() {
            return Ok((path, text, config));
        }
    }
    bail!(
        "transformers.js needs a config.json in Hugging Face's format, and there is none beside the weights or the model: copy that of the checkpoint in Hugging Face's layout into `{}`",
        repo_root.display()
    )
}

/// Adds the number of data files and (for transformers.js up to 4.1) the cache's dtype.
/// Entries of other model files are kept.
fn add_entry(config: &mut Value, model: &PackagedModel, data_files: usize) -> Result<()> {
    let object = config.as_object_mut().expect("an object with a model_type");
    let weights = &model.checkpoint.config;
    for (key, size) in [
        ("num_hidden_layers", model.checkpoint.layers_there as u64),
        ("vocab_size", weights.vocab_size),
        ("hidden_size", weights.hidden_size),
        ("num_attention_heads", weights.num_heads),
        ("num_key_value_heads", weights.num_kv_heads),
        ("head_dim", weights.head_dim),
    ] {
        if let Some(found) = object.get(key).filter(|found| found.as_u64() != Some(size)) {
            bail!("its `{key}` is {found}, and the weights have {size}");
        }
    }
    let layers = weights.num_layers();
    object.insert("num_hidden_layers".to_owned(), layers.into());
    if let Some(types) = object.get_mut("layer_types").and_then(Value::as_array_mut) {
        types.truncate(layers);
    }
    // It knows no other type for these graphs, of which it reads the sizes alone.
    if object.get("model_type") == Some(&json!(PUZZLE)) {
        object.insert("model_type".to_owned(), json!("gpt_oss"));
        object.remove(BLOCKS);
    }
    let settings = object.entry(KEY).or_insert_with(|| json!({}));
    let invalid = || err!("`{KEY}` is not a JSON object");
    let settings = settings.as_object_mut().ok_or_else(invalid)?;
    let name = model_name(model.path)?;
    let models = DTYPES.map(|(suffix, _)| format!("model{suffix}.onnx"));
    set(settings, "use_external_data_format", &models, name, data_files.into());
    let dtypes = DTYPES.map(|(_, dtype)| dtype.to_owned());
    let cache_dtype = if model.options.compute == DType::F16 { "float16" } else { "float32" };
    set(settings, "kv_cache_dtype", &dtypes, dtype(name)?, cache_dtype.into());
    Ok(())
}

/// Sets the value of a key for `one` model file. A value for all of them is kept for each.
fn set(settings: &mut Map<String, Value>, key: &str, all: &[String], one: &str, value: Value) {
    let values = settings.entry(key).or_insert_with(|| json!({}));
    if !values.is_object() {
        *values = all.iter().map(|name| (name.clone(), values.clone())).collect();
    }
    values[one] = value;
}

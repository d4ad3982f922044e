//! What transformers.js reads of a repository: `config.json`, with a word on how many
//! files of data a model in the folder `onnx` has.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::display::size;
use crate::files::json;
use crate::tensor::DType;

/// The folder in which it looks for models.
pub const FOLDER: &str = "onnx";
/// The name by which it knows the batch axis.
pub const BATCH: &str = "batch_size";
/// The key of the config that is its own.
const KEY: &str = "transformers.js_config";

/// Why there is no such config.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    File(#[from] crate::error::Error),
    #[error(
        "transformers.js looks for `model.onnx` or `model_DTYPE.onnx` with a dtype of fp16, quantized, int8, uint8, q4, q4f16 or bnb4, and not for `{0}`"
    )]
    Name(String),
    #[error("--transformers-js wants the model in a folder called {FOLDER}, beside which config.json and the tokenizer are: for example --output {}", .0.display())]
    Folder(PathBuf),
    #[error(
        "--transformers-js does not go with --target ort and --ep cpu or cuda, whose graphs onnxruntime-web does not know: use --ep webgpu, or --target onnx"
    )]
    Provider,
    #[error(
        "transformers.js gives texts of any length, so --transformers-js does not go with --seq-len"
    )]
    Length,
    #[error("transformers.js has no tensors in bf16: use --compute f16 or f32")]
    Compute,
    #[error("a browser takes files of at most {} with --transformers-js: leave out --max-shard-size, or give less", size(*.0))]
    FileSize(u64),
    #[error(
        "transformers.js looks for {most} files of data at most, and these weights take {files}: give a larger --max-shard-size, or smaller formats"
    )]
    Files { files: usize, most: usize },
    #[error("--transformers-js would change `{}`, which is the checkpoint's own: take another folder than the checkpoint's for --output", .0.display())]
    OverSource(PathBuf),
    #[error("there is no config.json of Hugging Face's beside the weights or the model, which transformers.js needs: take the one of the checkpoint in Hugging Face's layout, and put it into `{}`", .0.display())]
    NoConfig(PathBuf),
    #[error("`{}` is no config of this model: {reason}", path.display())]
    Json { path: PathBuf, reason: String },
}

/// Whether a config is one of Hugging Face's, by which transformers.js knows the model.
pub fn is_config(text: &[u8]) -> bool {
    let config: Option<Value> = serde_json::from_slice(text).ok();
    config.is_some_and(|config| config["model_type"].is_string())
}

/// A model file, as its repository's config speaks of it.
#[derive(Clone, Copy, Debug)]
pub struct Model<'m> {
    /// The file's name.
    pub name: &'m str,
    /// The word that it is chosen by.
    pub dtype: &'m str,
    /// How many files of data it has.
    pub files: usize,
    /// What its cache holds.
    pub cache: DType,
}

/// The config with what transformers.js needs to know of a model file: how many files
/// of data it has, and (up to its version 4.1) what its cache holds. What is said of
/// other files stays. The config is that of a model of these sizes, of whose layers some
/// may have been kept.
pub fn config(
    text: &[u8],
    model: &Model,
    sizes: &[(&str, u64)],
    layers: usize,
) -> Result<String, String> {
    json::reject_duplicate_keys(text)?;
    let mut config: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let object = config.as_object_mut().ok_or("it is not a JSON object")?;
    for (key, size) in sizes {
        match object.get(*key) {
            Some(found) if found.as_u64() != Some(*size) => {
                return Err(format!("its `{key}` is {found}, and the weights have {size}"));
            }
            _ => {}
        }
    }
    object.insert("num_hidden_layers".to_owned(), layers.into());
    if let Some(types) = object.get_mut("layer_types").and_then(Value::as_array_mut) {
        types.truncate(layers);
    }
    let own = object.entry(KEY).or_insert_with(|| json!({}));
    let own = own.as_object_mut().ok_or(format!("`{KEY}` is not a JSON object"))?;
    let models = DTYPES.map(|(ending, _)| format!("model{ending}.onnx"));
    say(own, "use_external_data_format", &models, (model.name, model.files.into()));
    let words = DTYPES.map(|(_, word)| word.to_owned());
    let dtype = if model.cache == DType::F16 { "float16" } else { "float32" };
    say(own, "kv_cache_dtype", &words, (model.dtype, dtype.into()));
    let mut text = serde_json::to_string_pretty(&config).expect("plain data");
    text.push('\n');
    Ok(text)
}

/// Says something of one file. What was said of all at once is said of each from now on.
fn say(own: &mut Map<String, Value>, key: &str, all: &[String], (one, value): (&str, Value)) {
    let said = own.entry(key).or_insert_with(|| json!({}));
    if !said.is_object() {
        let each = all.iter().map(|name| (name.clone(), said.clone()));
        *said = Value::Object(each.collect());
    }
    said[one] = value;
}

/// The endings of model files that it knows, and the words, `dtype`, that users choose
/// them by.
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

/// The word for a model file, by its name.
pub fn quantisation(name: &str) -> Result<&'static str, Error> {
    let ending = name.strip_suffix(".onnx").and_then(|stem| stem.strip_prefix("model"));
    let known = DTYPES.into_iter().find(|(known, _)| Some(*known) == ending);
    known.map(|(_, dtype)| dtype).ok_or_else(|| Error::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_config_serves_several_models() {
        let theirs = br#"{"model_type": "gpt_oss", "transformers.js_config": {"dtype": "q4"}}"#;
        let small = Model { name: "model_q4f16.onnx", dtype: "q4f16", files: 7, cache: DType::F16 };
        let plain = Model { name: "model.onnx", dtype: "fp32", files: 1, cache: DType::F32 };
        let once = config(theirs, &small, &[], 3).unwrap();
        let twice = config(once.as_bytes(), &plain, &[("num_hidden_layers", 3)], 2).unwrap();
        let found: Value = serde_json::from_str(&twice).unwrap();
        let expected = json!({
            "dtype": "q4",
            "use_external_data_format": {"model_q4f16.onnx": 7, "model.onnx": 1},
            "kv_cache_dtype": {"q4f16": "float16", "fp32": "float32"},
        });
        assert_eq!((&found[KEY], &found["model_type"]), (&expected, &json!("gpt_oss")));
        let of_all = br#"{"transformers.js_config": {"use_external_data_format": 3, "kv_cache_dtype": "float16"}}"#;
        let made =
            config(of_all, &Model { name: "model_q4.onnx", dtype: "q4", ..small }, &[], 3).unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        let [chunks, caches] =
            ["use_external_data_format", "kv_cache_dtype"].map(|key| &made[KEY][key]);
        assert_eq!((&chunks["model_q4.onnx"], &chunks["model_fp16.onnx"]), (&json!(7), &json!(3)));
        assert_eq!((&caches["q4"], &caches["fp16"]), (&json!("float16"), &json!("float16")));
        assert!(is_config(twice.as_bytes()) && !is_config(b"{}") && !is_config(b"["));
        assert_eq!(quantisation("model_quantized.onnx").unwrap(), "q8");
        assert!(quantisation("my_model.onnx").is_err() && quantisation("model.x").is_err());
        assert_eq!(found["num_hidden_layers"], 2);
        for (text, reason) in [
            (&b"[]"[..], "it is not a JSON object"),
            (b"{\"a\":1,\"a\":1}", "the key \"a\" stands there twice at line 1 column 13"),
            (b"{\"head_dim\":8}", "its `head_dim` is 8, and the weights have 64"),
        ] {
            assert_eq!(config(text, &plain, &[("head_dim", 64)], 1).unwrap_err(), reason);
        }
    }
}

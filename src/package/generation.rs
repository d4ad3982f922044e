//! `generation_config.json`: special tokens and sampling parameters.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::{ConfigReader, LARGEST_CONFIG};
use crate::error::{Result, bail};
use crate::files::json;

/// The config that onnxruntime-genai reads.
pub const GENAI_CONFIG: &str = "genai_config.json";

// Of the released models: `<|return|>`, `<|endoftext|>` and `<|call|>` end a text.
const EOS: [u64; 3] = [200_002, 199_999, 200_012];
const EOS_KEY: &str = "eos_token_id";
const BOS: u64 = 199_998;
const PAD: u64 = 199_999;

type Accepts = fn(&Value) -> bool;

/// Sampling parameters that mean the same to onnxruntime-genai, and the values that it accepts.
const SEARCH: [(&str, &str, Accepts); 5] = [
    ("do_sample", "true or false", Value::is_boolean),
    ("temperature", "a positive number", is_positive),
    ("top_k", "a whole number from 0", Value::is_u64),
    ("top_p", "a number from 0 to 1", |it| it.as_f64().is_some_and(|it| (0.0..=1.0).contains(&it))),
    ("repetition_penalty", "a positive number", is_positive),
];

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

pub struct Generation {
    /// Tokens that end a text.
    pub eos: Vec<u64>,
    pub bos: u64,
    pub pad: u64,
    /// Sampling parameters as in `generation_config.json`.
    pub search: Map<String, Value>,
    /// What is left out, because onnxruntime-genai does not accept it.
    pub left_out: Vec<String>,
    /// Whether `eos` is the released models', because no file names others.
    pub eos_assumed: bool,
}

impl Generation {
    /// Takes each token from `generation_config.json`, else from the first config of the
    /// model's vocabulary size that has it, else from the released models. Tokens that are not
    /// in the vocabulary never occur, and are left out.
    pub fn read(file: Option<&Path>, configs: &[PathBuf], vocab_size: u64) -> Result<Self> {
        let mut sources = TokenSources::open(file, configs, vocab_size)?;
        let mut search = Map::new();
        for (key, expected, accepts) in SEARCH {
            match sources.file.as_ref().and_then(|file| file.get(key)) {
                Some(value) if accepts(value) => {
                    search.insert(key.to_owned(), value.clone());
                }
                Some(value) => sources.left_out.push(unusable(key, value, expected)),
                None => {}
            }
        }
        let (eos, eos_assumed) = sources.required(EOS_KEY, &EOS)?;
        let bos = sources.required("bos_token_id", &[BOS])?.0[0];
        let pad = sources.required("pad_token_id", &[PAD])?.0[0];
        Ok(Self { eos, bos, pad, search, left_out: sources.left_out, eos_assumed })
    }
}

/// Tokens that end a text: those of `genai_config.json` in the model's folder, which describes this
/// model, otherwise those of [`Generation`]. None if no file names them, and the released models' are
/// not in the vocabulary.
pub fn ending_tokens(
    model_dir: &Path,
    file: Option<&Path>,
    configs: &[PathBuf],
    vocab_size: u64,
) -> Result<Vec<u64>> {
    let genai = model_dir.join(GENAI_CONFIG);
    if genai.is_file() {
        let config: Value = json::parse(genai.display(), &json::read(&genai, LARGEST_CONFIG)?)?;
        match &config["model"][EOS_KEY] {
            Value::Array(tokens) => return Ok(tokens.iter().filter_map(Value::as_u64).collect()),
            token => {
                if let Some(token) = token.as_u64() {
                    return Ok(vec![token]);
                }
            }
        }
    }
    let mut sources = TokenSources::open(file, configs, vocab_size)?;
    Ok(sources.tokens(EOS_KEY, &EOS).map_or_else(Vec::new, |(tokens, _)| tokens))
}

/// What is left out, and what onnxruntime-genai takes.
fn unusable(key: &str, value: &Value, expected: &str) -> String {
    let value: String = value.to_string().chars().take(100).collect();
    format!("{key} {value} (not {expected})")
}

struct TokenSources<'f> {
    /// `generation_config.json`, which has precedence.
    file: Option<ConfigReader<'f>>,
    configs: Vec<ConfigReader<'f>>,
    vocab_size: u64,
    left_out: Vec<String>,
}

impl TokenSources<'_> {
    fn open(file: Option<&Path>, configs: &[PathBuf], vocab_size: u64) -> Result<Self> {
        let read = |path: &Path| {
            let text = json::read(path, LARGEST_CONFIG)?;
            ConfigReader::parse(&path.display().to_string(), &text, &[])
        };
        let file = file.map(read).transpose()?;
        // A config that is broken or of another model is ignored.
        let configs = configs.iter().filter_map(|path| read(path).ok());
        let configs = configs.filter(|it| it.get("vocab_size") == Some(&vocab_size.into()));
        Ok(Self { file, configs: configs.collect(), vocab_size, left_out: Vec::new() })
    }

    /// The tokens of a key, and whether they are those of the released models. Where these
    /// are several, a file may have several. `None` if no file names one of the vocabulary, and
    /// the released models' are not in it.
    fn tokens(&mut self, key: &str, released: &[u64]) -> Option<(Vec<u64>, bool)> {
        for file in self.file.iter().chain(&self.configs) {
            let list = match file.get(key) {
                Some(Value::Array(list)) if released.len() > 1 || list.len() == 1 => list,
                Some(value) => std::slice::from_ref(value),
                None => continue,
            };
            let token = |value: &Value| value.as_u64().filter(|token| *token < self.vocab_size);
            let wrong = list.iter().filter(|value| token(value).is_none());
            self.left_out.extend(wrong.map(|it| unusable(key, it, "a token of the vocabulary")));
            let named: Vec<u64> = list.iter().filter_map(token).collect();
            if named.is_empty() {
                continue;
            }
            // The released models' config.json names one of the three.
            let is_config = self.file.as_ref().is_none_or(|own| own.file != file.file);
            if is_config && named == released[..1] {
                break;
            }
            return Some((named, false));
        }
        let is_ours = released.iter().all(|token| *token < self.vocab_size);
        is_ours.then(|| (released.to_vec(), true))
    }

    /// The same, or an error.
    fn required(&mut self, key: &str, released: &[u64]) -> Result<(Vec<u64>, bool)> {
        if let Some(tokens) = self.tokens(key, released) {
            return Ok(tokens);
        }
        let token = released.iter().find(|token| **token >= self.vocab_size).expect("one is not");
        let remedy = match &self.file {
            Some(file) => format!("set `{key}` in `{}`", file.file),
            None => {
                "put a generation_config.json with `eos_token_id`, `bos_token_id` and `pad_token_id` beside the weights".to_owned()
            }
        };
        bail!(
            "no file sets `{key}` to a token of the vocabulary of {} tokens, and the released models' {token} is not in it: {remedy}",
            self.vocab_size
        )
    }
}

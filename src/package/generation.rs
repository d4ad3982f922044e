//! `generation_config.json`: special tokens and sampling parameters.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::{ConfigReader, LARGEST_CONFIG};
use crate::error::{Result, bail};
use crate::files::json;

// Of the released models: `<|return|>`, `<|endoftext|>` and `<|call|>` end a text.
const EOS: [u64; 3] = [200_002, 199_999, 200_012];
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
    /// Whether `eos` is the released models', because no file names others.
    pub eos_assumed: bool,
}

impl Generation {
    /// Takes each token from `generation_config.json`, else from the first config of the
    /// model's vocabulary size that has it, else from the released models.
    pub fn read(file: Option<&Path>, configs: &[PathBuf], vocab_size: u64) -> Result<Self> {
        let read = |path: &Path| {
            let text = json::read(path, LARGEST_CONFIG)?;
            ConfigReader::parse(&path.display().to_string(), &text, &[])
        };
        let file = file.map(read).transpose()?;
        // A config that is broken or of another model is ignored.
        let configs = configs.iter().filter_map(|path| read(path).ok());
        let configs = configs.filter(|it| it.get("vocab_size") == Some(&vocab_size.into()));
        let mut search = Map::new();
        for (key, expected, accepts) in SEARCH {
            let Some(file) = &file else { break };
            let Some(value) = file.get(key) else { continue };
            if !accepts(value) {
                return Err(file.invalid(key, expected, value));
            }
            search.insert(key.to_owned(), value.clone());
        }
        let sources = TokenSources { file, configs: configs.collect(), vocab_size };
        let (eos, eos_assumed) = sources.tokens("eos_token_id", &EOS)?;
        let bos = sources.tokens("bos_token_id", &[BOS])?.0[0];
        let pad = sources.tokens("pad_token_id", &[PAD])?.0[0];
        Ok(Self { eos, bos, pad, search, eos_assumed })
    }
}

struct TokenSources<'f> {
    /// `generation_config.json`, which has precedence.
    file: Option<ConfigReader<'f>>,
    configs: Vec<ConfigReader<'f>>,
    vocab_size: u64,
}

impl TokenSources<'_> {
    /// The tokens of a key, and whether they are those of the released models. Where these
    /// are several, a file may have a list.
    fn tokens(&self, key: &str, released: &[u64]) -> Result<(Vec<u64>, bool)> {
        for file in self.file.iter().chain(&self.configs) {
            let list = match file.get(key) {
                Some(Value::Array(list)) if released.len() > 1 && !list.is_empty() => list,
                Some(value) => std::slice::from_ref(value),
                None => continue,
            };
            let token = |value: &Value| {
                let token = value.as_u64().filter(|token| *token < self.vocab_size);
                token.ok_or_else(|| file.invalid(key, "a token of the vocabulary", value))
            };
            let named = list.iter().map(token).collect::<Result<Vec<u64>>>()?;
            // The released models' config.json names one of the three.
            let is_config = self.file.as_ref().is_none_or(|own| own.file != file.file);
            if is_config && named == released[..1] {
                break;
            }
            return Ok((named, false));
        }
        let Some(token) = released.iter().find(|token| **token >= self.vocab_size) else {
            return Ok((released.to_vec(), true));
        };
        let keys = "eos_token_id, bos_token_id and pad_token_id";
        let remedy = match &self.file {
            Some(file) => format!("add {keys} to `{}`", file.file),
            None => format!("put a generation_config.json with {keys} beside the weights"),
        };
        bail!(
            "no file names the model's special tokens, and the released models' {key}, {token}, exceeds its vocabulary of {} tokens: {remedy}",
            self.vocab_size
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: u64 = 201_088;

    fn read(file: Option<&str>, configs: &[&str], vocab_size: u64) -> Result<Generation> {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let file = file.map(|text| write("generation_config.json", text));
        let configs = configs.iter().enumerate();
        let configs = configs.map(|(at, text)| write(&format!("{at}.json"), text));
        Generation::read(file.as_deref(), &configs.collect::<Vec<_>>(), vocab_size)
    }

    /// As in transformers. Sampling parameters come from the file alone.
    #[test]
    fn falls_back_on_configs_then_on_released_tokens() {
        const PUBLISHED: &str = r#"{"bos_token_id": 199998, "eos_token_id": [200002, 199999, 200012],
            "pad_token_id": 199999, "transformers_version": "4.55.0.dev0"}"#;
        const OWN: &str =
            r#"{"vocab_size": 201088, "eos_token_id": 2, "pad_token_id": 0, "top_k": "x"}"#;
        const OTHER: &str = r#"{"vocab_size": 320, "eos_token_id": 3}"#;
        const EMPTY: &str = r#"{"vocab_size": 201088}"#;
        const ONE: &str = r#"{"vocab_size": 201088, "eos_token_id": 200002}"#;
        const LIST: &str = r#"{"vocab_size": 201088, "eos_token_id": [200002]}"#;
        let cases: [(_, &[&str], &[u64], _, _); 8] = [
            (Some(PUBLISHED), &[], &EOS, PAD, false),
            (None, &[], &EOS, PAD, true),
            (Some(r#"{"eos_token_id": 7, "pad_token_id": null}"#), &[], &[7], PAD, false),
            (Some(r#"{"eos_token_id": [7, 8]}"#), &[OWN], &[7, 8], 0, false),
            (None, &[OTHER, "{", EMPTY, OWN], &[2], 0, false),
            (None, &[EMPTY], &EOS, PAD, true),
            (None, &[ONE], &EOS, PAD, true),
            (None, &[LIST], &EOS, PAD, true),
        ];
        for (file, configs, eos, pad, assumed) in cases {
            let found = read(file, configs, VOCAB).unwrap();
            assert_eq!((&*found.eos, found.pad, found.eos_assumed), (eos, pad, assumed));
            assert!(found.bos == BOS && found.search.is_empty());
        }
    }

    #[test]
    fn refuses_invalid_values() {
        // Without a file where its text is empty.
        for (file, vocab_size, sentence) in [
            (r#"{"eos_token_id": [1, "x"]}"#, VOCAB, "a token of the vocabulary, found \"x\""),
            (r#"{"eos_token_id": []}"#, VOCAB, "found []"),
            (r#"{"bos_token_id": -1}"#, VOCAB, "key `bos_token_id`"),
            (r#"{"pad_token_id": 201088}"#, VOCAB, "found 201088"),
            ("[]", VOCAB, "generation_config.json` is invalid: invalid type: sequence, expected a"),
            (r#"{"a": 1, "a": 1}"#, VOCAB, "duplicate key \"a\""),
            (r#"{"top_k": -1}"#, VOCAB, "key `top_k` must be a whole number from 0, found -1"),
            (r#"{"do_sample": 1}"#, VOCAB, "key `do_sample` must be true or false, found 1"),
            (r#"{"top_p": 3.0}"#, VOCAB, "key `top_p` must be a number from 0 to 1, found 3.0"),
            ("", 320, "eos_token_id, 200002, exceeds its vocabulary of 320 tokens: put a gen"),
            (r#"{"eos_token_id": 5}"#, 320, "bos_token_id, 199998, exceeds its vocabulary of 320"),
            (r#"{"eos_token_id": 5}"#, 320, "tokens: add eos_token_id"),
        ] {
            let file = Some(file).filter(|text| !text.is_empty());
            let error = read(file, &[], vocab_size).err().unwrap().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}

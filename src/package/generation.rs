//! `generation_config.json`: special tokens and sampling parameters.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::LARGEST_CONFIG;
use crate::error::{Error, Result, bail, err};
use crate::files::json;

// Of the released models: `<|return|>`, `<|endoftext|>` and `<|call|>` end a text.
const EOS: [u64; 3] = [200_002, 199_999, 200_012];
const BOS: u64 = 199_998;
const PAD: u64 = 199_999;

const EOS_KEY: &str = "eos_token_id";

/// Sampling parameters that mean the same to onnxruntime-genai, the values that it accepts in
/// words, and a test for them.
type SearchParameter = (&'static str, &'static str, fn(&Value) -> bool);

const SEARCH: [SearchParameter; 5] = [
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
    pub fn read(
        generation_config: Option<&Path>,
        configs: &[PathBuf],
        vocab_size: u64,
    ) -> Result<Self> {
        let file = generation_config.map(JsonFile::read).transpose()?;
        // A config that is broken or of another model is ignored.
        let configs = configs.iter().filter_map(|path| JsonFile::read(path).ok());
        let configs = configs.filter(|it| it.keys.get("vocab_size") == Some(&vocab_size.into()));
        let sources = TokenSources { file, configs: configs.collect(), vocab_size };

        let named = sources.tokens(EOS_KEY)?;
        let in_file = sources.file.as_ref().is_some_and(|it| it.get(EOS_KEY).is_some());
        // The released models' config.json names one of the three.
        let assumed = named.is_none() || (!in_file && named.as_deref() == Some(&EOS[..1]));
        Ok(Self {
            eos: named.filter(|_| !assumed).map_or_else(|| sources.released(EOS_KEY, &EOS), Ok)?,
            bos: sources.token("bos_token_id", BOS)?,
            pad: sources.token("pad_token_id", PAD)?,
            search: sources.file.as_ref().map_or_else(|| Ok(Map::new()), JsonFile::search)?,
            eos_assumed: assumed,
        })
    }
}

struct JsonFile<'f> {
    path: &'f Path,
    keys: Map<String, Value>,
}

impl<'f> JsonFile<'f> {
    fn read(path: &'f Path) -> Result<Self> {
        let keys = json::parse(path.display(), &json::read(path, LARGEST_CONFIG)?)?;
        Ok(Self { path, keys })
    }

    /// A key's value unless it is `null`.
    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        err!("`{}`: key `{key}` must be {expected}, found {found}", self.path.display())
    }

    /// The sampling parameters.
    fn search(&self) -> Result<Map<String, Value>> {
        let mut search = Map::new();
        for (key, expected, accepts) in SEARCH {
            let Some(value) = self.get(key) else { continue };
            if !accepts(value) {
                return Err(self.wrong(key, expected, value));
            }
            search.insert(key.to_owned(), value.clone());
        }
        Ok(search)
    }
}

/// The files that name special tokens.
struct TokenSources<'f> {
    /// `generation_config.json`, which has precedence.
    file: Option<JsonFile<'f>>,
    configs: Vec<JsonFile<'f>>,
    vocab_size: u64,
}

impl TokenSources<'_> {
    /// The tokens of a key, which may have one or, for the end of a text, a list.
    fn tokens(&self, key: &str) -> Result<Option<Vec<u64>>> {
        let mut files = self.file.iter().chain(&self.configs);
        let found = files.find_map(|file| Some((file, file.get(key)?)));
        let Some((file, value)) = found else { return Ok(None) };
        let list = match value {
            Value::Array(list) if key == EOS_KEY && !list.is_empty() => list,
            value => std::slice::from_ref(value),
        };
        let token = |value: &Value| {
            let token = value.as_u64().filter(|token| *token < self.vocab_size);
            token.ok_or_else(|| file.wrong(key, "a token of the vocabulary", value))
        };
        list.iter().map(token).collect::<Result<_>>().map(Some)
    }

    fn token(&self, key: &str, released: u64) -> Result<u64> {
        let named = self.tokens(key)?;
        Ok(named.map_or_else(|| self.released(key, &[released]), Ok)?[0])
    }

    /// Tokens of the released models, which the vocabulary must have.
    fn released(&self, key: &str, tokens: &[u64]) -> Result<Vec<u64>> {
        let Some(token) = tokens.iter().find(|token| **token >= self.vocab_size) else {
            return Ok(tokens.to_vec());
        };
        let keys = "eos_token_id, bos_token_id and pad_token_id";
        let remedy = match &self.file {
            Some(file) => format!("add {keys} to `{}`", file.path.display()),
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
        for (file, sentence) in [
            (r#"{"eos_token_id": [1, "x"]}"#, "must be a token of the vocabulary, found \"x\""),
            (r#"{"eos_token_id": []}"#, "found []"),
            (r#"{"bos_token_id": -1}"#, "key `bos_token_id`"),
            (r#"{"pad_token_id": 201088}"#, "found 201088"),
            ("[]", "generation_config.json` is invalid: invalid type: sequence, expected a map"),
            (r#"{"a": 1, "a": 1}"#, "duplicate key \"a\""),
            (r#"{"top_k": -1}"#, "key `top_k` must be a whole number from 0, found -1"),
            (r#"{"do_sample": 1}"#, "key `do_sample` must be true or false, found 1"),
            (r#"{"top_p": 3.0}"#, "key `top_p` must be a number from 0 to 1, found 3.0"),
        ] {
            let error = read(Some(file), &[], VOCAB).err().unwrap().to_string();
            assert!(error.contains(sentence), "{error}");
        }
        for (file, sentence) in [
            (None, "eos_token_id, 200002, exceeds its vocabulary of 320 tokens: put a gen"),
            (
                Some(r#"{"eos_token_id": 5}"#),
                "bos_token_id, 199998, exceeds its vocabulary of 320 tokens: add eos_token_id",
            ),
        ] {
            let error = read(file, &[], 320).err().unwrap().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}

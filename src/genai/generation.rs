//! `generation_config.json`: which tokens begin, end and pad a text, and how
//! the next token is chosen.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::{Map, Value};

use super::{Error, Result};

/// The name under which checkpoints have it.
pub const FILE: &str = "generation_config.json";

/// Of the released models: `<|return|>`, `<|endoftext|>`, `<|call|>`.
const EOS: [u64; 3] = [200_002, 199_999, 200_012];
/// `<|startoftext|>`
const BOS: u64 = 199_998;
/// `<|endoftext|>`
const PAD: u64 = 199_999;

/// Keys that mean the same to onnxruntime-genai.
const SEARCH: [&str; 5] = ["do_sample", "temperature", "top_k", "top_p", "repetition_penalty"];

/// What generation needs to know besides the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Tokens that end a text.
    pub eos: Vec<u64>,
    /// The token that begins one.
    pub bos: u64,
    /// The token that fills up shorter rows of a batch.
    pub pad: u64,
    /// Settings of the search, as they stand in the file.
    pub search: Map<String, Value>,
}

impl Generation {
    /// As the file says; what it does not say, or without one, as the released
    /// models have it, if the vocabulary does.
    pub fn read(file: Option<&Path>, vocab: u64) -> Result<Self> {
        let empty = (PathBuf::new(), Map::new());
        let (path, keys) = match file {
            Some(path) => (path.to_owned(), parse(path)?),
            None => empty,
        };
        let token = |key, value: &Value| {
            let found = || value.to_string();
            let (path, expected) = (path.clone(), "a token of the vocabulary");
            let wrong = || Error::Key { path, key, expected, found: found() };
            value.as_u64().filter(|token| *token < vocab).ok_or_else(wrong)
        };
        let single = |key, released| match keys.get(key) {
            None | Some(Value::Null) => known(released, vocab),
            Some(value) => token(key, value),
        };
        let eos = match keys.get("eos_token_id") {
            None | Some(Value::Null) => EOS.map(|token| known(token, vocab)).into_iter().collect(),
            Some(Value::Array(list)) if !list.is_empty() => {
                list.iter().map(|value| token("eos_token_id", value)).collect()
            }
            Some(value) => token("eos_token_id", value).map(|token| vec![token]),
        };
        let search = SEARCH.iter().filter_map(|key| {
            let value = keys.get(*key).filter(|value| !value.is_null())?;
            Some(((*key).to_owned(), value.clone()))
        });
        Ok(Self {
            eos: eos?,
            bos: single("bos_token_id", BOS)?,
            pad: single("pad_token_id", PAD)?,
            search: search.collect(),
        })
    }
}

fn known(token: u64, vocab: u64) -> Result<u64> {
    if token < vocab { Ok(token) } else { Err(Error::NoTokens { vocab, token }) }
}

fn parse(path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(&fs::read(path)?)
        .map_err(|error| Error::Json { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Generation> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        fs::write(&path, text).unwrap();
        Generation::read(Some(&path), 201_088)
    }

    /// The 20B's published file.
    #[test]
    fn reads_the_published_file() {
        let found = read(
            r#"{"bos_token_id": 199998, "do_sample": true, "eos_token_id": [200002, 199999, 200012],
                "pad_token_id": 199999, "transformers_version": "4.55.0.dev0"}"#,
        )
        .unwrap();
        assert_eq!(found.eos, [200_002, 199_999, 200_012]);
        assert_eq!((found.bos, found.pad), (199_998, 199_999));
        assert_eq!(found.search, Map::from_iter([("do_sample".to_owned(), Value::Bool(true))]));
    }

    #[test]
    fn what_is_not_said_is_as_released() {
        let found = Generation::read(None, 201_088).unwrap();
        let partly = read(r#"{"eos_token_id": 7, "pad_token_id": null, "top_k": 40}"#).unwrap();
        assert_eq!((found.eos.as_slice(), found.bos, found.pad), (&EOS[..], BOS, PAD));
        assert_eq!((partly.eos, partly.bos, partly.pad), (vec![7], BOS, PAD));
        assert_eq!(partly.search["top_k"], 40);
    }

    #[test]
    fn tokens_that_are_none_are_refused() {
        for (text, sentence) in [
            (
                r#"{"eos_token_id": [1, "x"]}"#,
                "key `eos_token_id` must be a token of the vocabulary, found \"x\"",
            ),
            (r#"{"eos_token_id": []}"#, "found []"),
            (r#"{"bos_token_id": -1}"#, "key `bos_token_id`"),
            (r#"{"pad_token_id": 201088}"#, "found 201088"),
            ("[]", "is not valid JSON"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
        let error = Generation::read(None, 320).unwrap_err().to_string();
        assert!(error.contains("a vocabulary of 320 lacks the 200002"), "{error}");
    }
}

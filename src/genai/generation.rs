//! `generation_config.json`: which tokens begin, end and pad a text, and how
//! the next token is chosen.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Error, Result};
use crate::checkpoint::LARGEST_CONFIG;
use crate::files::json;

/// Of the released models: `<|return|>`, `<|endoftext|>`, `<|call|>`.
const EOS: [u64; 3] = [200_002, 199_999, 200_012];
/// `<|startoftext|>`
const BOS: u64 = 199_998;
/// `<|endoftext|>`
const PAD: u64 = 199_999;

/// A key that means the same to onnxruntime-genai.
struct Setting {
    key: &'static str,
    /// What onnxruntime-genai takes for it.
    expected: &'static str,
    is_taken: fn(&Value) -> bool,
}

const fn setting(
    key: &'static str,
    expected: &'static str,
    is_taken: fn(&Value) -> bool,
) -> Setting {
    Setting { key, expected, is_taken }
}

const SEARCH: [Setting; 5] = [
    setting("do_sample", "true or false", Value::is_boolean),
    setting("temperature", "a positive number", is_positive),
    setting("top_k", "a whole number from 0", Value::is_u64),
    setting("top_p", "a number from 0 to 1", |value| {
        value.as_f64().is_some_and(|p| (0.0..=1.0).contains(&p))
    }),
    setting("repetition_penalty", "a positive number", is_positive),
];

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

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
    /// Whether the tokens that end a text are the released models', as nobody named others.
    pub is_assumed: bool,
}

impl Generation {
    /// As the file says; what it does not say, or without one, as those configs say that
    /// have the model's vocabulary, the first first; and what they do not say, as the
    /// released models have it, if the vocabulary does.
    pub fn read(file: Option<&Path>, configs: &[PathBuf], vocab: u64) -> Result<Self> {
        let mut files = Vec::new();
        if let Some(path) = file {
            files.push((path.to_owned(), parse(path)?));
        }
        // What is no config of this model has no say.
        let is_own =
            |keys: &Map<String, Value>| keys.get("vocab_size").is_some_and(|it| *it == vocab);
        let own = |path: &PathBuf| Some((path.clone(), parse(path).ok().filter(is_own)?));
        files.extend(configs.iter().filter_map(own));
        let said = Said { file, files, vocab };
        let in_file = said.value("eos_token_id").is_some_and(|(path, _)| Some(path) == file);
        let named = said.tokens("eos_token_id")?;
        // Released configs name one of three.
        let is_assumed = named.is_empty() || (!in_file && named == EOS[..1]);
        let released = || -> Result<_> {
            EOS.into_iter().map(|token| said.released("eos_token_id", token)).collect()
        };
        Ok(Self {
            eos: if is_assumed { released()? } else { named },
            bos: said.token_or("bos_token_id", BOS)?,
            pad: said.token_or("pad_token_id", PAD)?,
            search: said.search()?,
            is_assumed,
        })
    }
}

/// What files say, of a model with so many tokens.
struct Said<'f> {
    /// The one that is for such things, if there is one.
    file: Option<&'f Path>,
    /// All, the first first.
    files: Vec<(PathBuf, Map<String, Value>)>,
    vocab: u64,
}

impl Said<'_> {
    /// A key's value, and who says it; `null` says nothing.
    fn value(&self, key: &str) -> Option<(&Path, &Value)> {
        self.files.iter().find_map(|(path, keys)| {
            let value = keys.get(key).filter(|value| !value.is_null())?;
            Some((path.as_path(), value))
        })
    }

    /// A token, or a list of them.
    fn tokens(&self, key: &'static str) -> Result<Vec<u64>> {
        match self.value(key) {
            Some((path, Value::Array(list))) if !list.is_empty() => {
                list.iter().map(|value| self.token(key, path, value)).collect()
            }
            Some((path, value)) => Ok(vec![self.token(key, path, value)?]),
            None => Ok(Vec::new()),
        }
    }

    fn token_or(&self, key: &'static str, released: u64) -> Result<u64> {
        match self.value(key) {
            Some((path, value)) => self.token(key, path, value),
            None => self.released(key, released),
        }
    }

    fn token(&self, key: &'static str, path: &Path, value: &Value) -> Result<u64> {
        let token = value.as_u64().filter(|token| *token < self.vocab);
        token.ok_or_else(|| wrong(path, key, "a token of the vocabulary", value))
    }

    fn released(&self, key: &'static str, token: u64) -> Result<u64> {
        let (file, vocab) = (self.file.map(Path::to_owned), self.vocab);
        if token < vocab { Ok(token) } else { Err(Error::NoToken { file, key, vocab, token }) }
    }

    /// That of the file alone.
    fn search(&self) -> Result<Map<String, Value>> {
        let mut found = Map::new();
        let Some((path, (_, keys))) = self.file.zip(self.files.first()) else { return Ok(found) };
        for Setting { key, expected, is_taken } in SEARCH {
            let Some(value) = keys.get(key).filter(|value| !value.is_null()) else { continue };
            if !is_taken(value) {
                return Err(wrong(path, key, expected, value));
            }
            found.insert(key.to_owned(), value.clone());
        }
        Ok(found)
    }
}

fn wrong(path: &Path, key: &'static str, expected: &'static str, found: &Value) -> Error {
    Error::Key { path: path.to_owned(), key, expected, found: found.to_string() }
}

fn parse(path: &Path) -> Result<Map<String, Value>> {
    let invalid = |reason| Error::Json { path: path.to_owned(), reason };
    let text = json::read(path, LARGEST_CONFIG)?;
    let keys = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    json::reject_duplicate_keys(&text).map_err(invalid)?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::GENERATION;

    fn read(text: &str) -> Result<Generation> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(GENERATION);
        std::fs::write(&path, text).unwrap();
        Generation::read(Some(&path), &[], 201_088)
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
        let found = Generation::read(None, &[], 201_088).unwrap();
        let partly = read(r#"{"eos_token_id": 7, "pad_token_id": null, "top_k": 40}"#).unwrap();
        assert_eq!((found.eos.as_slice(), found.bos, found.pad), (&EOS[..], BOS, PAD));
        assert_eq!((partly.eos, partly.bos, partly.pad), (vec![7], BOS, PAD));
        assert_eq!(partly.search["top_k"], 40);
    }

    /// transformers falls back on it likewise. Search is another file's.
    #[test]
    fn configs_say_what_the_file_does_not() {
        let home = tempfile::tempdir().unwrap();
        let config = |name: &str, text: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let openai = config("openai.json", r#"{"vocab_size": 201088}"#);
        let own = config(
            "own.json",
            r#"{"vocab_size": 201088, "eos_token_id": 2, "pad_token_id": 0, "top_k": "x"}"#,
        );
        let others = [
            config("other.json", r#"{"vocab_size": 320, "eos_token_id": 3}"#),
            config("broken.json", "{"),
        ];
        let read = |file, configs: &[_]| Generation::read(file, configs, 201_088).unwrap();
        let found = read(None, &[&others[..], &[openai.clone(), own.clone()]].concat());
        assert_eq!((found.eos, found.bos, found.pad), (vec![2], BOS, 0));
        assert!(!found.is_assumed && found.search.is_empty());
        let file = config(GENERATION, r#"{"eos_token_id": [7, 8]}"#);
        let found = read(Some(&file), &[own]);
        assert_eq!((found.eos, found.pad), (vec![7, 8], 0));
        for eos in ["200002", "[200002]"] {
            let text = format!(r#"{{"vocab_size": 201088, "eos_token_id": {eos}}}"#);
            let found = read(None, &[config("released.json", &text)]);
            assert_eq!((&found.eos[..], found.is_assumed), (&EOS[..], true));
        }
        assert!(read(None, &[openai]).is_assumed);
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
            ("[]", "is not a JSON object"),
            (r#"{"top_k": -1}"#, "key `top_k` must be a whole number from 0, found -1"),
            (r#"{"do_sample": 1}"#, "key `do_sample` must be true or false, found 1"),
            (r#"{"top_p": 3.0}"#, "key `top_p` must be a number from 0 to 1, found 3.0"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
        let error = Generation::read(None, &[], 320).unwrap_err().to_string();
        let sentence = "--genai needs to know which tokens begin and end a text: the released models' eos_token_id, 200002, is beyond a vocabulary of 320; put a generation_config.json beside the weights, with eos_token_id, bos_token_id and pad_token_id";
        assert_eq!(error, sentence);
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(GENERATION);
        std::fs::write(&path, r#"{"eos_token_id": 5, "pad_token_id": null}"#).unwrap();
        let error = Generation::read(Some(&path), &[], 320).unwrap_err().to_string();
        assert!(error.contains("the released models' bos_token_id, 199998,"), "{error}");
        assert!(error.contains("add to `"), "{error}");
    }
}

//! Reads the keys of a JSON object one by one, and knows which are left.

use serde_json::{Map, Value};

use super::{Error, Result};

/// The keys of a config file that nobody has asked for yet.
pub struct Keys {
    file: String,
    map: Map<String, Value>,
}

impl Keys {
    /// The keys of the JSON object in `text`, read from `file`.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self> {
        let parsed: Value = serde_json::from_slice(text)
            .map_err(|error| Error::Json { file: file.to_owned(), reason: error.to_string() })?;
        match parsed {
            Value::Object(map) => Ok(Self { file: file.to_owned(), map }),
            _ => {
                Err(Error::Json { file: file.to_owned(), reason: "expected an object".to_owned() })
            }
        }
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A whole number from 1 to 2³²-1: no size of a model is larger.
    pub fn size(&mut self, key: &str) -> Result<u64> {
        let value = self.required(key)?;
        let number = value.as_u64().filter(|number| (1..=u64::from(u32::MAX)).contains(number));
        number.ok_or_else(|| self.wrong(key, "a whole number from 1 to 4294967295", &value))
    }

    /// A whole number from 0 to 2³²-1.
    pub fn size_or_zero(&mut self, key: &str) -> Result<u64> {
        let value = self.required(key)?;
        let number = value.as_u64().filter(|number| *number <= u64::from(u32::MAX));
        number.ok_or_else(|| self.wrong(key, "a whole number from 0 to 4294967295", &value))
    }

    /// A positive number.
    pub fn positive(&mut self, key: &str) -> Result<f64> {
        let value = self.required(key)?;
        // Also finite: JSON has no infinity, and its parser refuses 1e999.
        let number = value.as_f64().filter(|number| *number > 0.0);
        number.ok_or_else(|| self.wrong(key, "a positive number", &value))
    }

    /// The keys that nobody asked for.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    fn required(&mut self, key: &str) -> Result<Value> {
        let missing = || Error::MissingKey { file: self.file.clone(), key: key.to_owned() };
        // `null` says as much as an absent key.
        self.map.remove(key).filter(|value| !value.is_null()).ok_or_else(missing)
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::Key {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_string(),
        }
    }
}

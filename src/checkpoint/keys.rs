//! Reads the keys of a JSON object one by one, and knows which are left.

use serde_json::{Map, Value};

use super::{Error, Result};
use crate::files::json;

/// The keys of a config file that nobody has asked for yet.
pub struct Keys {
    file: String,
    /// Of keys in an object within, as people are told of them.
    prefix: String,
    map: Map<String, Value>,
    /// Those that the user says change nothing, by their whole names.
    ignored: Vec<String>,
}

impl Keys {
    /// The keys of the JSON object in `text`, read from `file`.
    pub fn parse(file: &str, text: &[u8], ignored: &[String]) -> Result<Self> {
        let invalid = |reason| Error::Json { file: file.to_owned(), reason };
        json::reject_duplicate_keys(text).map_err(invalid)?;
        let parsed: Value =
            serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
        match parsed {
            Value::Object(map) => {
                let (file, prefix, ignored) = (file.to_owned(), String::new(), ignored.to_vec());
                Ok(Self { file, prefix, map, ignored })
            }
            _ => {
                Err(Error::Json { file: file.to_owned(), reason: "expected an object".to_owned() })
            }
        }
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// What the key says, whatever it is.
    pub fn value(&self, key: &str) -> Value {
        self.map.get(key).cloned().unwrap_or_default()
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

    /// [`Keys::positive`], or a default where the key is absent.
    pub fn positive_or(&mut self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional(key, Self::positive)?.unwrap_or(default))
    }

    /// `true` or `false`.
    pub fn truth(&mut self, key: &str) -> Result<bool> {
        let value = self.required(key)?;
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false", &value))
    }

    /// A list.
    pub fn list(&mut self, key: &str) -> Result<Vec<Value>> {
        match self.required(key)? {
            Value::Array(list) => Ok(list),
            other => Err(self.wrong(key, "a list", &other)),
        }
    }

    /// A number of layers: a config of some bytes must not ask for gigabytes.
    pub fn layers(&mut self, key: &str) -> Result<u64> {
        let layers = self.size(key)?;
        if layers <= 10_000 {
            return Ok(layers);
        }
        let (file, found) = (self.file.clone(), layers.to_string());
        Err(Error::Rule { file, rule: "`num_hidden_layers` is at most 10000", found })
    }

    /// What has several names, of which the first is the usual one, in one of the ways
    /// above. Where several are there they must agree.
    pub fn one_of<T: PartialEq + Clone + Into<Value>>(
        &mut self,
        names: &[&str],
        read: impl Fn(&mut Self, &str) -> Result<T>,
    ) -> Result<T> {
        let mut found: Option<T> = None;
        for name in names {
            let Some(value) = self.optional(name, &read)? else { continue };
            if let Some(other) = found.filter(|other| *other != value) {
                let expected = format!("{}, as `{}`", other.into(), names[0]);
                return Err(self.wrong(name, &expected, &value.into()));
            }
            found = Some(value);
        }
        found.ok_or_else(|| self.missing(names[0]))
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Result<String> {
        match self.required(key)? {
            Value::String(text) => Ok(text),
            other => Err(self.wrong(key, "a text", &other)),
        }
    }

    /// A number that follows from others. Where it is there it must agree, because there
    /// are programs that go by it, unless the user says that it changes nothing.
    pub fn follows(&mut self, key: &str, expected: f64, reason: &str) -> Result<()> {
        let name = format!("{}{key}", self.prefix);
        if self.ignored.contains(&name) {
            return Ok(());
        }
        match self.seen(key, Self::positive)? {
            Some(found) if found != expected => {
                let expected = format!("{expected}, {reason} (or pass --ignore-config-key {name})");
                Err(self.wrong(key, &expected, &found.into()))
            }
            _ => Ok(()),
        }
    }

    /// The key in one of the ways above, where it is there and not `null`.
    pub fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Self, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Null) => {
                self.map.remove(key);
                Ok(None)
            }
            Some(_) => read(self, key).map(Some),
        }
    }

    /// [`Keys::optional`], and the key stays for others.
    pub fn seen<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Self, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        let stays = self.map.get(key).cloned();
        let found = self.optional(key, read);
        self.map.extend(stays.map(|value| (key.to_owned(), value)));
        found
    }

    /// An object within, whose keys are named after it. What is left of it is given back.
    pub fn nested(&mut self, key: &str) -> Result<Option<Self>> {
        self.optional(key, |keys, key| match keys.required(key)? {
            Value::Object(map) => {
                let (file, prefix) = (keys.file.clone(), format!("{}{key}.", keys.prefix));
                Ok(Self { file, prefix, map, ignored: keys.ignored.clone() })
            }
            other => Err(keys.wrong(key, "an object", &other)),
        })
    }

    /// Takes what nobody asked for in an object within.
    pub fn give_back(&mut self, within: Self) {
        let Self { prefix, map, .. } = within;
        self.map.extend(map.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
    }

    /// The only value that is understood: any other changes the computation.
    pub fn must_be(&mut self, key: &str, expected: &Value) -> Result<()> {
        let value = self.required(key)?;
        if value == *expected {
            Ok(())
        } else {
            Err(self.wrong(key, &expected.to_string(), &value))
        }
    }

    /// [`Keys::must_be`], where the key is there.
    pub fn may_be(&mut self, key: &str, expected: &Value) -> Result<()> {
        self.optional(key, |keys, key| keys.must_be(key, expected)).map(|_| ())
    }

    /// What nobody asked for is refused, unless it is known to change nothing
    /// or named by the user. `null` says nothing.
    pub fn refuse_rest(&self, harmless: &[&str]) -> Result<()> {
        let left = || self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key);
        let unknown =
            |key: &&String| !harmless.contains(&key.as_str()) && !self.ignored.contains(key);
        if let Some(key) = left().find(unknown) {
            return Err(Error::UnknownKey { file: self.file.clone(), key: key.clone() });
        }
        match self.ignored.iter().find(|name| !left().any(|key| key == *name)) {
            Some(name) => {
                let (place, name) = (self.file.clone(), name.clone());
                Err(Error::NothingToIgnore { place, what: "key", name })
            }
            None => Ok(()),
        }
    }

    /// The file that the keys are from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// That a key is not there.
    pub fn missing(&self, key: &str) -> Error {
        Error::MissingKey { file: self.file.clone(), key: format!("{}{key}", self.prefix) }
    }

    fn required(&mut self, key: &str) -> Result<Value> {
        // `null` says as much as an absent key.
        let value = self.map.remove(key).filter(|value| !value.is_null());
        value.ok_or_else(|| self.missing(key))
    }

    /// A value that is not understood.
    pub fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::Key {
            file: self.file.clone(),
            key: format!("{}{key}", self.prefix),
            expected: expected.to_owned(),
            found: found.to_string(),
        }
    }
}

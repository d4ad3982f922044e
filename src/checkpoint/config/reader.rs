//! Reads a `config.json` key by key, and refuses keys that nobody has read.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{Error, Result, Setting, bail, err};
use crate::files::json;

/// Sizes of a model: each fits 32 bits.
pub const SIZES: RangeInclusive<u64> = 1..=u32::MAX as u64;

/// The keys of a config. A key in a nested object is named with its path, as in
/// `rope_scaling.factor`; `null` counts as absent.
pub struct ConfigReader<'a> {
    file: &'a str,
    map: Map<String, Value>,
    /// Names of unknown keys that the user allows.
    ignored: &'a [String],
    read: BTreeSet<String>,
    /// Nested objects whose keys must be read too.
    opened: BTreeSet<&'static str>,
}

/// What a value must be, in words and in code.
pub struct Expected<T> {
    what: &'static str,
    read: fn(&Value) -> Option<T>,
}

fn whole(value: &Value, range: RangeInclusive<u64>) -> Option<u64> {
    value.as_u64().filter(|number| range.contains(number))
}

pub const SIZE: Expected<u64> =
    Expected { what: "a whole number from 1 to 4294967295", read: |value| whole(value, SIZES) };
pub const SIZE_OR_ZERO: Expected<u64> = Expected {
    what: "a whole number from 0 to 4294967295",
    read: |value| whole(value, 0..=*SIZES.end()),
};
/// Limited, because memory grows with it before a weight is seen.
pub const LAYERS: Expected<u64> =
    Expected { what: "a whole number from 1 to 10000", read: |value| whole(value, 1..=10_000) };
/// Also finite: JSON has no infinity, and its parser refuses 1e999.
pub const POSITIVE: Expected<f64> = Expected {
    what: "a positive number",
    read: |value| value.as_f64().filter(|number| *number > 0.0),
};
pub const BOOL: Expected<bool> = Expected { what: "true or false", read: Value::as_bool };
pub const STRING: Expected<String> =
    Expected { what: "a string", read: |value| value.as_str().map(str::to_owned) };
pub const LIST: Expected<Vec<Value>> =
    Expected { what: "a list", read: |value| value.as_array().cloned() };

impl<'a> ConfigReader<'a> {
    /// The JSON object in `text`, read from `file`.
    pub fn parse(file: &'a str, text: &[u8], ignored: &'a [String]) -> Result<Self> {
        let Value::Object(map) = json::parse(file, text)? else {
            bail!("`{file}` is not a JSON object");
        };
        Ok(Self { file, map, ignored, read: BTreeSet::new(), opened: BTreeSet::new() })
    }

    pub fn file(&self) -> &str {
        self.file
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn find(&self, key: &str) -> Option<&Value> {
        let found = match key.split_once('.') {
            Some((object, key)) => self.map.get(object)?.get(key),
            None => self.map.get(key),
        };
        found.filter(|value| !value.is_null())
    }

    /// The value of a key that remains unread.
    pub fn peek<T>(&self, key: &str, expected: &Expected<T>) -> Result<Option<T>> {
        let read = |value| (expected.read)(value).ok_or_else(|| self.invalid(key, expected.what));
        self.find(key).map(read).transpose()
    }

    pub fn optional<T>(&mut self, key: &str, expected: &Expected<T>) -> Result<Option<T>> {
        self.read.insert(key.to_owned());
        self.peek(key, expected)
    }

    pub fn required<T>(&mut self, key: &str, expected: &Expected<T>) -> Result<T> {
        self.optional(key, expected)?.ok_or_else(|| self.missing(key))
    }

    /// A value that has several names. Those that are there must agree.
    pub fn required_any<T: PartialEq>(
        &mut self,
        names: &[&str],
        expected: &Expected<T>,
    ) -> Result<T> {
        let mut found: Option<(&str, T)> = None;
        for name in names {
            let Some(value) = self.optional(name, expected)? else { continue };
            match &found {
                Some((first, agreed)) if *agreed != value => {
                    let agreed = self.find(first).unwrap_or(&Value::Null);
                    return Err(self.invalid(name, &format!("{agreed}, as `{first}`")));
                }
                Some(_) => {}
                None => found = Some((name, value)),
            }
        }
        found.map(|(_, value)| value).ok_or_else(|| self.missing(names[0]))
    }

    /// A key with the only value that does not change the computation.
    pub fn allow_only(&mut self, key: &str, expected: &Value) -> Result<()> {
        self.read.insert(key.to_owned());
        match self.find(key) {
            Some(value) if value != expected => Err(self.invalid(key, &expected.to_string())),
            _ => Ok(()),
        }
    }

    /// [`Self::allow_only`], and the key must be there.
    pub fn require_only(&mut self, key: &str, expected: &Value) -> Result<()> {
        self.find(key).ok_or_else(|| self.missing(key))?;
        self.allow_only(key, expected)
    }

    /// A number of positions that follows from other keys, by `formula`. It may be absent
    /// or rounded. The user may allow another value, though some programs use it.
    pub fn expect_derived(&self, key: &str, expected: f64, formula: &str) -> Result<()> {
        if self.ignored.iter().any(|name| name == key) {
            return Ok(());
        }
        match self.peek(key, &POSITIVE)? {
            Some(found) if (found - expected).abs() >= 1.0 => Err(err!(
                "`{}`: key `{key}` must be {expected} ({formula}), found {found}; correct it, or ignore it if nothing uses it",
                self.file
            )
            .with_remedy(Setting::IgnoreConfigKey, key)),
            _ => Ok(()),
        }
    }

    /// Whether there is an object of this name. Keys in it count as unread from now on.
    pub fn open(&mut self, name: &'static str) -> Result<bool> {
        self.opened.insert(name);
        match self.find(name) {
            None => Ok(false),
            Some(Value::Object(_)) => Ok(true),
            Some(_) => Err(self.invalid(name, "an object")),
        }
    }

    /// Refuses keys that were not read, but for those that are known to be harmless (a
    /// name, or a prefix with `*`) and those that the user allows.
    pub fn refuse_unread(&self, harmless: &[&str]) -> Result<()> {
        let unread = self.unread();
        let is_harmless = |key: &str| {
            let matches = |name: &&str| {
                name.strip_suffix('*').map_or(key == *name, |prefix| key.starts_with(prefix))
            };
            harmless.iter().any(matches)
        };
        if let Some(key) =
            unread.iter().find(|key| !is_harmless(key) && !self.ignored.contains(key))
        {
            return Err(err!(
                "`{}` has an unknown key `{key}`; ignore it if it does not change what the model computes",
                self.file
            )
            .with_remedy(Setting::IgnoreConfigKey, key));
        }
        if let Some(name) = self.ignored.iter().find(|name| !unread.contains(name)) {
            bail!("nothing to ignore: `{}` has no unknown key `{name}`", self.file);
        }
        Ok(())
    }

    fn unread(&self) -> Vec<String> {
        let mut unread = Vec::new();
        for (key, value) in self.map.iter().filter(|(_, value)| !value.is_null()) {
            match value {
                Value::Object(nested) if self.opened.contains(key.as_str()) => {
                    let nested = nested.iter().filter(|(_, value)| !value.is_null());
                    let names = nested.map(|(name, _)| format!("{key}.{name}"));
                    unread.extend(names.filter(|name| !self.read.contains(name)));
                }
                // A name with a dot is no path here.
                _ if !self.read.contains(key) || key.contains('.') => unread.push(key.clone()),
                _ => {}
            }
        }
        unread
    }

    pub fn missing(&self, key: &str) -> Error {
        err!("`{}` lacks the key `{key}`", self.file)
    }

    pub fn invalid(&self, key: &str, expected: &str) -> Error {
        self.invalid_entry(key, expected, self.find(key).unwrap_or(&Value::Null))
    }

    /// The same of a value within the key's.
    pub fn invalid_entry(&self, key: &str, expected: &str, found: &Value) -> Error {
        let found: String = found.to_string().chars().take(100).collect();
        err!("`{}`: key `{key}` must be {expected}, found {found}", self.file)
    }
}

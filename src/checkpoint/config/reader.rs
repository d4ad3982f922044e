//! Reads a `config.json` key by key, and refuses keys that nobody has read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use glob::Pattern;
use serde_json::{Map, Value};

use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::files::json;

pub const SIZES: RangeInclusive<u64> = 1..=u32::MAX as u64;

const NESTED: [&str; 4] =
    ["quantization", "quantization_config", "rope_parameters", "rope_scaling"];

/// The keys of a config. A key in a nested object is named by its path, as
/// `rope_scaling.factor`; `null` counts as absent.
pub struct ConfigReader<'a> {
    pub file: String,
    keys: BTreeMap<String, Value>,
    read: BTreeSet<String>,
    /// Unknown keys that the user allows, by name or by a pattern.
    ignored: &'a [String],
}

/// A description of the values that a key accepts, and their parser.
pub struct Expected<T>(pub &'static str, pub fn(&Value) -> Option<T>);

pub const SIZE: Expected<u64> =
    Expected("a whole number from 1 to 4294967295", |value| whole(value, SIZES));
pub const SIZE_OR_ZERO: Expected<u64> =
    Expected("a whole number from 0 to 4294967295", |value| whole(value, 0..=*SIZES.end()));
/// Limited, because memory grows with it before a weight is seen.
pub const LAYERS: Expected<u64> =
    Expected("a whole number from 1 to 10000", |value| whole(value, 1..=10_000));
/// Also finite: JSON has no infinity, and its parser refuses 1e999.
pub const POSITIVE: Expected<f64> =
    Expected("a positive number", |value| value.as_f64().filter(|number| *number > 0.0));
pub const BOOL: Expected<bool> = Expected("true or false", Value::as_bool);
pub const STRING: Expected<String> =
    Expected("a string", |value| value.as_str().map(str::to_owned));
pub const LIST: Expected<Vec<Value>> = Expected("a list", |value| value.as_array().cloned());

/// When a key that nothing reads leaves the model as it is.
pub enum Harmless {
    Always,
    /// If it has this value.
    If(&'static str),
}

/// The error of two names of one value that disagree; one of them can be ignored, by its name
/// or a pattern for it.
pub fn choose(error: &Error, names: [&str; 2]) -> Error {
    let error = err!("{error}; ignore the one that is wrong");
    names.iter().fold(error, |error, name| error.with_remedy(Setting::IgnoreConfigKey, *name))
}

/// Whether a key has a name, or is in the object of that name.
fn is_of(name: &str, key: &str) -> bool {
    key == name || name.ends_with('.') && key.starts_with(name)
}

fn matches(pattern: &str, key: &str) -> bool {
    pattern == key || Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(key))
}

fn whole(value: &Value, range: RangeInclusive<u64>) -> Option<u64> {
    value.as_u64().filter(|number| range.contains(number))
}

impl<'a> ConfigReader<'a> {
    pub fn parse(file: &str, text: &[u8], ignored: &'a [String]) -> Result<Self> {
        let mut keys = BTreeMap::new();
        for (name, value) in json::parse::<Map<String, Value>>(file, text)? {
            match value {
                Value::Null => {}
                Value::Object(nested) if NESTED.contains(&&*name) && !nested.is_empty() => {
                    keys.extend(nested.into_iter().map(|(key, it)| (format!("{name}.{key}"), it)));
                }
                value => {
                    let object = name.split_once('.').map_or("", |(object, _)| object);
                    let is_path = NESTED.contains(&object);
                    ensure!(!is_path, "`{file}`: `{name}` must be a key in `{object}`");
                    keys.insert(name, value);
                }
            }
        }
        keys.retain(|_, value| !value.is_null());
        Ok(Self { file: file.to_owned(), keys, read: BTreeSet::new(), ignored })
    }

    pub fn has(&self, prefix: &str) -> bool {
        self.keys.keys().any(|key| key.starts_with(prefix))
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// The value of a key, which remains unread.
    pub fn peek<T>(&self, key: &str, Expected(text, read): &Expected<T>) -> Result<Option<T>> {
        let parse = |value| read(value).ok_or_else(|| self.invalid(key, text, value));
        self.get(key).map(parse).transpose()
    }

    pub fn optional<T>(&mut self, key: &str, expected: &Expected<T>) -> Result<Option<T>> {
        self.read.insert(key.to_owned());
        self.peek(key, expected)
    }

    pub fn required<T>(&mut self, key: &str, expected: &Expected<T>) -> Result<T> {
        self.optional(key, expected)?.ok_or_else(|| self.missing(key))
    }

    /// A required value with two names. If both are read, they must agree.
    pub fn either<T: PartialEq>(&mut self, names: [&str; 2], expected: &Expected<T>) -> Result<T> {
        let [name, alias] = names;
        let [first, second] = self.chosen(names);
        let value = if first { self.optional(name, expected)? } else { None };
        let other = if second { self.optional(alias, expected)? } else { None };
        if value.is_some() && other.is_some() && value != other {
            let expected = format!("{}, as `{name}`", self.keys[name]);
            let error = self.invalid(alias, &expected, &self.keys[alias]);
            return Err(choose(&error, [alias, name]));
        }
        value.or(other).ok_or_else(|| self.missing(name))
    }

    /// Which of two names of one value are read: those that are there, but not one that the
    /// user ignores in favour of the other. A name that ends with a dot is that of an object,
    /// which is ignored if all its keys are.
    pub fn chosen(&self, names: [&str; 2]) -> [bool; 2] {
        let there = names.map(|name| self.keys.keys().any(|key| is_of(name, key)));
        let ignored = names.map(|name| {
            self.keys.keys().filter(|key| is_of(name, key)).all(|key| self.is_ignored(key))
        });
        if there == [true; 2] && ignored[0] != ignored[1] { ignored.map(|it| !it) } else { there }
    }

    /// A key that must have the one value that is supported.
    pub fn require_only(&mut self, key: &str, expected: &Value) -> Result<()> {
        self.allow_only(key, expected)?;
        if self.keys.contains_key(key) { Ok(()) } else { Err(self.missing(key)) }
    }

    pub fn allow_only(&mut self, key: &str, expected: &Value) -> Result<()> {
        self.read.insert(key.to_owned());
        let other = self.keys.get(key).filter(|value| *value != expected);
        other.map_or(Ok(()), |other| Err(self.invalid(key, &expected.to_string(), other)))
    }

    /// A number of positions that follows from other keys by `formula`, and may be rounded.
    /// The user may ignore another value, because not every program uses it.
    pub fn expect_derived(&self, key: &str, expected: f64, formula: &str) -> Result<()> {
        if self.is_ignored(key) {
            return Ok(());
        }
        match self.peek(key, &POSITIVE)? {
            Some(found) if (found - expected).abs() >= 1.0 => Err(err!(
                "`{}`: key `{key}` must be {expected} ({formula}), found {found}; it can be ignored if nothing uses it",
                self.file
            )
            .with_remedy(Setting::IgnoreConfigKey, key)),
            _ => Ok(()),
        }
    }

    /// Refuses keys that are unread, except those that the user ignores and those of
    /// `harmless`: of any value, or of the value that leaves the model as it is.
    pub fn refuse_unread(&self, harmless: impl Fn(&str) -> Option<Harmless>) -> Result<()> {
        let unread = || self.keys.iter().filter(|(key, _)| !self.read.contains(*key));
        let mut unknown = Vec::new();
        let mut together = Vec::new();
        for (key, value) in unread().filter(|(key, _)| !self.is_ignored(key)) {
            match harmless(key) {
                Some(Harmless::Always) => continue,
                Some(Harmless::If(json)) if json.parse().is_ok_and(|it: Value| it == *value) => {
                    continue;
                }
                Some(Harmless::If(json)) => unknown.push(format!("`{key}` (only {json} is known)")),
                None => unknown.push(format!("`{key}`")),
            }
            together.push((Setting::IgnoreConfigKey, key.clone()));
        }
        if let Some((last, others)) = unknown.split_last() {
            let (keys, they_do) = match others {
                [] => (format!("an unknown key {last}"), "it does"),
                _ => (format!("unknown keys {} and {last}", others.join(", ")), "they do"),
            };
            return Err(err!(
                "`{}` has {keys}, which can be ignored if {they_do} not change what the model computes",
                self.file
            )
            .with_remedies(together));
        }
        match self.ignored.iter().find(|name| !unread().any(|(key, _)| matches(name, key))) {
            Some(name) => bail!("nothing to ignore: `{}` has no unknown key `{name}`", self.file),
            None => Ok(()),
        }
    }

    fn is_ignored(&self, key: &str) -> bool {
        self.ignored.iter().any(|name| matches(name, key))
    }

    pub fn missing(&self, key: &str) -> Error {
        err!("`{}` lacks the key `{key}`", self.file)
    }

    pub fn invalid(&self, key: &str, expected: &str, found: &Value) -> Error {
        let found: String = found.to_string().chars().take(100).collect();
        err!("`{}`: key `{key}` must be {expected}, found {found}", self.file)
    }
}

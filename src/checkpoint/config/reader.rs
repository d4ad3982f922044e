//! Reads a `config.json` key by key, collects what is wrong, and refuses keys that nobody has
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::harmless::Group;
use super::unknown;
use crate::checkpoint::names::matches;
use crate::display::join;
use crate::error::{Error, Result, Setting, err};
use crate::files::json;

pub const SIZES: RangeInclusive<u64> = 1..=u32::MAX as u64;

const NESTED: [&str; 4] =
    ["quantization", "quantization_config", "rope_parameters", "rope_scaling"];

/// The keys of a config. A key in a nested object is named by its path, as
/// `rope_scaling.factor`; `null` counts as absent. For a value that is missing or wrong the
/// reader notes an error and hands out the default of its type, which no key accepts.
pub struct ConfigReader<'a> {
    pub file: String,
    keys: BTreeMap<String, Value>,
    /// Names that were asked for, whether they are there or not.
    known: BTreeSet<String>,
    /// Unknown keys that the user allows, by name or by a pattern.
    ignored: &'a [String],
    /// Required keys that are not there.
    missing: Vec<String>,
    errors: Vec<Error>,
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
pub const NAME: Expected<String> =
    Expected("a name", |value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned));
pub const LIST: Expected<Vec<Value>> = Expected("a list", |value| value.as_array().cloned());
pub const OBJECTS: Expected<Vec<Map<String, Value>>> =
    Expected("a list of objects", |value| serde_json::from_value(value.clone()).ok());

/// Whether a key has a name, or is in the object of that name.
fn is_of(name: &str, key: &str) -> bool {
    key == name || name.ends_with('.') && key.starts_with(name)
}

fn whole(value: &Value, range: RangeInclusive<u64>) -> Option<u64> {
    value.as_u64().filter(|number| range.contains(number))
}

impl<'a> ConfigReader<'a> {
    pub fn parse(file: &str, text: &[u8], ignored: &'a [String]) -> Result<Self> {
        let (mut keys, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, value) in json::parse::<Map<String, Value>>(file, text)? {
            match value {
                Value::Object(nested) if NESTED.contains(&&*name) && !nested.is_empty() => {
                    keys.extend(nested.into_iter().map(|(key, it)| (format!("{name}.{key}"), it)));
                }
                value => {
                    let object = name.split_once('.').map_or("", |(object, _)| object);
                    if NESTED.contains(&object) {
                        errors.push(err!("`{file}`: `{name}` must be a key in `{object}`"));
                    } else {
                        keys.insert(name, value);
                    }
                }
            }
        }
        keys.retain(|_, value| !value.is_null());
        Ok(Self {
            file: file.to_owned(),
            keys,
            known: BTreeSet::new(),
            ignored,
            missing: Vec::new(),
            errors,
        })
    }

    pub fn has(&self, prefix: &str) -> bool {
        self.keys.keys().any(|key| key.starts_with(prefix))
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// The value of a key, which remains unread.
    pub fn peek<T>(&mut self, key: &str, Expected(text, read): &Expected<T>) -> Option<T> {
        let value = self.keys.get(key)?;
        let parsed = read(value);
        if parsed.is_none() {
            self.refuse(self.invalid(key, text, value));
        }
        parsed
    }

    pub fn optional<T>(&mut self, key: &str, expected: &Expected<T>) -> Option<T> {
        self.skip(key);
        self.peek(key, expected)
    }

    pub fn required<T: Default>(&mut self, key: &str, expected: &Expected<T>) -> T {
        self.require(key);
        self.optional(key, expected).unwrap_or_default()
    }

    fn require(&mut self, key: &str) {
        if !self.keys.contains_key(key) && !self.missing.iter().any(|other| other == key) {
            self.missing.push(key.to_owned());
        }
    }

    /// Knows a key that may have any value.
    pub fn skip(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    /// Knows all keys that begin like this.
    pub fn skip_all(&mut self, prefix: &str) {
        self.known.extend(self.keys.keys().filter(|key| key.starts_with(prefix)).cloned());
    }

    /// A required value with two names. If both are read, they must agree.
    pub fn either<T: PartialEq + Default>(
        &mut self,
        names: [&str; 2],
        expected: &Expected<T>,
    ) -> T {
        let [name, alias] = names;
        match self.chosen(names) {
            [true, true] => {
                let value = self.optional(name, expected);
                let other = self.optional(alias, expected);
                if value.is_some() && other.is_some() && value != other {
                    let expected = format!("{}, as `{name}`", self.keys[name]);
                    let error = self.invalid(alias, &expected, &self.keys[alias]);
                    self.choose(&error, [alias, name]);
                }
                value.or(other).unwrap_or_default()
            }
            [false, true] => {
                self.skip_absent(name);
                self.required(alias, expected)
            }
            [_, false] => {
                self.skip_absent(alias);
                self.required(name, expected)
            }
        }
    }

    fn skip_absent(&mut self, key: &str) {
        if !self.keys.contains_key(key) {
            self.skip(key);
        }
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

    /// The number of objects in a required list, whose keys become paths as `name.3.key`.
    pub fn objects(&mut self, name: &str) -> Option<u64> {
        self.require(name);
        let objects = self.optional(name, &OBJECTS)?;
        let count = objects.len() as u64;
        for (at, object) in objects.into_iter().enumerate() {
            let keys = object.into_iter().filter(|(_, value)| !value.is_null());
            self.keys.extend(keys.map(|(key, value)| (format!("{name}.{at}.{key}"), value)));
        }
        Some(count)
    }

    /// A key that must have the one value that is supported.
    pub fn require_only(&mut self, key: &str, expected: &Value) {
        self.require(key);
        self.allow_only(key, expected);
    }

    pub fn allow_only(&mut self, key: &str, expected: &Value) {
        self.skip(key);
        if let Some(other) = self.keys.get(key).filter(|value| *value != expected) {
            self.refuse(self.invalid(key, &expected.to_string(), other));
        }
    }

    /// A number of positions that follows from other keys by `formula`, and may be rounded.
    /// The user may ignore another value, because not every program uses it.
    pub fn expect_derived(&mut self, key: &str, expected: f64, formula: &str) {
        // Nothing follows from keys that are wrong themselves.
        if self.is_ignored(key) || expected == 0.0 {
            return;
        }
        if let Some(found) = self.peek(key, &POSITIVE)
            && (found - expected).abs() >= 1.0
        {
            let error = err!(
                "`{}`: key `{key}` must be {expected} ({formula}), found {found}; it can be ignored if nothing uses it",
                self.file
            );
            self.refuse(error.with_remedy(Setting::IgnoreConfigKey, key));
        }
    }

    /// Notes the error of two names of one value that disagree; one of them can be ignored, by
    /// its name or a pattern for it.
    pub fn choose(&mut self, error: &Error, names: [&str; 2]) {
        let error = err!("{error}; ignore the one that is wrong");
        self.refuse(
            names
                .iter()
                .fold(error, |error, name| error.with_remedy(Setting::IgnoreConfigKey, *name)),
        );
    }

    /// Notes an error; a key of two objects may be read twice.
    pub fn refuse(&mut self, error: Error) {
        if self.errors.iter().all(|other| other.sentence() != error.sentence()) {
            self.errors.push(error);
        }
    }

    /// The number of errors so far.
    pub fn errors(&self) -> usize {
        self.missing.len() + self.errors.len()
    }

    /// Says all that is wrong: what was noted, or else what `check` says of the values, and the
    /// keys that are unread, except those that the user ignores and those of `harmless`.
    pub fn finish(
        mut self,
        harmless: &[Group],
        check: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        if !self.missing.is_empty() {
            let missing: Vec<_> = self.missing.iter().map(|key| format!("`{key}`")).collect();
            let keys = if missing.len() == 1 { "key" } else { "keys" };
            self.errors.insert(0, err!("`{}` lacks the {keys} {}", self.file, join(&missing)));
        }
        if self.errors.is_empty() {
            self.errors.extend(check(&self).err());
        }
        let unknown = self.unread().filter(|(key, _)| !self.is_ignored(key));
        let unknown = unknown::refuse(&self.file, unknown, &self.known, harmless);
        self.errors.extend(unknown);
        Error::all(self.errors)
    }

    /// The ignored names and patterns that fit a key which is unread so far.
    pub fn used_ignored(&self) -> Vec<String> {
        let fits = |name: &&String| self.unread().any(|(key, _)| matches(name, key));
        self.ignored.iter().filter(fits).cloned().collect()
    }

    fn unread(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.keys.iter().filter(|(key, _)| !self.known.contains(*key))
    }

    pub fn is_ignored(&self, key: &str) -> bool {
        self.ignored.iter().any(|name| matches(name, key))
    }

    pub fn invalid(&self, key: &str, expected: &str, found: &Value) -> Error {
        let found: String = found.to_string().chars().take(100).collect();
        err!("`{}`: key `{key}` must be {expected}, found {found}", self.file)
    }
}

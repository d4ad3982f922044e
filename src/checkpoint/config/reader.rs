//! Reads a `config.json` key by key, collects what is wrong, and refuses keys that nobody has
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::known::{self, Effect, Group};
use super::unknown::{self, Unread};
use crate::checkpoint::names;
use crate::checkpoint::similar::resembles;
use crate::display::join;
use crate::error::{Error, Result, Setting, err};
use crate::files::json;

pub const SIZES: RangeInclusive<u64> = 1..=u32::MAX as u64;

const NESTED: [&str; 4] =
    ["quantization", "quantization_config", "rope_parameters", "rope_scaling"];

/// The keys of a config. A key in a nested object is named by its path, as
/// `rope_scaling.factor`; `null` counts as absent. For a value that is missing or wrong the
/// reader notes an error and hands out the default of its type, which no key accepts.
#[derive(Default)]
pub struct ConfigReader<'a> {
    pub file: String,
    /// The number of layers with tensors in the files, if it is known.
    pub layers_there: Option<u64>,
    keys: BTreeMap<String, Value>,
    /// Names that were asked for, with a key or without.
    known: BTreeSet<String>,
    /// Keys whose value is null.
    nulls: BTreeSet<String>,
    /// Unknown keys that the user allows, by name or by a pattern.
    ignored: &'a [String],
    /// Keys that have another value than programs derive, and that the user ignores.
    overruled: BTreeSet<String>,
    /// Required keys that the file lacks.
    missing: Vec<String>,
    errors: Vec<Error>,
}

/// What to do about a value that is wrong.
pub const RESTORE: &str = "write the value that was saved with the weights";

/// A description of the values that a key accepts, and their parser.
pub struct Expected<T>(pub &'static str, pub fn(&Value) -> Option<T>);

pub const SIZE: Expected<u64> =
    Expected("a whole number from 1 to 4294967295", |value| whole(value, SIZES));
pub const SIZE_OR_ZERO: Expected<u64> =
    Expected("a whole number from 0 to 4294967295", |value| whole(value, 0..=*SIZES.end()));
/// Limited, because memory grows with them before a weight is seen.
pub const MOST_LAYERS: usize = 10_000;
pub const LAYERS: Expected<u64> =
    Expected("a whole number from 1 to 10000", |value| whole(value, 1..=MOST_LAYERS as u64));
/// Also finite: JSON has no infinity, and its parser refuses 1e999.
pub const POSITIVE: Expected<f64> =
    Expected("a positive number", |value| value.as_f64().filter(|number| *number > 0.0));
pub const FROM_ONE: Expected<f64> =
    Expected("a number of at least 1", |value| value.as_f64().filter(|number| *number >= 1.0));
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
        let nulls = keys.iter().filter(|(_, value)| value.is_null());
        let nulls = nulls.map(|(key, _)| key.clone()).collect();
        keys.retain(|_, value| !value.is_null());
        Ok(Self { file: file.to_owned(), keys, nulls, ignored, errors, ..Self::default() })
    }

    pub fn has(&self, prefix: &str) -> bool {
        self.keys.keys().any(|key| key.starts_with(prefix))
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// The first key whose value is like this.
    pub fn find(&self, is_it: impl Fn(&Value) -> bool) -> Option<&str> {
        self.keys.iter().find(|(_, value)| is_it(value)).map(|(key, _)| &**key)
    }

    pub fn is_null(&self, key: &str) -> bool {
        self.nulls.contains(key)
    }

    /// Refuses null as the value of a key whose default it does not stand for.
    pub fn refuse_null(&mut self, key: &str, expected: &str, reason: &str) {
        if self.is_null(key) {
            let error = self.invalid(key, expected, &Value::Null);
            self.refuse(err!("{error}, {reason}"));
        }
    }

    /// Whether a key has this name with a slip.
    pub fn has_slip_of(&self, name: &str) -> bool {
        self.keys.keys().any(|key| resembles(name, key))
    }

    /// The value of a key, which remains unread.
    pub fn peek<T>(&mut self, key: &str, Expected(text, read): &Expected<T>) -> Option<T> {
        let value = self.keys.get(key)?;
        let parsed = read(value);
        if parsed.is_none() {
            let error = self.invalid(key, text, value);
            self.refuse(err!("{error}: {RESTORE}"));
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

    pub fn require(&mut self, key: &str) {
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

    /// A required value with several names. All of them that are read must agree.
    pub fn one_of<T: PartialEq + Default>(&mut self, names: &[&str], expected: &Expected<T>) -> T {
        let read = self.chosen(names);
        if read.is_empty() {
            self.require(names[0]);
        }
        for name in names.iter().filter(|name| !self.keys.contains_key(**name)) {
            self.known.insert((*name).to_owned());
        }
        let value = |name| Some((name, self.optional(name, expected)?));
        let values: Vec<(&str, T)> = read.into_iter().filter_map(value).collect();
        if let Some((other, _)) = values.iter().find(|(_, value)| *value != values[0].1) {
            let name = values[0].0;
            let expected = format!("{}, as `{name}`", self.keys[name]);
            let error = self.invalid(other, &expected, &self.keys[*other]);
            self.choose(&error, &values);
        }
        values.into_iter().next().map(|(_, value)| value).unwrap_or_default()
    }

    /// Which of the names of one value are read: those that are there, but not ones that the
    /// user ignores in favour of others. A name that ends with a dot is that of an object,
    /// which is ignored if all its keys are.
    pub fn chosen<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        let any = |name: &str, holds: &dyn Fn(&str) -> bool| {
            self.keys.keys().any(|key| is_of(name, key) && holds(key))
        };
        let mut there = names.to_owned();
        there.retain(|name| any(name, &|_| true));
        let mut read = there.clone();
        read.retain(|name| any(name, &|key| !self.is_ignored(key)));
        if read.is_empty() { there } else { read }
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

    /// A number of positions that has to be `expected`, which follows from other keys by
    /// `formula`, and may be rounded. Of another one `readings` tells what programs make of it, and
    /// how to choose. The user may ignore it.
    pub fn expect_derived(
        &mut self,
        key: &str,
        expected: f64,
        formula: &str,
        readings: impl Fn(f64) -> String,
    ) {
        // Nothing follows from keys that are wrong themselves.
        if expected == 0.0 {
            return;
        }
        if self.is_ignored(key) {
            let found = self.keys.get(key).and_then(POSITIVE.1);
            if found.is_none_or(|found| (found - expected).abs() >= 1.0) {
                self.overruled.insert(key.to_owned());
            }
            return;
        }
        if let Some(found) = self.peek(key, &POSITIVE)
            && (found - expected).abs() >= 1.0
        {
            let error = err!(
                "`{}`: key `{key}` must be {expected} ({formula}), found {found}: {}",
                self.file,
                readings(found)
            );
            self.refuse(error.with_remedy(Setting::IgnoreConfigKey, key).with_another_remedy());
        }
    }

    /// Notes the error of names of one value that disagree. Either value can be chosen: all names
    /// that have another one are ignored then, by name or by a pattern.
    pub fn choose<T: PartialEq>(&mut self, error: &Error, values: &[(&str, T)]) {
        let mut error = err!("{error}; ignore the one that is wrong");
        for (at, (_, kept)) in values.iter().enumerate() {
            if values[..at].iter().all(|(_, earlier)| earlier != kept) {
                let others = values.iter().filter(|(_, value)| value != kept);
                let ignore = |(name, _): &(&str, T)| (Setting::IgnoreConfigKey, (*name).to_owned());
                error = error.with_remedies(others.map(ignore).collect());
            }
        }
        self.refuse(error);
    }

    /// Notes an error; a key of two objects may be read twice.
    pub fn refuse(&mut self, error: Error) {
        if self.errors.iter().all(|other| other.sentence() != error.sentence()) {
            self.errors.push(error);
        }
    }

    /// The names of the keys that the user ignores and that are not harmless by `groups`, and the
    /// error for unknown keys without influence on what was read. Or all that is wrong: what was
    /// noted, or else what `check` says of the values, and unknown keys.
    pub fn finish(
        mut self,
        groups: &[Group],
        check: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<(Vec<String>, Option<Error>)> {
        self.refuse_unsupported(groups);
        let unread = self.unread().filter(|(key, _)| !self.is_ignored(key));
        let (slips, mut unknown) =
            Unread { file: &self.file, known: &self.known, missing: &self.missing, groups }
                .errors(unread);
        if !self.missing.is_empty() {
            let shown = |key: &String| {
                format!("`{key}`{}", if self.is_null(key) { " (it is null)" } else { "" })
            };
            let missing: Vec<_> = self.missing.iter().map(shown).collect();
            let (keys, them) = if missing.len() == 1 { ("key", "it") } else { ("keys", "them") };
            let error = err!(
                "`{}` lacks the {keys} {}: add {them} as saved with the weights",
                self.file,
                join(&missing)
            );
            self.errors.insert(0, error);
        }
        if self.errors.is_empty() {
            self.errors.extend(check(&self).err());
        }
        self.errors.extend(slips);
        if !self.errors.is_empty() {
            self.errors.extend(unknown.take());
        }
        Error::all(std::mem::take(&mut self.errors))?;
        let matters = |key: &str, value| {
            self.overruled.contains(key)
                || !known::find(groups, key).is_some_and(|it| it.allows(value))
        };
        let ignored = self.unread().filter(|(key, value)| matters(key, value));
        Ok((ignored.map(|(key, _)| key.clone()).collect(), unknown))
    }

    /// Notes the errors of keys that would make another model than is supported.
    fn refuse_unsupported(&mut self, groups: &[Group]) {
        let mut errors = Vec::new();
        for (key, value) in &self.keys {
            let group = known::find(groups, key);
            let Some(group) = group.filter(|it| it.effect == Effect::Unsupported) else { continue };
            self.known.insert(key.clone());
            if !group.allows(value) {
                let expected = group.only.unwrap_or_default();
                let error = self.invalid(key, expected, value);
                errors.push(err!("{error}: {}, which is not supported", group.about));
            }
        }
        errors.into_iter().for_each(|error| self.refuse(error));
    }

    /// The ignored names and patterns that fit a key which is unread so far.
    pub fn used_ignored(&self) -> Vec<String> {
        self.ignored.iter().filter(|name| self.uses(name)).cloned().collect()
    }

    /// Whether a name or pattern fits a key which is unread so far.
    pub fn uses(&self, name: &str) -> bool {
        self.unread().any(|(key, _)| names::matches(name, key))
    }

    fn unread(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.keys.iter().filter(|(key, _)| !self.known.contains(*key))
    }

    pub fn is_ignored(&self, key: &str) -> bool {
        names::is_ignored(key, self.ignored)
    }

    pub fn invalid(&self, key: &str, expected: &str, found: &Value) -> Error {
        let found = unknown::shortened(found);
        err!("`{}`: key `{key}` must be {expected}, found {found}", self.file)
    }
}

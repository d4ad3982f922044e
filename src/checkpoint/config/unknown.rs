//! The refusal of unknown keys: all of them at once, with the known names that some resemble.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;
use serde_json::Value;

use super::known::{self, Group};
use crate::checkpoint::similar::most_like;
use crate::display::join;
use crate::error::{Error, Setting, err};

/// Most keys that are taken for slips: a hostile file may have any number.
const MOST_SLIPS: usize = 100;

/// The known names in each object, by the object's path.
type KnownNames<'n> = BTreeMap<&'n str, BTreeSet<&'n str>>;

/// Where keys that nothing reads were found.
pub struct Unread<'k> {
    pub file: &'k str,
    /// Names that are read.
    pub known: &'k BTreeSet<String>,
    /// Required ones that are not there.
    pub missing: &'k [String],
    pub groups: &'k [Group],
}

/// Keys that differ in the number of an element alone.
struct Found<'k> {
    count: usize,
    first: &'k str,
    /// What is to say of it.
    note: String,
    /// Whether ignoring it helps.
    can_ignore: bool,
}

impl Found<'_> {
    /// The name for a sentence, and a pattern for these keys. `all` is that for all elements.
    fn names<'n>(&'n self, all: &'n str) -> (&'n str, String) {
        if self.count > 1 { (all, all.to_owned()) } else { (self.first, pattern(self.first)) }
    }
}

impl Unread<'_> {
    /// The errors for keys that are not harmless: one for each that seems to be a slip, and one
    /// for all others.
    pub fn errors<'k>(self, unread: impl Iterator<Item = (&'k String, &'k Value)>) -> Vec<Error> {
        let names =
            by_object(self.known.iter().map(String::as_str).chain(known::names(self.groups)));
        let (mut unknown, mut slips) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in unread {
            let group = known::find(self.groups, key);
            if group.is_some_and(|group| group.allows(value)) {
                continue;
            }
            let note = group.map_or_else(String::new, |group| format!(" ({group})"));
            // A key that several elements of a list have counts as one.
            let all = for_all_elements(key);
            let is_new = group.is_none() && slips.len() < MOST_SLIPS;
            let slip = is_new.then(|| meant(key, &names)).flatten();
            let (keys, found) = match slip {
                Some(name) => (&mut slips, self.advice(key, value, name)),
                None => (&mut unknown, Found { count: 0, first: key, note, can_ignore: true }),
            };
            keys.entry(all).or_insert(found).count += 1;
        }
        let slips = slips.into_iter().map(|(all, found)| self.slip(&all, &found));
        slips.chain(self.unknown(unknown)).collect()
    }

    /// A key that seems to be `name` with a slip, and what to do about it.
    fn advice<'k>(&self, key: &'k str, value: &Value, name: &str) -> Found<'k> {
        let object = key.rsplit_once('.').map_or(String::new(), |(object, _)| format!("{object}."));
        let can_ignore = !self.missing.contains(&format!("{object}{name}"));
        let mut note = format!(" (did you mean `{name}`?): rename it");
        if can_ignore {
            let value = shortened(value);
            note +=
                &format!(" to use its value {value}, or ignore it to export a model without that");
        }
        Found { count: 0, first: key, note, can_ignore }
    }

    /// The error for a key whose name is like a known one. Ignoring it is a choice of another
    /// reading, so it is not recommended together with what other errors say.
    fn slip(&self, all: &str, found: &Found) -> Error {
        let (name, typed) = found.names(all);
        let error = err!("`{}` has an unknown key `{name}`{}", self.file, found.note);
        if !found.can_ignore {
            return error;
        }
        error.with_remedy(Setting::IgnoreConfigKey, typed).with_another_remedy()
    }

    fn unknown(&self, unknown: BTreeMap<String, Found>) -> Option<Error> {
        let (mut shown, mut together) = (Vec::new(), Vec::new());
        for (all, found) in unknown {
            let (name, typed) = found.names(&all);
            shown.push(format!("`{name}`{}", found.note));
            together.push((Setting::IgnoreConfigKey, typed));
        }
        let (keys, they_do) = match shown.len() {
            0 => return None,
            1 => ("an unknown key", "it does"),
            _ => ("unknown keys", "they do"),
        };
        let error = err!(
            "`{}` has {keys} {}, which can be ignored if {they_do} not change what the model computes",
            self.file,
            join(&shown)
        );
        Some(error.with_remedies(together))
    }
}

/// A pattern that matches one key, without characters that cannot be typed.
fn pattern(key: &str) -> String {
    Pattern::escape(key).replace(char::is_control, "?")
}

/// The pattern of a key in an element of a list, as `list.3.key`, for all elements.
fn for_all_elements(key: &str) -> String {
    let parts: Vec<String> = key.split('.').map(pattern).collect();
    match &parts[..] {
        [list, at, rest @ ..] if !rest.is_empty() && at.parse::<u32>().is_ok() => {
            format!("{list}.*.{}", rest.join("."))
        }
        _ => parts.join("."),
    }
}

/// Names by the object that has them; an object is a name as well.
fn by_object<'n>(paths: impl Iterator<Item = &'n str>) -> KnownNames<'n> {
    let mut names = KnownNames::new();
    for mut path in paths {
        while let Some((object, name)) = path.rsplit_once('.') {
            names.entry(object).or_default().insert(name);
            path = object;
        }
        names.entry("").or_default().insert(path);
    }
    names
}

/// The known name in the same object that a key is most like.
fn meant<'n>(key: &str, names: &KnownNames<'n>) -> Option<&'n str> {
    let (object, key) = key.rsplit_once('.').unwrap_or(("", key));
    most_like(key, names.get(object).into_iter().flatten().copied(), |name| name)
}

/// A value for a sentence.
pub fn shortened(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}

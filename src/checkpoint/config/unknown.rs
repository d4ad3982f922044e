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
    /// Required ones without a key.
    pub missing: &'k [String],
    pub groups: &'k [Group],
}

impl Unread<'_> {
    /// The errors for keys that are not harmless: one for each that seems to be a slip, and one
    /// for all others.
    pub fn errors<'k>(
        self,
        unread: impl Iterator<Item = (&'k String, &'k Value)>,
    ) -> (Vec<Error>, Option<Error>) {
        let names =
            by_object(self.known.iter().map(String::as_str).chain(known::names(self.groups)));
        // A key that several elements of a list have counts as one.
        let mut found = BTreeMap::<String, Vec<(&str, &Value)>>::new();
        for (key, value) in unread {
            if !known::find(self.groups, key).is_some_and(|group| group.allows(value)) {
                found.entry(for_all_elements(key)).or_default().push((key, value));
            }
        }
        let (mut slips, mut shown, mut together) = (Vec::new(), Vec::new(), Vec::new());
        for (all, found) in found {
            let (key, _) = found[0];
            let is_single = found.len() == 1;
            let (name, typed) = if is_single { (key, pattern(key)) } else { (&*all, all.clone()) };
            let group = known::find(self.groups, key);
            if group.is_none()
                && slips.len() < MOST_SLIPS
                && let Some(known) = meant(key, &names)
            {
                slips.push(self.slip(name, typed, found[0], known));
                continue;
            }
            let note = group.map_or_else(String::new, |group| format!(" ({group})"));
            shown.push(format!("`{name}`{note}"));
            together.push((Setting::IgnoreConfigKey, typed));
        }
        let (keys, they_do) = match shown.len() {
            0 => return (slips, None),
            1 => ("an unknown key", "it does"),
            _ => ("unknown keys", "they do"),
        };
        let error = err!(
            "`{}` has {keys} {}, which can be ignored if {they_do} not change what the model computes",
            self.file,
            join(&shown)
        );
        (slips, Some(error.with_remedies(together)))
    }

    /// The error for a key that seems to be a `known` one with a slip. Ignoring it is another reading,
    /// so it is not recommended together with what other errors say.
    fn slip(&self, name: &str, typed: String, (key, value): (&str, &Value), known: &str) -> Error {
        let error = err!(
            "`{}` has an unknown key `{name}` (did you mean `{known}`?): rename it",
            self.file
        );
        let object = key.rsplit_once('.').map_or(String::new(), |(object, _)| format!("{object}."));
        if self.missing.contains(&format!("{object}{known}")) {
            return error;
        }
        let value = shortened(value);
        err!("{error} to use its value {value}, or ignore it to export a model without that")
            .with_remedy(Setting::IgnoreConfigKey, typed)
            .with_another_remedy()
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

//! The refusal of unknown keys: all of them at once, with the known names that some resemble.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;
use serde_json::Value;

use super::harmless::{self, Group};
use crate::display::join;
use crate::error::{Error, Setting, err};

/// Similarity, at most 1, from which a known name is suggested.
const SIMILAR: f64 = 0.8;
/// Most unknown keys for which names are suggested: a hostile file may have any number.
const MOST_SUGGESTED: usize = 100;

/// The known names in each object, by the object's path.
type KnownNames<'n> = BTreeMap<&'n str, BTreeSet<&'n str>>;

/// The error for keys of a file that nothing reads, unless all of them are harmless.
pub fn refuse<'k>(
    file: &str,
    unread: impl Iterator<Item = (&'k String, &'k Value)>,
    known: &'k BTreeSet<String>,
    groups: &'k [Group],
) -> Option<Error> {
    let names = by_object(known.iter().map(String::as_str).chain(harmless::names(groups)));
    // How many there are of each, the first one, and what is to say of it: a key that several
    // elements of a list have counts as one.
    let mut unknown: BTreeMap<String, (usize, &str, String)> = BTreeMap::new();
    for (key, value) in unread {
        let note = match harmless::find(groups, key) {
            Some(group) if group.allows(value) => continue,
            Some(group) => format!(" ({group})"),
            None if unknown.len() < MOST_SUGGESTED => did_you_mean(key, &names),
            None => String::new(),
        };
        unknown.entry(for_all_elements(key)).or_insert((0, key, note)).0 += 1;
    }
    let (mut shown, mut together) = (Vec::new(), Vec::new());
    for (all, (count, first, note)) in unknown {
        let (name, typed) = if count > 1 { (&*all, all.clone()) } else { (first, pattern(first)) };
        shown.push(format!("`{name}`{note}"));
        together.push((Setting::IgnoreConfigKey, typed));
    }
    let (keys, they_do) = match shown.len() {
        0 => return None,
        1 => ("an unknown key", "it does"),
        _ => ("unknown keys", "they do"),
    };
    let error = err!(
        "`{file}` has {keys} {}, which can be ignored if {they_do} not change what the model computes",
        join(&shown)
    );
    Some(error.with_remedies(together))
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

/// A question for the known name in the same object that a key is most like.
fn did_you_mean(key: &str, names: &KnownNames) -> String {
    let (object, key) = key.rsplit_once('.').unwrap_or(("", key));
    let key = key.to_lowercase();
    let names = names.get(object).into_iter().flatten();
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(name, &key);
    let best = names.map(|name| (likeness(name), name)).max_by(|one, two| one.0.total_cmp(&two.0));
    let best = best.filter(|(likeness, _)| *likeness >= SIMILAR);
    best.map_or_else(String::new, |(_, name)| format!(" (did you mean `{name}`?)"))
}

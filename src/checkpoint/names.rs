//! Names: what wrappers add to those of tensors, and patterns that fit them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use glob::Pattern;

/// Attributes under which wrappers hold a module, and the wrappers.
pub const WRAPPERS: [(&str, &str); 3] = [
    ("_orig_mod", "torch.compile"),
    ("_checkpoint_wrapped_module", "activation checkpointing"),
    ("_fsdp_wrapped_module", "FSDP"),
];

/// How the names within a layer begin in the layouts.
const LAYERS: [&str; 3] = ["model.layers.", "layers.", "block."];

/// What stored names have in addition to those of a layout.
#[derive(Clone, Debug, Default)]
pub struct Wrapping {
    /// The beginning of every name, such as `module.`; empty if there is none.
    pub prefix: String,
    wrappers: Vec<(&'static str, &'static str)>,
}

impl Wrapping {
    pub fn of<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let names: Vec<&str> = names.collect();
        let is_used = |(part, _): &(&str, _)| names.iter().any(|name| has_part(name, part));
        let wrappers: Vec<_> = WRAPPERS.into_iter().filter(is_used).collect();
        let wrapping = Self { prefix: String::new(), wrappers };
        let names: Vec<String> = names.into_iter().map(|name| wrapping.unwrapped(name)).collect();
        let prefixes: BTreeSet<&str> = names.iter().filter_map(|name| prefix(name)).collect();
        let all_have_it = |prefix: &&&str| names.iter().all(|name| name.starts_with(**prefix));
        let prefix = prefixes.iter().rfind(all_have_it).map_or("", |it| it).to_owned();
        Self { prefix, ..wrapping }
    }

    /// The name of a layout that a stored name stands for.
    pub fn unwrapped(&self, stored: &str) -> String {
        let is_own = |part: &&str| self.wrappers.iter().all(|(wrapper, _)| wrapper != part);
        let name = stored.split('.').filter(is_own).collect::<Vec<_>>().join(".");
        name.strip_prefix(&self.prefix).map_or(name.clone(), str::to_owned)
    }

    /// What is told of it.
    pub fn notes(&self) -> Vec<String> {
        let prefix = (!self.prefix.is_empty())
            .then(|| format!("the prefix `{}` of all names is left out", self.prefix));
        let wrappers = self.wrappers.iter();
        let wrappers =
            wrappers.map(|(part, wrapper)| format!("`{part}` ({wrapper}) in names is left out"));
        prefix.into_iter().chain(wrappers).collect()
    }
}

fn has_part(name: &str, part: &str) -> bool {
    name.split('.').any(|it| it == part)
}

/// What precedes the name of a layout, in a name within a layer.
pub fn prefix(name: &str) -> Option<&str> {
    LAYERS.iter().find_map(|layers| {
        let mut prefixes = name.match_indices(layers).map(|(at, _)| &name[..at]);
        prefixes.find(|prefix| prefix.is_empty() || prefix.ends_with('.'))
    })
}

/// The number of the layer in the name of a layout.
pub fn layer(name: &str) -> Option<usize> {
    let rest = LAYERS.iter().find_map(|layers| name.strip_prefix(layers))?;
    rest.split_once('.')?.0.parse().ok()
}

/// Whether a name is one of the `ignored` names and patterns.
pub fn is_ignored(name: &str, ignored: &[String]) -> bool {
    ignored.iter().any(|pattern| matches(pattern, name))
}

pub fn matches(pattern: &str, name: &str) -> bool {
    pattern == name || Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name))
}

/// The longest patterns that match most of `names` and none of `others`: by a common beginning
/// or end, in whole parts. Together they match all names; one without company stands for
/// itself.
pub fn patterns<'n>(
    names: impl Iterator<Item = &'n str> + Clone,
    others: impl IntoIterator<Item = &'n str>,
) -> BTreeSet<String> {
    let mut counts = HashMap::new();
    for affix in names.clone().flat_map(affixes) {
        *counts.entry(affix).or_insert(0) += 1;
    }
    for affix in others.into_iter().flat_map(affixes) {
        counts.remove(&affix);
    }
    let pattern = |name: &'n str| {
        let shared = affixes(name).filter_map(|affix| Some((*counts.get(&affix)?, affix)));
        let most = shared
            .filter(|(count, _)| *count > 1)
            .max_by_key(|(count, (at_end, text))| (*count, text.len(), Reverse(*at_end)));
        match most {
            Some((_, (false, beginning))) => Pattern::escape(beginning) + "*",
            Some((_, (true, end))) => format!("*{}", Pattern::escape(end)),
            None => name.to_owned(),
        }
    };
    names.map(pattern).collect()
}

/// The beginnings and ends of a name, and whether they are ends.
fn affixes(name: &str) -> impl Iterator<Item = (bool, &str)> {
    name.match_indices('.').flat_map(|(at, _)| [(false, &name[..=at]), (true, &name[at..])])
}

/// A name without its numbers.
pub fn without_numbers(name: &str) -> String {
    name.replace(|c: char| c.is_ascii_digit(), "")
}

/// The numbers in a name.
pub fn numbers(name: &str) -> Vec<&str> {
    name.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_all_names_and_no_others() {
        let table = [
            ("a.b", "a.c", "a.b"),
            ("x.a x.b", "y.a", "x.*"),
            ("x.y.a x.y.b", "z", "x.y.*"),
            ("l.0.s l.1.s", "l.0.w l.1.w", "*.s"),
            ("l.0.s l.1.s v.t.a v.u.b z", "l.0.w l.1.w", "*.s v.* z"),
            ("l.0.s l.1.s", "k.s l.w", "l.0.s l.1.s"),
            ("l[0].s l[0].t", "", "l[[]0[]].*"),
        ];
        for (names, others, expected) in table {
            let names: Vec<&str> = names.split(' ').collect();
            let found = patterns(names.iter().copied(), others.split(' '));
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>().join(" "), expected);
            assert!(names.iter().all(|name| found.iter().any(|pattern| matches(pattern, name))));
            assert!(!others.split(' ').any(|name| found.iter().any(|it| matches(it, name))));
        }
    }
}

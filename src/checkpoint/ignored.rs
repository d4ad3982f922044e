//! What the user ignores of a checkpoint and of adapters.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::names::matches;
use crate::display::{noun, several};
use crate::error::{Error, Result, err};

/// Unknown names that the user allows. In a request each may be a pattern with `*` and `?`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IgnoredNames {
    /// Config keys by full name, as `rope_scaling.factor`.
    pub config_keys: Vec<String>,
    /// Tensors by name.
    pub tensors: Vec<String>,
    /// Patterns that fit several of these, if those were ignored by patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// Names and patterns that fit something in an adapter, and may fit nothing in its base.
    #[serde(skip)]
    pub of_adapters: Vec<String>,
    /// Whether weights without which no model works may be zeros.
    #[serde(skip)]
    pub zeros: bool,
}

impl IgnoredNames {
    #[allow(missing_docs)]
    pub fn is_empty(&self) -> bool {
        self.config_keys.is_empty() && self.tensors.is_empty()
    }

    /// What a sentence says after "the checkpoint": nothing, or that it is not the whole one.
    pub fn apart(&self) -> String {
        if self.is_empty() { String::new() } else { format!(" apart from {self}") }
    }

    /// Refuses those that fit nothing, of a weights file without unknown names.
    pub fn require_use(&self, staged: &Path) -> Result<()> {
        let unused = [&self.config_keys, &self.tensors].into_iter().flat_map(|it| self.of_base(it));
        let staged = staged.display();
        Error::all(unused.map(|name| {
            err!("nothing to ignore: `{staged}` has no unknown key or tensor `{name}`")
        }))
    }

    /// Those that have to fit something in a checkpoint.
    pub(super) fn of_base<'n>(&'n self, names: &'n [String]) -> impl Iterator<Item = &'n String> {
        names.iter().filter(|name| !self.of_adapters.contains(name))
    }

    /// The same, ignored by these names and patterns.
    pub fn by(mut self, wanted: &Self) -> Self {
        let all = || self.config_keys.iter().chain(&self.tensors);
        let has_several = |it: &&String| all().filter(|name| matches(it, name)).count() > 1;
        let patterns = wanted.config_keys.iter().chain(&wanted.tensors).filter(has_several);
        self.patterns = patterns.cloned().collect();
        self
    }

    /// Some of the names for a sentence, those that fit a pattern as one, with their number.
    fn shown(&self, names: &[String]) -> String {
        let (mut names, mut shown) = (names.to_vec(), Vec::new());
        for pattern in &self.patterns {
            match &names.extract_if(.., |name| matches(pattern, name)).collect::<Vec<_>>()[..] {
                [] => {}
                [one] => shown.push(format!("`{one}`")),
                several => shown.push(format!("`{pattern}` ({})", several.len())),
            }
        }
        shown.extend(names.iter().map(|name| format!("`{name}`")));
        several(shown.into_iter())
    }
}

impl fmt::Display for IgnoredNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let kinds = [("config key", &self.config_keys), ("tensor", &self.tensors)];
        for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
            parts.push(format!("the {} {}", noun(names.len(), kind), self.shown(names)));
        }
        f.write_str(&parts.join(" and "))
    }
}

//! The tensors that make a canonical weight.

use super::{Layout, Names};
use crate::checkpoint::tensors::Tensors;

/// The tensors of a weight: one, or one for each expert, one after the other; or pairs of such
/// whose rows alternate.
pub struct Sources {
    /// One or two, with `E` for the number of an expert.
    templates: Vec<String>,
}

/// The number of an expert in a template.
const EXPERT: &str = ".E.";

impl Layout {
    /// The tensors of a canonical weight, whose matrix has these names of its own. Of several
    /// names the first stored one counts.
    pub fn sources(&self, canonical: &str, own: Names, tensors: &Tensors) -> Sources {
        let in_layer = canonical.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let (prefix, name) = match in_layer {
            Some((n, name)) => (format!("{}{n}.", self.layer), name),
            None => (String::new(), canonical),
        };
        let mut found = own.iter().chain(self.names).filter_map(|(ours, theirs)| {
            let rest = name.strip_prefix(ours)?;
            let stored = |theirs| format!("{prefix}{theirs}{rest}");
            let is_whole = rest.is_empty() || rest.starts_with('.');
            is_whole.then(|| Sources { templates: theirs.split(' ').map(stored).collect() })
        });
        let first = found.next().unwrap_or_else(|| panic!("no name for `{canonical}`"));
        if tensors.has(&first.first()) {
            return first;
        }
        found.find(|it| tensors.has(&it.first())).unwrap_or(first)
    }
}

impl Sources {
    /// Whether each expert has a tensor.
    pub fn is_split(&self) -> bool {
        self.templates[0].contains(EXPERT)
    }

    /// Whether the rows of two tensors alternate.
    pub fn alternate(&self) -> bool {
        self.templates.len() == 2
    }

    pub fn first(&self) -> String {
        self.of_expert(0).next().expect("a template")
    }

    /// The tensors in order, for so many experts.
    pub fn tensors(&self, experts: u64) -> impl Iterator<Item = String> {
        let numbers = 0..if self.is_split() { experts } else { 1 };
        numbers.flat_map(|expert| self.of_expert(expert))
    }

    fn of_expert(&self, expert: u64) -> impl Iterator<Item = String> {
        let number = format!(".{expert}.");
        self.templates.iter().map(move |it| it.replace(EXPERT, &number))
    }
}

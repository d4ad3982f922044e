//! How alike two names are: by the edits that make one of the other, each of which inserts, removes or
//! replaces a character, or exchanges two neighbours.

use std::collections::HashMap;

use super::names::numbers;

/// Most edits between long names of which one is a slip of the other.
const SLIPS: usize = 2;
/// The share of a word's characters that a slip leaves as they are, at least.
const SIMILAR: f64 = 0.8;

/// Names of which others may be slips.
pub struct Similar<'n>(HashMap<Vec<&'n str>, Vec<&'n str>>);

impl<'n> Similar<'n> {
    pub fn new(names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut by_numbers = HashMap::<_, Vec<_>>::new();
        for name in names {
            by_numbers.entry(numbers(name)).or_default().push(name);
        }
        Self(by_numbers)
    }

    /// The most similar name of the same layer and expert.
    pub fn to(&self, name: &str) -> Option<&'n str> {
        let others = self.0.get(&numbers(name))?.iter();
        let slips = others.filter(|other| is_slip(other, name)).copied();
        slips.min_by_key(|other| (strsim::osa_distance(other, name), *other))
    }
}

/// Whether a few edits make one long name of the other.
pub fn is_slip(one: &str, other: &str) -> bool {
    strsim::osa_distance(one, other) <= SLIPS
}

/// Whether a word seems to be a known one with a slip.
pub fn resembles(known: &str, found: &str) -> bool {
    found != known && likeness(known, found) >= SIMILAR
}

/// The known word that another one is most like.
pub fn most_like<T>(
    found: &str,
    known: impl Iterator<Item = T>,
    word: impl Fn(&T) -> &str,
) -> Option<T> {
    let alike = known.map(|it| (likeness(word(&it), found), it));
    let best = alike.max_by(|one, two| one.0.total_cmp(&two.0));
    best.filter(|(likeness, _)| *likeness >= SIMILAR).map(|(_, it)| it)
}

/// The share of the longer word that no edit changes, in whatever case `found` is.
fn likeness(known: &str, found: &str) -> f64 {
    let found = found.to_lowercase();
    let longer = known.chars().count().max(found.chars().count()).max(1);
    1.0 - strsim::osa_distance(known, &found) as f64 / longer as f64
}

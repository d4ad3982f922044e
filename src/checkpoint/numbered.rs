//! Shards whose names count them: `model-00001-of-00003.safetensors`.

use std::collections::BTreeSet;

use super::instead::instead_of;
use crate::display::listed;
use crate::error::{Result, ensure};

/// More digits than the number of any checkpoint's shards.
const MAX_DIGITS: usize = 5;

/// Files of one set, of which some may be missing.
pub struct NumberedSet<'n> {
    prefix: &'n str,
    count: &'n str,
    numbers: BTreeSet<u32>,
}

impl<'n> NumberedSet<'n> {
    /// The set to which all these files belong, if it is one.
    pub fn of(names: impl IntoIterator<Item = &'n str>) -> Option<Self> {
        let mut parts = names.into_iter().map(parts);
        let (prefix, number, count) = parts.next()??;
        let mut numbers = BTreeSet::from([number]);
        for part in parts {
            let (other, number, total) = part?;
            if (other, total) != (prefix, count) {
                return None;
            }
            numbers.insert(number);
        }
        Some(Self { prefix, count, numbers })
    }

    /// Refuses a set without some of its files, of all names that are `there`.
    pub fn require_all(&self, place: &str, there: &BTreeSet<String>) -> Result<()> {
        let missing = self.missing();
        let lone = if self.numbers.len() == 1 {
            ", or rename the one that is there to model.safetensors if it is the whole checkpoint"
        } else {
            ""
        };
        ensure!(
            missing.is_empty(),
            "`{place}` has no index, and of the shards that its files belong to it lacks {}: add what is missing{lone}{}",
            listed(missing.iter()),
            instead_of(there, missing.iter())
        );
        Ok(())
    }

    /// The files that a set lacks. Sets "of 2" have numbers from 1 to 2, as transformers gives them,
    /// from 0 to 1, or from 0 to 2, as the released ones.
    pub fn missing(&self) -> Vec<String> {
        let numbers = self.first()..=self.count();
        let missing: Vec<u32> = numbers.filter(|it| !self.numbers.contains(it)).collect();
        let is_whole = self.first() == 0 && missing == [self.count()];
        missing.into_iter().filter(|_| !is_whole).map(|at| self.name(at)).collect()
    }

    /// The file that the set has under one way of counting, and not under the other.
    pub fn uncertain(&self) -> Option<String> {
        let ends = [0, self.count()];
        ends.into_iter().find(|at| !self.numbers.contains(at)).map(|at| self.name(at))
    }

    fn first(&self) -> u32 {
        u32::from(!self.numbers.contains(&0))
    }

    fn count(&self) -> u32 {
        self.count.parse().expect("few digits")
    }

    fn name(&self, number: u32) -> String {
        let Self { prefix, count, .. } = self;
        format!("{prefix}-{number:0width$}-of-{count}.safetensors", width = count.len())
    }
}

/// The prefix, the number and the count in a shard's name.
fn parts(name: &str) -> Option<(&str, u32, &str)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_pair = number.len() == count.len() && (1..=MAX_DIGITS).contains(&count.len());
    if !is_pair || !is_number(number) || !is_number(count) || number > count {
        return None;
    }
    Some((prefix, number.parse().ok()?, count))
}

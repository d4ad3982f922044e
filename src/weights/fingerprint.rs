//! What identifies a set of weights: not a path, not a date, not sizes.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::pieces::{Files, read_range};
use super::{Recipe, Result, Weight};
use crate::files::digest::{Digest, sample_ranges};

/// Version of the weights file and of what goes into a fingerprint.
pub const FORMAT_VERSION: u32 = 5;

/// Twelve hexadecimal digits: the beginning of a SHA-256 over the format's
/// version, of every weight its name, dtype, shape and a sample of its bytes
/// (first, middle and last 4 KiB), and what else belongs to them.
///
/// Two fine-tunes of one model have equal headers and sizes, and differ here. Files are
/// named after it, so one that was written down is nothing but digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of a model: weights under a config in its canonical text. Of what must be
    /// converted, what it is made of counts, so nothing is converted for it.
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        let mut files = Files::default();
        let mut hash = Hash::new(config);
        for weight in weights {
            hash.add(weight, &mut |weight, range| read_range(weight, &mut files, range))?;
        }
        Ok(hash.finish())
    }

    /// Of what is in a file that these weights are all of.
    pub fn of_stored<'w>(weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        let mut files = Files::default();
        Self::of_contents(weights, |weight, range| read_range(weight, &mut files, range))
    }

    /// Of what is in a file, whatever it was made of and in whichever order.
    pub(super) fn of_contents<'w>(
        weights: impl IntoIterator<Item = &'w Weight>,
        mut read: impl FnMut(&Weight, Range<u64>) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let mut weights: Vec<&Weight> = weights.into_iter().collect();
        weights.sort_by_key(|weight| &weight.name);
        let mut hash = Hash::new("");
        weights.into_iter().try_for_each(|weight| hash.add_bytes(weight, &mut read))?;
        Ok(hash.finish())
    }

    /// That of a file which has yet to be written.
    pub(super) fn unknown() -> Self {
        Self("0".repeat(DIGITS))
    }
}

/// Digits of a fingerprint.
const DIGITS: usize = 12;

/// A fingerprint in the making.
struct Hash(Digest);

type Read<'r> = dyn FnMut(&Weight, Range<u64>) -> Result<Vec<u8>> + 'r;

impl Hash {
    fn new(beginning: &str) -> Self {
        let mut hash = Digest::sha256();
        hash.update(format!("gpt-oss-export {FORMAT_VERSION}\n{beginning}\n"));
        Self(hash)
    }

    fn add(&mut self, weight: &Weight, read: &mut Read) -> Result<()> {
        let Recipe::Converted(conversion, _) = &weight.recipe else {
            return self.add_bytes(weight, read);
        };
        self.add_name(weight);
        conversion.from().weights().into_iter().try_for_each(|origin| self.add(origin, read))
    }

    fn add_name(&mut self, weight: &Weight) {
        let Weight { name, dtype, shape, .. } = weight;
        self.0.update(format!("{name} {dtype} {shape:?}\n"));
    }

    fn add_bytes(&mut self, weight: &Weight, read: &mut Read) -> Result<()> {
        self.add_name(weight);
        for [start, end] in sample_ranges(weight.bytes()) {
            self.0.update(read(weight, start..end)?);
        }
        Ok(())
    }

    fn finish(self) -> Fingerprint {
        Fingerprint(self.0.hex()[..DIGITS].to_owned())
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    /// One that was written down.
    fn try_from(text: String) -> std::result::Result<Self, String> {
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        match text.len() == DIGITS && text.bytes().all(is_digit) {
            true => Ok(Self(text)),
            false => Err(format!("{text:?} is no fingerprint of {DIGITS} hexadecimal digits")),
        }
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

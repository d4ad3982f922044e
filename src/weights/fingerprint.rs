//! What identifies a set of weights, independent of paths, dates and sizes.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Weight;
use super::reader::{FileCache, read_range};
use crate::error::{Error, Result, ensure};
use crate::files::digest::{Digest, sample_ranges};

/// Version of the weights file and of the fingerprint.
pub const FORMAT_VERSION: u32 = 5;

/// Twelve hexadecimal digits of a SHA-256 over the format version, the config, and of every
/// weight the name, dtype, shape and a sample of its bytes (first, middle and last 4 KiB).
/// Two fine-tunes of one model have equal headers and sizes, and differ here. It is part
/// of file names, so a parsed one contains nothing but digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

const DIGITS: usize = 12;

impl Fingerprint {
    /// Of the weights of a model with this config. Converted weights count by their
    /// sources, so nothing is converted.
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        let mut files = FileCache::default();
        let mut hash = Hash::new(config);
        for weight in weights {
            hash.add(weight, &mut |weight, range| read_range(weight, &mut files, range))?;
        }
        Ok(hash.finish())
    }

    /// Of the contents of a file that holds exactly these weights.
    pub fn of_stored<'w>(weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        let mut files = FileCache::default();
        Self::of_contents(weights, |weight, range| read_range(weight, &mut files, range))
    }

    /// Of the contents of a file, whatever their source and order.
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

    /// A placeholder for a file that is not written yet.
    pub(super) fn placeholder() -> Self {
        Self("0".repeat(DIGITS))
    }
}

struct Hash(Digest);

type Read<'r> = dyn FnMut(&Weight, Range<u64>) -> Result<Vec<u8>> + 'r;

impl Hash {
    fn new(prefix: &str) -> Self {
        let mut hash = Digest::sha256();
        hash.update(format!("gpt-oss-export {FORMAT_VERSION}\n{prefix}\n"));
        Self(hash)
    }

    fn add(&mut self, weight: &Weight, read: &mut Read) -> Result<()> {
        let Some((conversion, _)) = weight.conversion() else {
            return self.add_bytes(weight, read);
        };
        self.add_header(weight);
        conversion.source().weights().iter().try_for_each(|source| self.add(source, read))
    }

    fn add_header(&mut self, weight: &Weight) {
        let Weight { name, dtype, shape, .. } = weight;
        self.0.update(format!("{name} {dtype} {shape:?}\n"));
    }

    fn add_bytes(&mut self, weight: &Weight, read: &mut Read) -> Result<()> {
        self.add_header(weight);
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
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let is_valid = text.len() == DIGITS && text.bytes().all(is_digit);
        ensure!(is_valid, "{text:?} is not a fingerprint of {DIGITS} hexadecimal digits");
        Ok(Self(text))
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

//! What identifies a set of weights, independent of paths, dates and sizes.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Weight;
use super::reader::{FileCache, read_range};
use crate::display::{listed, plural};
use crate::error::{Error, Result, ensure};
use crate::files::digest::{Digest, sample_ranges};

/// Version of the weights file and of the fingerprint.
pub const FORMAT_VERSION: u32 = 5;

/// Twelve hexadecimal digits of a SHA-256 over the format version, the config, and of every
/// weight the name, dtype, shape and a sample of its bytes (first, middle and last 4 KiB).
/// Two fine-tunes of one model have equal headers and sizes, and differ here. It is part
/// of file names, so a parsed one contains nothing but digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Fingerprint(String);

const DIGITS: usize = 12;

/// What samples of weights tell.
pub struct Samples {
    pub fingerprint: Fingerprint,
    pub zeros: Zeros,
}

/// Canonical names of weights of which all sampled bytes are zero, and should not be.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Zeros(BTreeSet<String>);

impl Fingerprint {
    /// Of the weights of a model with this config, [`Samples::of`].
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        Ok(Samples::of(config, weights)?.fingerprint)
    }

    /// Of the same weights in a file that records this besides.
    pub fn with(&self, record: &str) -> Self {
        let mut hash = Digest::sha256();
        hash.update(format!("{self}\n{record}"));
        Self(hash.hex()[..DIGITS].to_owned())
    }
}

impl Samples {
    /// Of the weights of a model with this config. Converted weights count by their
    /// sources, so nothing is converted.
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        Self::read(config, weights, &mut FileCache::default())
    }

    /// Of the contents of a file that holds exactly these weights, whatever their order.
    pub fn of_stored<'w>(
        weights: impl IntoIterator<Item = &'w Weight>,
        files: &mut FileCache,
    ) -> Result<Self> {
        let mut weights: Vec<&Weight> = weights.into_iter().collect();
        weights.sort_by_key(|weight| &weight.name);
        Self::read("", weights, files)
    }

    fn read<'w>(
        prefix: &str,
        weights: impl IntoIterator<Item = &'w Weight>,
        files: &mut FileCache,
    ) -> Result<Self> {
        let (mut hash, mut zeros) = (Digest::sha256(), Zeros::default());
        hash.update(format!("gpt-oss-export {FORMAT_VERSION}\n{prefix}\n"));
        let mut weights = weights.into_iter();
        weights.try_for_each(|weight| add(&mut hash, &mut zeros, weight, files))?;
        Ok(Self { fingerprint: Fingerprint(hash.hex()[..DIGITS].to_owned()), zeros })
    }
}

/// Adds a weight: its header, and a sample of its bytes or of those that it is converted from.
fn add(hash: &mut Digest, zeros: &mut Zeros, weight: &Weight, files: &mut FileCache) -> Result<()> {
    let Weight { name, dtype, shape, .. } = weight;
    hash.update(format!("{name} {dtype} {shape:?}\n"));
    if let Some((conversion, _)) = weight.conversion() {
        hash.update(conversion.identity());
        return conversion.sources().try_for_each(|source| add(hash, zeros, source, files));
    }
    let mut is_zero = !weight.may_be_zero();
    for [start, end] in sample_ranges(weight.bytes()) {
        let sample = read_range(weight, files, start..end)?;
        is_zero &= sample.iter().all(|byte| *byte == 0);
        hash.update(sample);
    }
    if is_zero {
        zeros.0.insert(name.clone());
    }
    Ok(())
}

impl Zeros {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Zeros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, names) = (plural(self.0.len(), "tensor"), listed(self.0.iter()));
        write!(
            f,
            "{count}, {names}: all sampled bytes are 0, as after an interrupted save or download, and no model computes anything useful with such weights; a scan by `inspect` tells for certain"
        )
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let is_digit = |c| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let is_valid = text.len() == DIGITS && text.bytes().all(is_digit);
        ensure!(is_valid, "{text:?} is not a fingerprint of {DIGITS} hexadecimal digits");
        Ok(Self(text))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! What identifies a set of weights, independent of paths, dates and sizes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, ensure};
use crate::files::digest::Digest;

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

impl Fingerprint {
    /// Of the same weights in a file that records this besides.
    pub fn with(&self, record: &str) -> Self {
        let mut hash = Digest::sha256();
        hash.update(format!("{self}\n{record}"));
        Self::new(hash)
    }

    /// The digest to which weights are added.
    pub(super) fn begin(prefix: &str) -> Digest {
        let mut hash = Digest::sha256();
        hash.update(format!("gpt-oss-export {FORMAT_VERSION}\n{prefix}\n"));
        hash
    }

    pub(super) fn new(hash: Digest) -> Self {
        Self(hash.hex()[..DIGITS].to_owned())
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

//! What identifies a set of weights: not a path, not a date, not sizes.

use std::fmt;

use sha2::{Digest, Sha256};

use super::pieces::{Files, read_range};
use super::{Result, Weight};

/// Version of the weights file and of what goes into a fingerprint.
pub const FORMAT_VERSION: u32 = 2;
/// Bytes of each sample.
const SAMPLE: u64 = 4096;

/// Twelve hexadecimal digits: the beginning of a SHA-256 over the config, the
/// format's version, and of every weight its name, dtype, shape and a sample of
/// its bytes (first, middle and last 4 KiB), however they come about: a staged
/// file has the fingerprint of the checkpoint that it was made of.
///
/// Two fine-tunes of one model have equal headers and sizes, and differ here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Computes the fingerprint of weights under a config in its canonical text.
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(format!("gpt-oss-export {FORMAT_VERSION}\n{config}\n"));
        let mut files = Files::default();
        for weight in weights {
            let Weight { name, dtype, shape, .. } = weight;
            hash.update(format!("{name} {dtype} {shape:?}\n"));
            for [start, end] in samples(weight.bytes()) {
                hash.update(read_range(weight, &mut files, start..end)?);
            }
        }
        let digest = hash.finalize();
        Ok(Self(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()))
    }
}

/// Where samples of so many bytes begin and end: first, middle and last, or all
/// when they are few.
fn samples(length: u64) -> Vec<[u64; 2]> {
    match length.checked_sub(3 * SAMPLE) {
        None => vec![[0, length]],
        Some(rest) => {
            [0, SAMPLE + rest / 2, 2 * SAMPLE + rest].map(|start| [start, start + SAMPLE]).to_vec()
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Digests of files: SHA-256, and the object ids of git.

use std::fmt::Write;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Length of a sample in bytes.
const SAMPLE: u64 = 4096;

/// The byte ranges that stand for `length` bytes in a fingerprint: the first, middle and
/// last 4 KiB, or everything up to 12 KiB.
pub fn sample_ranges(length: u64) -> Vec<[u64; 2]> {
    match length.checked_sub(3 * SAMPLE) {
        None => vec![[0, length]],
        Some(rest) => {
            [0, SAMPLE + rest / 2, 2 * SAMPLE + rest].map(|start| [start, start + SAMPLE]).to_vec()
        }
    }
}

/// A digest under construction.
#[derive(Clone)]
pub struct Digest(Algorithm);

#[derive(Clone)]
enum Algorithm {
    Sha256(Sha256),
    Sha1(Sha1),
}

impl Digest {
    /// A SHA-256.
    pub fn sha256() -> Self {
        Self(Algorithm::Sha256(Sha256::new()))
    }

    /// The object id that git gives a file of `length` bytes (`git hash-object`).
    pub fn git_blob(length: u64) -> Self {
        let mut hash = Sha1::new();
        hash.update(format!("blob {length}\0"));
        Self(Algorithm::Sha1(hash))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        match &mut self.0 {
            Algorithm::Sha256(hash) => hash.update(bytes),
            Algorithm::Sha1(hash) => hash.update(bytes),
        }
    }

    /// Lowercase hexadecimal digits.
    pub fn hex(self) -> String {
        let digest = match self.0 {
            Algorithm::Sha256(hash) => hash.finalize().to_vec(),
            Algorithm::Sha1(hash) => hash.finalize().to_vec(),
        };
        digest.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string grows");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_known_digests() {
        let mut sha = Digest::sha256();
        sha.update("abc"); // FIPS 180-2, appendix B.1
        assert_eq!(sha.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut blob = Digest::git_blob(6);
        blob.update("hello\n"); // echo hello | git hash-object --stdin
        assert_eq!(blob.hex(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}

//! Digests: of what a model is made of, and of files that the hub lists.

use std::fmt::Write;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes of each sample.
const SAMPLE: u64 = 4096;

/// Where samples of so many bytes begin and end: first, middle and last 4 KiB, or all
/// when they are few.
pub fn samples(length: u64) -> Vec<[u64; 2]> {
    match length.checked_sub(3 * SAMPLE) {
        None => vec![[0, length]],
        Some(rest) => {
            [0, SAMPLE + rest / 2, 2 * SAMPLE + rest].map(|start| [start, start + SAMPLE]).to_vec()
        }
    }
}

/// A digest in the making.
#[derive(Clone)]
pub struct Digest(Hash);

#[derive(Clone)]
enum Hash {
    Sha256(Sha256),
    Sha1(Sha1),
}

impl Digest {
    /// A SHA-256.
    pub fn sha256() -> Self {
        Self(Hash::Sha256(Sha256::new()))
    }

    /// The name that git has for a file of this length: a SHA-1 over a header
    /// and the file (`git hash-object`).
    pub fn git_blob(length: u64) -> Self {
        let mut hash = Sha1::new();
        hash.update(format!("blob {length}\0"));
        Self(Hash::Sha1(hash))
    }

    /// Takes these bytes in.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        match &mut self.0 {
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Sha1(hash) => hash.update(bytes),
        }
    }

    /// Its hexadecimal digits, in lower case.
    pub fn hex(self) -> String {
        let digest = match self.0 {
            Hash::Sha256(hash) => hash.finalize().to_vec(),
            Hash::Sha1(hash) => hash.finalize().to_vec(),
        };
        digest.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes all");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let mut sha = Digest::sha256();
        sha.update("abc"); // FIPS 180-2, appendix B.1
        assert_eq!(sha.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut blob = Digest::git_blob(6);
        blob.update("hello\n"); // echo hello | git hash-object --stdin
        assert_eq!(blob.hex(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}

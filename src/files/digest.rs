//! Digests of files: SHA-256, and the object ids of git.

use sha1::Sha1;
use sha2::Sha256;
use sha2::digest::DynDigest;

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
pub struct Digest(Box<dyn DynDigest>);

/// The SHA-256 of some bytes in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut digest = Digest::sha256();
    digest.update(bytes);
    digest.hex()
}

impl Digest {
    pub fn sha256() -> Self {
        Self(Box::new(Sha256::default()))
    }

    /// The object id that git gives a file of `length` bytes (`git hash-object`).
    pub fn git_blob(length: u64) -> Self {
        let mut digest = Self(Box::new(Sha1::default()));
        digest.update(format!("blob {length}\0"));
        digest
    }

    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// Lowercase hexadecimal digits.
    pub fn hex(self) -> String {
        let digits = |byte: &u8| format!("{byte:02x}");
        self.0.finalize().iter().map(digits).collect::<Vec<_>>().concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_known_digests() {
        // FIPS 180-2, appendix B.1
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let mut blob = Digest::git_blob(6);
        blob.update("hello\n"); // echo hello | git hash-object --stdin
        assert_eq!(blob.hex(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}

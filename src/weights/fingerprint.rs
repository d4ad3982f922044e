//! What identifies a set of weights: not a path, not a date, not sizes.

use std::collections::HashMap;
use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use fs_err as fs;
use sha2::{Digest, Sha256};

use super::{Error, Recipe, Result, Source, Weight};

/// Version of the weights file and of what goes into a fingerprint.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of each sample.
const SAMPLE: u64 = 4096;

/// Twelve hexadecimal digits: the beginning of a SHA-256 over the config, the
/// format's version, and of every weight its name, dtype, shape, recipe and a
/// sample of its source bytes (first, middle and last 4 KiB).
///
/// Two fine-tunes of one model have equal headers and sizes, and differ here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Computes the fingerprint of weights under a config in its canonical text.
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(format!("gpt-oss-export {FORMAT_VERSION}\n{config}\n"));
        let mut files = HashMap::new();
        for weight in weights {
            let Weight { name, dtype, shape, recipe: Recipe::Bytes(source) } = weight;
            hash.update(format!("{name} {dtype} {shape:?} bytes\n"));
            let file = match files.entry(source.file.clone()) {
                std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    new.insert(fs::File::open(&*source.file)?)
                }
            };
            sample(file, name, source, &mut hash)?;
        }
        let digest = hash.finalize();
        Ok(Self(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()))
    }
}

/// Hashes the first, middle and last bytes of a range, or all when it is small.
fn sample(file: &mut fs::File, tensor: &str, source: &Source, hash: &mut Sha256) -> Result<()> {
    let (start, length) = (source.range.start, source.range.end - source.range.start);
    let places = match length.checked_sub(3 * SAMPLE) {
        None => vec![(start, length)],
        Some(rest) => {
            [0, SAMPLE + rest / 2, 2 * SAMPLE + rest].map(|at| (start + at, SAMPLE)).to_vec()
        }
    };
    for (at, length) in places {
        let mut bytes = vec![0; length as usize];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut bytes).map_err(|error| read_error(error, tensor, source))?;
        hash.update(&bytes);
    }
    Ok(())
}

/// An end of file inside a range that the header promised has a sentence of its own.
pub(super) fn read_error(error: std::io::Error, tensor: &str, source: &Source) -> Error {
    if error.kind() != std::io::ErrorKind::UnexpectedEof {
        return error.into();
    }
    let file = Path::to_owned(&source.file);
    Error::Shrunk { file, tensor: tensor.to_owned(), range: source.range.clone() }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

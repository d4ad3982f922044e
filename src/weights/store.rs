//! A weights file of our own: planned, compared with one that is there, written.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::pieces::{Files, Piece, each_piece};
use super::place::link;
use super::{Error, FORMAT_VERSION, Fingerprint, Result, Source, Weight, read_error};
use crate::container;
use crate::progress::Progress;

/// Bytes handled between two reports of progress.
const CHUNK: u64 = 64 << 20;
/// Bytes compared at once.
const COMPARED: usize = 1 << 20;

/// What a weights file says of itself. What the config `C` is, others know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata<C> {
    /// Version of the format.
    pub format: u32,
    /// Fingerprint of the weights in it.
    pub fingerprint: String,
    /// The model's config.
    pub config: C,
}

/// A weights file as it will be: a SafeTensors file whose data begins on a
/// page, with its tensors ordered so that large ones begin on a page too.
pub struct Store<'w> {
    beginning: Vec<u8>,
    /// Weights in the order of the file.
    ordered: Vec<&'w Weight>,
    ranges: Vec<Range<u64>>,
}

impl<'w> Store<'w> {
    /// Plans the file for these weights of a model with this config.
    pub fn plan(
        weights: impl IntoIterator<Item = &'w Weight>,
        fingerprint: &Fingerprint,
        config: impl Serialize,
    ) -> Self {
        let mut ordered: Vec<&Weight> = weights.into_iter().collect();
        // The format allows no gaps, so an offset is a sum of lengths. Lengths
        // divisible by the largest powers of two come first: then each tensor
        // is aligned to the power of two in its own length, up to a page.
        ordered.sort_by_key(|weight| std::cmp::Reverse(alignment(weight.bytes())));
        let metadata =
            Metadata { format: FORMAT_VERSION, fingerprint: fingerprint.to_string(), config };
        let metadata = serde_json::to_string(&metadata).expect("plain data");
        let tensors: Vec<_> =
            ordered.iter().map(|weight| (&*weight.name, weight.dtype, &weight.shape[..])).collect();
        let (beginning, ranges) = container::lay_out(metadata, &tensors);
        Self { beginning, ordered, ranges }
    }

    /// Where each weight will be, by name.
    pub fn ranges(&self) -> impl Iterator<Item = (&str, &Range<u64>)> {
        self.ordered.iter().map(|weight| &*weight.name).zip(&self.ranges)
    }

    /// Size of the whole file.
    pub fn bytes(&self) -> u64 {
        self.ranges.last().map_or(self.beginning.len() as u64, |range| range.end)
    }

    /// Whether `path` needs to be written. Where a file is there already, all
    /// of its bytes are compared with the source; any difference is an error.
    pub fn is_missing(&self, path: &Path, progress: &dyn Progress) -> Result<bool> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(true);
        }
        if let Some(obstacle) = link(path)? {
            return Err(Error::Linked { file: path.to_owned(), obstacle });
        }
        progress.begin("comparing weights", self.bytes());
        let equal = self.equals(path, progress);
        progress.end();
        if equal? { Ok(false) } else { Err(Error::Occupied(path.to_owned())) }
    }

    fn equals(&self, path: &Path, progress: &dyn Progress) -> Result<bool> {
        let status = fs::symlink_metadata(path)?;
        if !status.is_file() || status.len() != self.bytes() {
            return Ok(false);
        }
        let mut there = fs::File::open(path)?;
        if !same(&mut &self.beginning[..], &mut there, self.beginning.len() as u64)? {
            return Ok(false);
        }
        self.each_piece(progress, |weight, piece| {
            let equal = match piece {
                Piece::InFile(source, file) => {
                    let equal = same(file, &mut there, source.bytes());
                    progress.advance(source.bytes());
                    equal.map_err(|error| read_error(error, &weight.name, source))?
                }
                Piece::Made(bytes) => {
                    progress.advance(bytes.len() as u64);
                    same(&mut &*bytes, &mut there, bytes.len() as u64)?
                }
            };
            Ok(equal)
        })
    }

    /// Writes the whole file, which will be `path`.
    pub fn write(
        &self,
        mut file: &std::fs::File,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        file.write_all(&self.beginning).map_err(failed)?;
        progress.begin("writing weights", self.bytes());
        let written = self.each_piece(progress, |weight, piece| match piece {
            Piece::InFile(source, input) => {
                copy(weight, source, input, file, path, progress).map(|()| true)
            }
            Piece::Made(bytes) => {
                progress.advance(bytes.len() as u64);
                file.write_all(bytes).map(|()| true).map_err(failed)
            }
        });
        progress.end();
        written.map(|_| ())
    }

    /// Hands out all bytes of all weights in the order of the file, until the
    /// answer is no.
    fn each_piece(
        &self,
        progress: &dyn Progress,
        mut visit: impl FnMut(&Weight, Piece) -> Result<bool>,
    ) -> Result<bool> {
        let mut files = Files::default();
        for weight in &self.ordered {
            let go_on = each_piece(weight, &mut files, |piece| {
                let go_on = visit(weight, piece)?;
                if progress.is_cancelled() { Err(Error::Interrupted) } else { Ok(go_on) }
            });
            if !go_on? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Copies a weight's bytes from where they are.
fn copy(
    weight: &Weight,
    source: &Source,
    input: &mut fs::File,
    mut file: &std::fs::File,
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let mut left = source.bytes();
    while left > 0 && !progress.is_cancelled() {
        let chunk = left.min(CHUNK);
        // Inside the kernel where it can: no byte passes through here.
        let copied = io::copy(&mut Read::take(input.file(), chunk), &mut file);
        let copied = copied.map_err(|error| {
            let (tensor, from) = (weight.name.clone(), source.file.to_path_buf());
            Error::Copy { tensor, from, to: path.to_owned(), source: error }
        })?;
        if copied < chunk {
            let end = io::ErrorKind::UnexpectedEof.into();
            return Err(read_error(end, &weight.name, source));
        }
        progress.advance(chunk);
        left -= chunk;
    }
    Ok(())
}

/// The largest power of two that divides a length, up to a page.
fn alignment(length: u64) -> u64 {
    1 << (length | container::ALIGNMENT).trailing_zeros()
}

/// Whether the next `length` bytes of both readers are equal.
fn same(left: &mut impl Read, right: &mut impl Read, length: u64) -> io::Result<bool> {
    let (mut here, mut there) = (vec![0; COMPARED], vec![0; COMPARED]);
    let mut rest = length;
    while rest > 0 {
        let part = rest.min(COMPARED as u64) as usize;
        left.read_exact(&mut here[..part])?;
        right.read_exact(&mut there[..part])?;
        if here[..part] != there[..part] {
            return Ok(false);
        }
        rest -= part as u64;
    }
    Ok(true)
}

//! Bytes that are copied as they are.

use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;

use super::positioned::{copy_to, write_all_at};
use super::{Error, Result, Source, Weight, read_error, refuse_not_finite};
use crate::progress::Progress;
use crate::tensor::{DType, not_finite};

/// Bytes handled between two reports of progress.
const CHUNK: u64 = 64 << 20;
/// Bytes written at once: while written ones are sent to the disk, calls with a megabyte
/// or more take Linux several times longer than as many with a quarter.
pub const WRITTEN: usize = 1 << 18;

/// Copies a weight's bytes from where they are. Scales are looked at on the way: they are
/// few, and one that is no number makes a block of none.
pub fn copy(
    weight: &Weight,
    source: &Source,
    input: &mut fs::File,
    (file, mut place): (&std::fs::File, u64),
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    if weight.meaning() == DType::F8E8M0 {
        return copy_scales(weight, source, input, (file, place), path, progress);
    }
    let mut left = source.bytes();
    while left > 0 && !progress.is_cancelled() {
        let chunk = left.min(CHUNK);
        let copied = copy_to(input.file(), chunk, file, place).map_err(|error| {
            let (tensor, from) = (weight.name.clone(), source.file.to_path_buf());
            Error::Copy { tensor, from, to: path.to_owned(), source: error }
        })?;
        if copied < chunk {
            let end = io::ErrorKind::UnexpectedEof.into();
            return Err(read_error(end, &weight.name, source));
        }
        progress.advance(chunk);
        left -= chunk;
        place += chunk;
    }
    Ok(())
}

fn copy_scales(
    weight: &Weight,
    source: &Source,
    input: &mut fs::File,
    (file, mut place): (&std::fs::File, u64),
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let mut part = vec![0; WRITTEN];
    let (mut left, mut count) = (source.bytes(), 0);
    while left > 0 && !progress.is_cancelled() {
        let part = &mut part[..left.min(WRITTEN as u64) as usize];
        input.read_exact(part).map_err(|error| read_error(error, &weight.name, source))?;
        count += not_finite(DType::F8E8M0, part);
        write_all_at(file, part, place).map_err(failed)?;
        let written = part.len() as u64;
        progress.advance(written);
        (place, left) = (place + written, left - written);
    }
    refuse_not_finite(weight, count)
}

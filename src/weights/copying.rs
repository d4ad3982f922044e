//! Bytes that are copied as they are.

use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;

use super::{Error, Result, Source, Weight, read_error, refuse_not_finite};
use crate::files::positional::{copy_to, write_all_at};
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
    let read_failed = |error| read_error(error, &weight.name, source);
    let is_scales = weight.meaning() == DType::F8E8M0;
    let (mut left, mut damaged, mut part) = (source.bytes(), 0, Vec::new());
    while left > 0 && !progress.is_cancelled() {
        let chunk = left.min(if is_scales { WRITTEN as u64 } else { CHUNK });
        if is_scales {
            part.resize(chunk as usize, 0);
            input.read_exact(&mut part).map_err(read_failed)?;
            damaged += not_finite(DType::F8E8M0, &part);
            write_all_at(file, &part, place)
                .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        } else {
            let copied = copy_to(input.file(), chunk, file, place).map_err(|error| {
                let (tensor, from) = (weight.name.clone(), source.file.to_path_buf());
                Error::Copy { tensor, from, to: path.to_owned(), source: error }
            })?;
            if copied < chunk {
                return Err(read_failed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        progress.advance(chunk);
        (left, place) = (left - chunk, place + chunk);
    }
    refuse_not_finite(weight, damaged)
}

//! Copies of bytes as they are.

use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;

use super::reader::read_error;
use super::{ElementKind, Weight, ensure_finite};
use crate::error::{Result, err};
use crate::files::FileRange;
use crate::files::positional::{copy_to, write_all_at};
use crate::progress::Progress;
use crate::tensor::not_finite;

/// Bytes copied between two reports of progress.
const CHUNK: u64 = 64 << 20;
/// Bytes in one write: with a megabyte or more, Linux takes several times longer while
/// earlier writes are flushed.
pub const WRITE_SIZE: usize = 1 << 18;

/// The file that is written, and the offset in it.
pub struct Destination<'d> {
    pub file: &'d std::fs::File,
    pub path: &'d Path,
    pub offset: u64,
}

/// Copies a byte range of a weight. MXFP4 scales are checked on the way: they are few, and
/// a NaN scale spoils a block.
pub fn copy(
    weight: &Weight,
    source: &FileRange,
    input: &mut fs::File,
    mut to: Destination,
    progress: &dyn Progress,
) -> Result<()> {
    let read_failed = |error| read_error(error, &weight.name, source);
    let is_scales = weight.kind == ElementKind::Mxfp4Scales;
    let (mut left, mut non_finite, mut buffer) = (source.len(), 0, Vec::new());
    while left > 0 && !progress.is_cancelled() {
        let chunk = left.min(if is_scales { WRITE_SIZE as u64 } else { CHUNK });
        if is_scales {
            buffer.resize(chunk as usize, 0);
            input.read_exact(&mut buffer).map_err(read_failed)?;
            non_finite += not_finite(weight.encoded_dtype(), &buffer);
            write_all_at(to.file, &buffer, to.offset)
                .map_err(|error| err!("cannot write `{}`", to.path.display()).with_source(error))?;
        } else {
            let copied = copy_to(input.file(), chunk, to.file, to.offset).map_err(|error| {
                let (from, to) = (source.file.display(), to.path.display());
                err!("cannot copy tensor `{}` from `{from}` to `{to}`", weight.name)
                    .with_source(error)
            })?;
            if copied < chunk {
                return Err(read_failed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        progress.advance(chunk);
        (left, to.offset) = (left - chunk, to.offset + chunk);
    }
    ensure_finite(weight, non_finite)
}

//! Infinite and NaN elements of a weight.

use std::io::Read;

use super::Weight;
use super::reader::{Chunk, FileCache, for_each_chunk, read_error};
use crate::error::{Error, Result, ensure};
use crate::progress::Progress;
use crate::tensor::not_finite;

/// Bytes read at once, whole elements of every dtype.
const READ: u64 = 1 << 20;

/// Counts the infinite and NaN elements of a weight that is not converted: a conversion
/// counts its own.
pub fn count_non_finite(
    weight: &Weight,
    files: &mut FileCache,
    progress: &dyn Progress,
) -> Result<u64> {
    let (mut count, mut buffer) = (0, vec![0; READ as usize]);
    for_each_chunk(weight, files, |_, chunk| {
        let length = chunk.len();
        match chunk {
            Chunk::Bytes(bytes) => count += not_finite(weight.encoded_dtype(), bytes),
            Chunk::InFile(source, input) => {
                for start in (0..length).step_by(READ as usize) {
                    let part = &mut buffer[..READ.min(length - start) as usize];
                    let read = input.read_exact(part);
                    read.map_err(|error| read_error(error, &weight.name, source))?;
                    count += not_finite(weight.encoded_dtype(), part);
                }
            }
        }
        progress.advance(length);
        if progress.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    })?;
    Ok(count)
}

/// Refuses a weight with infinite or NaN elements.
pub fn ensure_finite(weight: &Weight, non_finite: u64) -> Result<()> {
    let elements = weight.shape.iter().product::<u64>();
    ensure!(
        non_finite == 0,
        "`{}`: {non_finite} of {elements} elements are infinite or NaN: the checkpoint is damaged, use another copy",
        weight.name
    );
    Ok(())
}

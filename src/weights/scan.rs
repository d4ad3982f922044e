//! Numbers that no weight may have, found by reading all of its bytes.

use std::io::Read;

use super::pieces::{Files, Piece, each_piece};
use super::{Error, Result, Weight, read_error};
use crate::progress::Progress;
use crate::tensor::not_finite;

/// Bytes that are read at once, of whole numbers.
const READ: u64 = 1 << 20;

/// How many of a weight's numbers are infinity or NaN. The weight is not one that is
/// converted: a conversion looks itself.
pub fn scan(weight: &Weight, files: &mut Files, progress: &dyn Progress) -> Result<u64> {
    let (mut count, mut buffer) = (0, vec![0; READ as usize]);
    each_piece(weight, files, |_, piece| {
        let bytes = piece.bytes();
        match piece {
            Piece::Made(bytes) => count += not_finite(weight.meaning(), bytes),
            Piece::InFile(source, input) => {
                for start in (0..bytes).step_by(READ as usize) {
                    let part = &mut buffer[..READ.min(bytes - start) as usize];
                    let read = input.read_exact(part);
                    read.map_err(|error| read_error(error, &weight.name, source))?;
                    count += not_finite(weight.meaning(), part);
                }
            }
        }
        progress.advance(bytes);
        if progress.is_cancelled() { Err(Error::Interrupted) } else { Ok(true) }
    })?;
    Ok(count)
}

/// Refuses a weight with such numbers.
pub fn refuse_not_finite(weight: &Weight, count: u64) -> Result<()> {
    let numbers = weight.shape.iter().product();
    match count {
        0 => Ok(()),
        _ => Err(Error::NotFinite { matrix: weight.name.clone(), count, numbers }),
    }
}

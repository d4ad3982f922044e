//! The rows of a matrix in chunks that are converted at once.

use std::ops::Range;

use crate::tensor::mxfp4;
use crate::weights::format::{MatrixFormat, MatrixPart};
use crate::weights::{Conversion, Matrix};

/// Some rows of one matrix that are converted at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChunk {
    pub matrix: u64,
    pub rows: Range<u64>,
}

/// Elements of a block, as a length.
pub const BLOCK: usize = mxfp4::BLOCK as usize;
/// Elements converted at once; they fit the processor's cache.
const CHUNK: u64 = 1 << 19;
/// The same for a transposed matrix: a chunk reads pieces of all its rows, which must be
/// long enough to be worth a call.
const TRANSPOSE_CHUNK: u64 = 1 << 23;

impl Conversion {
    /// Bytes of a row in each part; column-major, a row's share of them.
    pub(super) fn row_bytes(&self) -> Vec<u64> {
        let Matrix { out, inn, .. } = self.from;
        let row = |MatrixPart { dtype, shape, .. }: MatrixPart| {
            dtype.bytes(&shape).expect("the size of a tensor that exists") / out
        };
        self.to.parts(&[], [out, inn]).into_iter().map(row).collect()
    }

    /// All rows in order, in chunks of equal size.
    pub(super) fn row_chunks(&self) -> impl Iterator<Item = RowChunk> {
        let [count, out, inn] = self.from.dims();
        let rows = match (self.from.format, self.to) {
            // Every byte holds elements of two rows.
            (_, MatrixFormat::Mxfp4ColMajor) => out,
            (MatrixFormat::FloatTransposed(_), _) => (TRANSPOSE_CHUNK / inn).clamp(1, out),
            _ => (CHUNK / inn).clamp(1, out),
        };
        (0..count).flat_map(move |matrix| {
            let starts = (0..out).step_by(rows as usize);
            starts.map(move |first| RowChunk { matrix, rows: first..out.min(first + rows) })
        })
    }

    /// The bytes of a chunk in each part.
    pub(super) fn ranges(&self, chunk: &RowChunk) -> Vec<Range<u64>> {
        let first = chunk.matrix * self.from.out;
        let range = |row: u64| (first + chunk.rows.start) * row..(first + chunk.rows.end) * row;
        self.row_bytes().into_iter().map(range).collect()
    }
}

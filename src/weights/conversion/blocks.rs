//! The blocks of 32 elements along `in` that the rows of a matrix consist of.

use std::iter;
use std::ops::Range;

use crate::error::Result;
use crate::tensor::{self, BLOCK, BLOCK_LENGTH, BlockValues, DType, Rounding};
use crate::tensor::{ints, mxfp4, nvfp4};
use crate::weights::reader::{FileCache, read_range};
use crate::weights::{Conversion, Matrix, MatrixFormat, Weight};

/// Consecutive blocks of one row or several.
pub enum SourceBlocks<'b> {
    Mxfp4(mxfp4::Blocks<'b>),
    Floats(&'b [BlockValues]),
}

impl SourceBlocks<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Mxfp4(blocks) => blocks.scales.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// The codes of a block of MXFP4.
    pub fn codes(&self, at: usize) -> Option<&[u8; BLOCK_LENGTH / 2]> {
        match self {
            Self::Mxfp4(blocks) => Some(&blocks.codes[at]),
            Self::Floats(_) => None,
        }
    }

    /// A block in MXFP4: itself, or the nearest.
    pub fn in_mxfp4(&self, at: usize) -> (mxfp4::Block, Rounding) {
        match self {
            // Larger scales may give infinite values, which quantizing counts.
            Self::Mxfp4(blocks) if blocks.scales[at] <= mxfp4::LARGEST_SCALE => {
                let block = blocks.get(at);
                let squares = mxfp4::sum_of_squares(&block);
                (block, Rounding { values: BLOCK, squares, ..Rounding::default() })
            }
            Self::Mxfp4(blocks) => mxfp4::quantize(&mxfp4::dequantize(&blocks.get(at))),
            Self::Floats(values) => mxfp4::quantize(&values[at]),
        }
    }
}

/// Blocks read at once, rounded down to whole rows, at least one; they fit the processor's cache.
const SLAB: u64 = 1 << 11;
/// Columns transposed at once.
const TILE: usize = 16;

impl Conversion {
    /// The values of some rows of one matrix.
    pub(super) fn values(
        &self,
        rows: &Range<u64>,
        files: &mut FileCache,
    ) -> Result<Vec<BlockValues>> {
        let blocks = (rows.end - rows.start) * self.from.inn / BLOCK;
        let mut values = vec![[0.0; BLOCK_LENGTH]; blocks as usize];
        self.each_blocks(rows, files, |at, blocks| {
            let values = &mut values[at..at + blocks.len()];
            match blocks {
                SourceBlocks::Mxfp4(blocks) => {
                    for (at, values) in values.iter_mut().enumerate() {
                        *values = mxfp4::dequantize(&blocks.get(at));
                    }
                }
                SourceBlocks::Floats(blocks) => values.copy_from_slice(blocks),
            }
        })?;
        Ok(values)
    }

    /// Visits the blocks of some rows of one matrix, with the index of the first.
    pub(super) fn each_blocks(
        &self,
        rows: &Range<u64>,
        files: &mut FileCache,
        mut visit: impl FnMut(usize, SourceBlocks),
    ) -> Result<()> {
        let from = &self.from;
        if let MatrixFormat::FloatTransposed(dtype) = from.format {
            return self.each_transposed(dtype, rows, files, visit);
        }
        let of_row = from.inn / BLOCK;
        let [start, end] = [rows.start, rows.end].map(|row| row * of_row);
        let slab = SLAB.max(of_row) / of_row * of_row;
        for first in (start..end).step_by(slab as usize) {
            let last = end.min(first + slab);
            let read = |part: &Weight| {
                // Whole rows, which may have one scale.
                let [start, end] =
                    [first, last].map(|at| part.bytes() * at / (from.num_elements() / BLOCK));
                read_range(part, files, start..end)
            };
            let stored = from.parts.iter().map(read).collect::<Result<Vec<_>>>()?;
            let at = (first - start) as usize;
            match (from.format, &stored[..]) {
                (MatrixFormat::Mxfp4, [codes, scales]) => {
                    let codes = codes.as_chunks().0;
                    visit(at, SourceBlocks::Mxfp4(mxfp4::Blocks { scales, codes }));
                }
                (MatrixFormat::Nvfp4, [pairs, scales, _]) => {
                    let expert = rows.start / from.out;
                    let of_matrix = read_range(&from.parts[2], files, 4 * expert..4 * expert + 4)?;
                    let of_matrix = tensor::decode(DType::F32, &of_matrix)[0];
                    let blocks = pairs.as_chunks().0.iter().zip(scales.as_chunks().0);
                    let values =
                        blocks.map(|(codes, scales)| nvfp4::dequantize(codes, *scales, of_matrix));
                    visit(at, SourceBlocks::Floats(&values.collect::<Vec<_>>()));
                }
                (MatrixFormat::Int4x2, [digits, scales]) => {
                    let scales = tensor::decode(DType::F32, scales);
                    let codes = digits.as_chunks().0.iter();
                    let codes: Vec<_> = codes.zip(scales).collect();
                    let rows = codes.chunks_exact(2 * of_row as usize);
                    let values = rows.flat_map(|row| {
                        let (high, low) = row.split_at(of_row as usize);
                        high.iter().zip(low).map(|(high, low)| ints::join([*high, *low]))
                    });
                    visit(at, SourceBlocks::Floats(&values.collect::<Vec<_>>()));
                }
                (MatrixFormat::Int8x2, [high, low, scales]) => {
                    let scales = tensor::decode(DType::F32, scales).into_iter();
                    let scales = scales.flat_map(|scale| iter::repeat_n(scale, of_row as usize));
                    let digits = high.as_chunks().0.iter().zip(low.as_chunks().0);
                    let values = digits
                        .zip(scales)
                        .map(|((high, low), scale)| ints::from_digits(high, low, scale));
                    visit(at, SourceBlocks::Floats(&values.collect::<Vec<_>>()));
                }
                (MatrixFormat::Int(bits), [codes, scales]) => {
                    let codes = codes.chunks_exact(bits.block_bytes() as usize);
                    let values = codes.zip(scales.as_chunks().0).map(|(codes, scale)| {
                        ints::dequantize(bits, codes, f32::from_le_bytes(*scale))
                    });
                    visit(at, SourceBlocks::Floats(&values.collect::<Vec<_>>()));
                }
                (MatrixFormat::Float(dtype), [stored]) => {
                    visit(at, SourceBlocks::Floats(tensor::decode(dtype, stored).as_chunks().0));
                }
                _ => unreachable!("refused by Matrix::converted"),
            }
        }
        Ok(())
    }

    /// The same for a matrix whose columns are outputs: 32 of its rows hold a block of each
    /// column, and tiles transpose them.
    fn each_transposed(
        &self,
        dtype: DType,
        outputs: &Range<u64>,
        files: &mut FileCache,
        mut visit: impl FnMut(usize, SourceBlocks),
    ) -> Result<()> {
        let Matrix { out, inn, .. } = self.from;
        let (matrix, column) = (outputs.start / out, outputs.start % out);
        let columns = outputs.end - outputs.start;
        // Whole rows follow one another.
        let at_once = if columns == out { BLOCK } else { 1 };
        let groups = (inn / BLOCK) as usize;
        for group in 0..groups {
            let mut stored = Vec::with_capacity((BLOCK * columns * dtype.size()) as usize);
            for row in (0..BLOCK).step_by(at_once as usize) {
                let first = (matrix * inn + group as u64 * BLOCK + row) * out + column;
                let [start, end] = [first, first + at_once * columns].map(|at| at * dtype.size());
                stored.extend(read_range(self.from.whole(), files, start..end)?);
            }
            let values = tensor::decode(dtype, &stored);
            for first in (0..columns as usize).step_by(TILE) {
                let width = TILE.min(columns as usize - first);
                let mut tile = [[0f32; BLOCK_LENGTH]; TILE];
                for (row, values) in values.chunks_exact(columns as usize).enumerate() {
                    for (block, value) in tile.iter_mut().zip(&values[first..first + width]) {
                        block[row] = *value;
                    }
                }
                for (column, block) in (first..).zip(&tile[..width]) {
                    let block = SourceBlocks::Floats(std::slice::from_ref(block));
                    visit(column * groups + group, block);
                }
            }
        }
        Ok(())
    }
}

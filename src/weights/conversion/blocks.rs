//! The blocks of 32 elements along `in` that the rows of a matrix consist of.

use std::ops::Range;

use super::rows::{BLOCK, RowChunk};
use crate::error::Result;
use crate::tensor::{self, Rounding, ints, mxfp4};
use crate::weights::reader::{FileCache, read_range};
use crate::weights::{Conversion, MatrixFormat, Weight};

/// Consecutive blocks of one row or several, as stored.
pub enum SourceBlocks<'b> {
    Mxfp4(mxfp4::Blocks<'b>),
    Floats(&'b [[f32; BLOCK]]),
}

/// A block as stored.
pub enum SourceBlock<'b> {
    Mxfp4(mxfp4::Block),
    Floats(&'b [f32; BLOCK]),
}

impl SourceBlocks<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Mxfp4(blocks) => blocks.scales.len(),
            Self::Floats(numbers) => numbers.len(),
        }
    }

    /// Visits each block with its index, counted from `at`.
    pub fn each(&self, at: usize, mut visit: impl FnMut(usize, SourceBlock)) {
        match self {
            Self::Mxfp4(blocks) => {
                (at..)
                    .zip(blocks.iter())
                    .for_each(|(at, block)| visit(at, SourceBlock::Mxfp4(block)));
            }
            Self::Floats(numbers) => {
                (at..).zip(*numbers).for_each(|(at, block)| visit(at, SourceBlock::Floats(block)));
            }
        }
    }
}

impl SourceBlock<'_> {
    pub fn floats(&self) -> [f32; BLOCK] {
        match self {
            Self::Mxfp4(block) => mxfp4::dequantize(block),
            Self::Floats(numbers) => **numbers,
        }
    }

    /// The block in MXFP4: itself, or the nearest.
    pub fn in_mxfp4(&self) -> (mxfp4::Block, Rounding) {
        match self {
            // Larger scales may give infinite values, which quantizing counts.
            Self::Mxfp4(block) if block.scale <= mxfp4::LARGEST_SCALE => {
                (*block, Rounding { values: mxfp4::BLOCK, ..Rounding::default() })
            }
            _ => mxfp4::quantize(&self.floats()),
        }
    }
}

/// Blocks read at once; they fit the processor's cache.
const SLAB: usize = 1 << 11;
/// Columns transposed at once.
const TILE: usize = 16;

impl Conversion {
    /// Visits the blocks of a chunk's rows, with the index of the first.
    pub(super) fn each_blocks(
        &self,
        chunk: &RowChunk,
        files: &mut FileCache,
        mut visit: impl FnMut(usize, SourceBlocks),
    ) -> Result<()> {
        let (from, out, inn) = (&self.from, self.from.out, self.from.inn);
        let [start, end] =
            [chunk.rows.start, chunk.rows.end].map(|row| (chunk.matrix * out + row) * inn);
        let blocks = start / mxfp4::BLOCK..end / mxfp4::BLOCK;
        match from.format {
            MatrixFormat::Mxfp4 => slabs(blocks, |at, here| {
                let [codes, scales] = from.codes_and_scales();
                let codes = read_range(codes, files, bytes(&here, mxfp4::BLOCK / 2))?;
                let scales = read_range(scales, files, here)?;
                let codes = codes.as_chunks().0;
                visit(at, SourceBlocks::Mxfp4(mxfp4::Blocks { scales: &scales, codes }));
                Ok(())
            }),
            MatrixFormat::Int(bits) => slabs(blocks, |at, here| {
                let [codes, scales] = from.codes_and_scales();
                let codes = read_range(codes, files, bytes(&here, bits.block_bytes()))?;
                let scales = read_range(scales, files, bytes(&here, 4))?;
                let codes = codes.chunks_exact(bits.block_bytes() as usize);
                let numbers = codes.zip(scales.as_chunks().0).map(|(codes, scale)| {
                    ints::dequantize(bits, codes, f32::from_le_bytes(*scale))
                });
                visit(at, SourceBlocks::Floats(&numbers.collect::<Vec<_>>()));
                Ok(())
            }),
            MatrixFormat::Float(_) => slabs(blocks, |at, here| {
                let numbers = floats(from.whole(), files, bytes(&here, mxfp4::BLOCK))?;
                visit(at, SourceBlocks::Floats(numbers.as_chunks().0));
                Ok(())
            }),
            MatrixFormat::FloatTransposed(_) => {
                let columns =
                    Columns { weight: from.whole(), first: chunk.matrix * inn, all: out, inn };
                columns.each_blocks(chunk.rows.clone(), files, visit)
            }
            MatrixFormat::Mxfp4ColMajor => unreachable!("it is not converted"),
        }
    }
}

/// Reads blocks in slabs, each with the index of its first, counted from the start.
fn slabs(blocks: Range<u64>, mut read: impl FnMut(usize, Range<u64>) -> Result<()>) -> Result<()> {
    for first in blocks.clone().step_by(SLAB) {
        let here = first..blocks.end.min(first + SLAB as u64);
        read((first - blocks.start) as usize, here)?;
    }
    Ok(())
}

/// The byte range of items of `each` bytes.
fn bytes(items: &Range<u64>, each: u64) -> Range<u64> {
    items.start * each..items.end * each
}

/// Some elements of a weight as f32.
fn floats(weight: &Weight, files: &mut FileCache, range: Range<u64>) -> Result<Vec<f32>> {
    let stored = read_range(weight, files, bytes(&range, weight.dtype.size()))?;
    let mut numbers = vec![0.0; (range.end - range.start) as usize];
    tensor::decode(weight.dtype, &stored, &mut numbers).expect("a float dtype");
    Ok(numbers)
}

/// A matrix whose columns are outputs.
struct Columns<'w> {
    weight: &'w Weight,
    /// Index of its first row among those of all matrices.
    first: u64,
    /// Number of columns.
    all: u64,
    /// Number of rows.
    inn: u64,
}

impl Columns<'_> {
    /// 32 rows hold one block of each column; tiles transpose them.
    fn each_blocks(
        &self,
        columns: Range<u64>,
        files: &mut FileCache,
        mut visit: impl FnMut(usize, SourceBlocks),
    ) -> Result<()> {
        let (outputs, groups) =
            ((columns.end - columns.start) as usize, (self.inn / mxfp4::BLOCK) as usize);
        for group in 0..groups {
            let rows = self.rows(group as u64 * mxfp4::BLOCK, &columns, files)?;
            for first in (0..outputs).step_by(TILE) {
                let width = TILE.min(outputs - first);
                let mut tile = [[0f32; BLOCK]; TILE];
                for (row, stored) in rows.chunks_exact(outputs).enumerate() {
                    for (block, number) in tile.iter_mut().zip(&stored[first..first + width]) {
                        block[row] = *number;
                    }
                }
                for (column, block) in tile[..width].iter().enumerate() {
                    let at = (first + column) * groups + group;
                    visit(at, SourceBlocks::Floats(std::slice::from_ref(block)));
                }
            }
        }
        Ok(())
    }

    /// 32 rows of some columns.
    fn rows(&self, row: u64, columns: &Range<u64>, files: &mut FileCache) -> Result<Vec<f32>> {
        let place = |row: u64| (self.first + row) * self.all;
        if columns.end - columns.start == self.all {
            return floats(self.weight, files, place(row)..place(row + mxfp4::BLOCK));
        }
        let mut all = Vec::with_capacity(BLOCK * (columns.end - columns.start) as usize);
        for row in row..row + mxfp4::BLOCK {
            let start = place(row);
            all.extend(floats(self.weight, files, start + columns.start..start + columns.end)?);
        }
        Ok(all)
    }
}

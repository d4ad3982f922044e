//! The blocks of 32 numbers along `in` that rows of a stored matrix consist of.

use std::ops::Range;

use super::{BLOCK, Conversion, Unit};
use crate::tensor::{self, Rounding, ints, mxfp4};
use crate::weights::matrix::Matrix;
use crate::weights::pieces::{Files, read_range};
use crate::weights::{Result, Weight};

/// Blocks of a row or several, one after the other, as they were found.
pub enum Blocks<'b> {
    Mxfp4(mxfp4::Blocks<'b>),
    Numbers(&'b [[f32; BLOCK]]),
}

/// One of them.
pub enum Block<'b> {
    Mxfp4(mxfp4::Block),
    Numbers(&'b [f32; BLOCK]),
}

impl Blocks<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Mxfp4(blocks) => blocks.scales.len(),
            Self::Numbers(numbers) => numbers.len(),
        }
    }

    /// Each with its place, of which the first is `at`.
    pub fn each(&self, at: usize, mut visit: impl FnMut(usize, Block)) {
        match self {
            Self::Mxfp4(blocks) => {
                (at..).zip(blocks.iter()).for_each(|(at, block)| visit(at, Block::Mxfp4(block)));
            }
            Self::Numbers(numbers) => {
                (at..).zip(*numbers).for_each(|(at, block)| visit(at, Block::Numbers(block)));
            }
        }
    }
}

impl Block<'_> {
    /// As numbers.
    pub fn numbers(&self) -> [f32; BLOCK] {
        match self {
            Self::Mxfp4(block) => mxfp4::dequantise(block),
            Self::Numbers(numbers) => **numbers,
        }
    }

    /// In MXFP4: as it is, or the nearest.
    pub fn in_mxfp4(&self) -> (mxfp4::Block, Rounding) {
        match self {
            // Under larger scales numbers may be infinite, which is for others to see.
            Self::Mxfp4(block) if block.scale <= mxfp4::LARGEST_SCALE => {
                (*block, Rounding { numbers: mxfp4::BLOCK, ..Rounding::default() })
            }
            _ => mxfp4::quantise(&self.numbers()),
        }
    }
}

/// About as many blocks are read at once; they stay in the processor's cache.
const SLAB: usize = 1 << 11;
/// Columns that are turned into rows at once.
const TILE: usize = 16;

impl Conversion {
    /// Hands out the blocks of a unit's rows, with the place of the first among them.
    pub(super) fn each_blocks(
        &self,
        unit: &Unit,
        files: &mut Files,
        mut visit: impl FnMut(usize, Blocks),
    ) -> Result<()> {
        let [_, out, inn] = self.sizes;
        let [start, end] =
            [unit.rows.start, unit.rows.end].map(|row| (unit.matrix * out + row) * inn);
        let blocks = start / mxfp4::BLOCK..end / mxfp4::BLOCK;
        match &self.from {
            Matrix::Mxfp4 { blocks: codes, scales } => slabs(blocks, |at, here| {
                let codes = read_range(codes, files, bytes(&here, mxfp4::BLOCK / 2))?;
                let scales = read_range(scales, files, here)?;
                let codes = codes.as_chunks().0;
                visit(at, Blocks::Mxfp4(mxfp4::Blocks { scales: &scales, codes }));
                Ok(())
            }),
            Matrix::Ints { bits, codes, scales } => slabs(blocks, |at, here| {
                let codes = read_range(codes, files, bytes(&here, bits.block_bytes()))?;
                let scales = read_range(scales, files, bytes(&here, 4))?;
                let codes = codes.chunks_exact(bits.block_bytes() as usize);
                let numbers = codes.zip(scales.as_chunks().0).map(|(codes, scale)| {
                    ints::dequantise(*bits, codes, f32::from_le_bytes(*scale))
                });
                visit(at, Blocks::Numbers(&numbers.collect::<Vec<_>>()));
                Ok(())
            }),
            Matrix::OutputMajor(weight) => slabs(blocks, |at, here| {
                let numbers = numbers(weight, files, bytes(&here, mxfp4::BLOCK))?;
                visit(at, Blocks::Numbers(numbers.as_chunks().0));
                Ok(())
            }),
            Matrix::Mxfp4Columns { .. } => unreachable!("nothing is made of it"),
            Matrix::InputMajor(weight) => {
                let columns = Columns { weight, first: unit.matrix * inn, all: out, inn };
                columns.each_blocks(unit.rows.clone(), files, visit)
            }
        }
    }
}

/// Does something with some blocks after others; they are counted from the first.
fn slabs(blocks: Range<u64>, mut read: impl FnMut(usize, Range<u64>) -> Result<()>) -> Result<()> {
    for first in blocks.clone().step_by(SLAB) {
        let here = first..blocks.end.min(first + SLAB as u64);
        read((first - blocks.start) as usize, here)?;
    }
    Ok(())
}

/// Where things of so many bytes are.
fn bytes(things: &Range<u64>, each: u64) -> Range<u64> {
    things.start * each..things.end * each
}

/// Some numbers of a weight.
fn numbers(weight: &Weight, files: &mut Files, range: Range<u64>) -> Result<Vec<f32>> {
    let stored = read_range(weight, files, bytes(&range, weight.dtype.size()))?;
    let mut numbers = vec![0.0; (range.end - range.start) as usize];
    tensor::decode(weight.dtype, &stored, &mut numbers).expect("a dtype of numbers");
    Ok(numbers)
}

/// A matrix whose columns are outputs.
struct Columns<'w> {
    weight: &'w Weight,
    /// Its first row among those of all matrices.
    first: u64,
    /// How many columns it has.
    all: u64,
    /// How many rows.
    inn: u64,
}

impl Columns<'_> {
    /// 32 rows have one block of each column, which tiles turn round.
    fn each_blocks(
        &self,
        columns: Range<u64>,
        files: &mut Files,
        mut visit: impl FnMut(usize, Blocks),
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
                    visit(at, Blocks::Numbers(std::slice::from_ref(block)));
                }
            }
        }
        Ok(())
    }

    /// The numbers of 32 rows in some columns.
    fn rows(&self, row: u64, columns: &Range<u64>, files: &mut Files) -> Result<Vec<f32>> {
        let place = |row: u64| (self.first + row) * self.all;
        if columns.end - columns.start == self.all {
            return numbers(self.weight, files, place(row)..place(row + mxfp4::BLOCK));
        }
        let mut all = Vec::with_capacity(BLOCK * (columns.end - columns.start) as usize);
        for row in row..row + mxfp4::BLOCK {
            let start = place(row);
            all.extend(numbers(self.weight, files, start + columns.start..start + columns.end)?);
        }
        Ok(all)
    }
}

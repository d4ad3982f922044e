//! Matrices in another format: some rows at a time are read, converted in blocks of
//! 32 numbers along `in`, and handed out.

mod blocks;
mod workers;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use workers::convert;

use super::matrix::{Format, Matrix};
use super::pieces::Files;
use super::{Error, Recipe, Result, Weight};
use crate::tensor::ints::{self, Bits};
use crate::tensor::{self, DType, Rounding, mxfp4};
use blocks::Blocks;

/// Matrices on their way into another format.
#[derive(Debug, PartialEq, Eq)]
pub struct Conversion {
    /// The canonical name that those of what comes out begin with.
    path: String,
    role: Role,
    from: Matrix,
    to: Format,
    /// Whether numbers may come out different.
    accept_rounding: bool,
    /// How many matrices, `out` and `in`.
    sizes: [u64; 3],
}

/// What matrices are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Those of experts.
    Experts,
    /// Those of attention and of the logits.
    Dense,
}

impl fmt::Display for Role {
    /// As the command line has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Experts => "--experts",
            Self::Dense => "--dense",
        })
    }
}

/// Some rows of one of the matrices, which are converted at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    matrix: u64,
    rows: Range<u64>,
}

/// Numbers of a block, as a length.
const BLOCK: usize = mxfp4::BLOCK as usize;
/// About as many numbers are converted at once; they stay in the processor's cache.
const NUMBERS: u64 = 1 << 19;
/// The same where columns become rows: what is read of a stored row is then long
/// enough for reading it to be worth the call.
const TURNED: u64 = 1 << 23;

impl Matrix {
    /// The same matrices in a format, under a canonical name: as they are where they
    /// have it. Where numbers would come out different, that is an error unless it is
    /// accepted. What is converted already is made anew of its source, never of its
    /// outcome.
    pub fn converted(
        &self,
        path: &str,
        role: Role,
        to: Format,
        accept_rounding: bool,
    ) -> Result<Self> {
        let from = self.source().clone();
        if from.is_in(to) {
            return Ok(from);
        }
        let (path, sizes) = (path.to_owned(), from.sizes());
        if let Self::Mxfp4Columns { .. } = from {
            return Err(Error::ForCuda { matrix: path });
        }
        if !from.fills_blocks() {
            return Err(Error::Blocks { matrix: path, role, inn: sizes[2] });
        }
        let conversion = Conversion { path, role, from, to, accept_rounding, sizes };
        let conversion = Arc::new(conversion);
        let mut made = conversion.products().into_iter().enumerate().map(|(at, product)| {
            let (part, dtype, shape) = product;
            let recipe = Recipe::Converted(conversion.clone(), at);
            Weight { name: format!("{}.{part}", conversion.path), dtype, shape, recipe }
        });
        let mut next = || made.next().expect("as many as the format has");
        Ok(match to {
            Format::Mxfp4 => Self::Mxfp4 { blocks: next(), scales: next() },
            Format::Mxfp4Columns => Self::Mxfp4Columns { columns: next(), scales: next() },
            Format::Ints(bits) => Self::Ints { bits, codes: next(), scales: next() },
            Format::Numbers(_) => Self::OutputMajor(next()),
        })
    }
}

impl Conversion {
    /// What it is made of.
    pub fn from(&self) -> &Matrix {
        &self.from
    }

    /// What the matrices are for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The weights that come out: the last part of the name, dtype and shape.
    fn products(&self) -> Vec<(&'static str, DType, Vec<u64>)> {
        let [_, out, inn] = self.sizes;
        self.to.parts(self.from.above(), [out, inn])
    }

    /// Bytes of a row in each product; by columns, what is a row's share of them.
    fn row_bytes(&self) -> Vec<u64> {
        let [_, out, inn] = self.sizes;
        let row = |(_, dtype, shape): (_, DType, Vec<u64>)| {
            dtype.bytes(&shape).expect("the size of a tensor that exists") / out
        };
        self.to.parts(&[], [out, inn]).into_iter().map(row).collect()
    }

    /// All rows, in their order, in parts of equal size.
    fn units(&self) -> impl Iterator<Item = Unit> {
        let [count, out, inn] = self.sizes;
        let rows = match (&self.from, self.to) {
            // Every byte has numbers of two rows, and every input's follow each other.
            (_, Format::Mxfp4Columns) => out,
            (Matrix::InputMajor(_), _) => (TURNED / inn).clamp(1, out),
            _ => (NUMBERS / inn).clamp(1, out),
        };
        (0..count).flat_map(move |matrix| {
            (0..out)
                .step_by(rows as usize)
                .map(move |first| Unit { matrix, rows: first..out.min(first + rows) })
        })
    }

    /// Where in each product a unit's bytes are.
    fn places(&self, unit: &Unit) -> Vec<Range<u64>> {
        let first = unit.matrix * self.sizes[1];
        let place = |row: u64| (first + unit.rows.start) * row..(first + unit.rows.end) * row;
        self.row_bytes().into_iter().map(place).collect()
    }

    /// Whether its outcome is acceptable. Integers are for rounding; where another
    /// format does it, that may come as a surprise.
    fn check(&self, outcome: &Rounding) -> Result<()> {
        let (matrix, role, format) = (self.path.clone(), self.role, self.to);
        let Rounding { numbers, changed, not_finite, overflowed, .. } = *outcome;
        if not_finite > 0 {
            return Err(Error::NotFinite { matrix, count: not_finite, numbers });
        }
        if overflowed > 0 {
            return Err(Error::Overflow { matrix, role, format, count: overflowed, numbers });
        }
        let may_round = self.accept_rounding || matches!(format, Format::Ints(_));
        if changed > 0 && !may_round {
            let error = outcome.relative_error();
            return Err(Error::Rounds { matrix, role, format, changed, numbers, error });
        }
        Ok(())
    }

    /// Makes the bytes of a unit in each product, and says how far they are off.
    fn make(&self, unit: &Unit, files: &mut Files, made: &mut [Vec<u8>]) -> Result<Rounding> {
        let mut rounding = Rounding::default();
        match (self.to, made) {
            (Format::Mxfp4, [codes, scales]) => {
                self.each_blocks(unit, files, |at, blocks| {
                    rounding += into_mxfp4(at, blocks, codes, scales);
                })?;
            }
            (Format::Mxfp4Columns, [columns, scales]) => {
                columns.fill(0);
                let sides = [self.sizes[1], self.sizes[2]].map(|size| size as usize);
                self.each_blocks(unit, files, |at, blocks| {
                    rounding += into_columns(at, blocks, columns, scales, sides);
                })?;
            }
            (Format::Ints(bits), [codes, scales]) => {
                let mut made = Vec::new();
                self.each_blocks(unit, files, |at, blocks| {
                    made.resize(blocks.len(), 0.0);
                    let codes = part(codes, at, blocks.len(), bits.block_bytes() as usize);
                    rounding += into_integers(bits, blocks, codes, &mut made);
                    for (stored, scale) in scales[4 * at..].as_chunks_mut().0.iter_mut().zip(&made)
                    {
                        *stored = scale.to_le_bytes();
                    }
                })?;
            }
            (Format::Numbers(dtype), [stored]) => {
                self.each_blocks(unit, files, |at, blocks| {
                    let size = dtype.size() as usize * BLOCK;
                    let stored = part(stored, at, blocks.len(), size);
                    rounding += into_numbers(dtype, blocks, stored);
                })?;
            }
            _ => unreachable!("the products of a format"),
        }
        Ok(rounding)
    }
}

/// What some blocks from `at` on take of a product, with so many bytes each.
fn part(product: &mut [u8], at: usize, blocks: usize, bytes: usize) -> &mut [u8] {
    &mut product[at * bytes..][..blocks * bytes]
}

fn into_mxfp4(at: usize, blocks: Blocks, codes: &mut [u8], scales: &mut [u8]) -> Rounding {
    let codes = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
    let mut rounding = Rounding::default();
    blocks.each(at, |at, block| {
        let (block, off) = block.in_mxfp4();
        (codes[at], scales[at]) = (block.codes, block.scale);
        rounding += off;
    });
    rounding
}

/// `columns [in, out/2]` of a matrix `[out, in]`, two rows' codes in a byte.
fn into_columns(
    at: usize,
    blocks: Blocks,
    columns: &mut [u8],
    scales: &mut [u8],
    [out, inn]: [usize; 2],
) -> Rounding {
    let mut rounding = Rounding::default();
    blocks.each(at, |at, block| {
        let (block, off) = block.in_mxfp4();
        let (row, first) = (at / (inn / BLOCK), at % (inn / BLOCK) * BLOCK);
        for (column, code) in (first..).zip(block.each_code()) {
            columns[column * (out / 2) + row / 2] |= code << (4 * (row % 2));
        }
        scales[at] = block.scale;
        rounding += off;
    });
    rounding
}

fn into_numbers(dtype: DType, blocks: Blocks, stored: &mut [u8]) -> Rounding {
    match blocks {
        Blocks::Mxfp4(blocks) => mxfp4::encode(dtype, blocks, stored),
        Blocks::Numbers(numbers) => tensor::encode(dtype, numbers.as_flattened(), stored),
    }
}

fn into_integers(bits: Bits, blocks: Blocks, codes: &mut [u8], scales: &mut [f32]) -> Rounding {
    match blocks {
        Blocks::Mxfp4(blocks) => ints::from_mxfp4(bits, blocks, codes, scales),
        Blocks::Numbers(numbers) => {
            let mut rounding = Rounding::default();
            let codes = codes.chunks_mut(bits.block_bytes() as usize);
            for ((numbers, codes), scale) in numbers.iter().zip(codes).zip(scales) {
                let (made, off) = ints::quantise(bits, numbers, codes);
                *scale = made;
                rounding += off;
            }
            rounding
        }
    }
}

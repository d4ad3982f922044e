//! Experts in another format: read a slab at a time, converted in blocks of 32
//! numbers along `in`, one expert after the other.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::matrix::ExpertMatrix;
use super::pieces::{Files, read_range};
use super::{Error, Recipe, Result, Weight};
use crate::tensor::{self, DType, Rounding, mxfp4};

/// A format for the numbers of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Blocks and scales.
    Mxfp4,
    /// BF16, F16 or F32, `[experts, out, in]`.
    Numbers(DType),
}

impl Format {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self::Mxfp4,
        Self::Numbers(DType::BF16),
        Self::Numbers(DType::F16),
        Self::Numbers(DType::F32),
    ];
}

/// The matrices of all experts on their way into another format.
#[derive(Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Their canonical name.
    name: String,
    from: ExpertMatrix,
    to: Format,
    /// Whether numbers may come out different.
    accept_rounding: bool,
    /// Experts, `out` and `in`.
    sizes: [u64; 3],
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mxfp4 => f.write_str("mxfp4"),
            Self::Numbers(dtype) => write!(f, "{dtype}"),
        }
    }
}

/// Numbers of a block, as a length.
const BLOCK: usize = mxfp4::BLOCK as usize;
/// About as many numbers are decoded at once; they stay in the processor's cache.
const SLAB: usize = 1 << 17;
/// Columns that are turned into rows at once.
const TILE: usize = 16;

impl ExpertMatrix {
    /// The same matrices in a format: as they are where they have it. Where
    /// numbers would come out different, that is an error unless it is accepted.
    /// What is converted already is made anew of its source, never of its outcome.
    pub fn converted(&self, to: Format, accept_rounding: bool) -> Result<Self> {
        let from = self.source().clone();
        match (&from, to) {
            (Self::Mxfp4 { .. }, Format::Mxfp4) => return Ok(from),
            (Self::OutputMajor(weight), Format::Numbers(dtype)) if weight.dtype == dtype => {
                return Ok(from);
            }
            _ => {}
        }
        let sizes = from.sizes();
        let (path, _) = from.weights()[0].name.rsplit_once('.').expect("a canonical name");
        let name = path.to_owned();
        if !from.fills_blocks() {
            return Err(Error::Blocks { matrix: name, inn: sizes[2] });
        }
        let conversion = Arc::new(Conversion { name, from, to, accept_rounding, sizes });
        let product = |at| {
            let (part, dtype, shape) = conversion.products().swap_remove(at);
            let recipe = Recipe::Converted(conversion.clone(), at);
            Weight { name: format!("{}.{part}", conversion.name), dtype, shape, recipe }
        };
        Ok(match to {
            Format::Mxfp4 => Self::Mxfp4 { blocks: product(0), scales: product(1) },
            Format::Numbers(_) => Self::OutputMajor(product(0)),
        })
    }
}

impl Conversion {
    /// What it is made of.
    pub fn from(&self) -> &ExpertMatrix {
        &self.from
    }

    /// How many experts there are.
    pub fn experts(&self) -> u64 {
        self.sizes[0]
    }

    /// The weights that come out: the last part of the name, dtype and shape.
    fn products(&self) -> Vec<(&'static str, DType, Vec<u64>)> {
        let [experts, out, inn] = self.sizes;
        let groups = inn / mxfp4::BLOCK;
        match self.to {
            Format::Mxfp4 => vec![
                ("blocks", DType::U8, vec![experts, out, groups, mxfp4::BLOCK / 2]),
                ("scales", DType::U8, vec![experts, out, groups]),
            ],
            Format::Numbers(dtype) => vec![("weight", dtype, vec![experts, out, inn])],
        }
    }

    /// Bytes of one expert in each product.
    pub fn expert_bytes(&self) -> Vec<u64> {
        let bytes = |(_, dtype, shape): (_, DType, Vec<u64>)| {
            dtype.bytes(&shape[1..]).expect("the size of a tensor that exists")
        };
        self.products().into_iter().map(bytes).collect()
    }

    /// Whether its outcome is acceptable.
    pub fn check(&self, outcome: &Rounding) -> Result<()> {
        let (matrix, format) = (self.name.clone(), self.to);
        let Rounding { numbers, changed, not_finite, overflowed, .. } = *outcome;
        if not_finite > 0 {
            return Err(Error::NotFinite { matrix, count: not_finite, numbers });
        }
        if overflowed > 0 {
            return Err(Error::Overflow { matrix, format, count: overflowed, numbers });
        }
        if changed > 0 && !self.accept_rounding {
            let error = outcome.relative_error();
            return Err(Error::Rounds { matrix, format, changed, numbers, error });
        }
        Ok(())
    }

    /// Makes the bytes of one expert in each product, and says how far they are off.
    pub fn expert(&self, expert: u64, files: &mut Files, made: &mut [Vec<u8>]) -> Result<Rounding> {
        let mut rounding = Rounding::default();
        match (self.to, made) {
            (Format::Mxfp4, [codes, scales]) => {
                let codes = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
                self.each_block(expert, files, |at, numbers| {
                    let (block, off) = mxfp4::quantise(numbers);
                    (codes[at], scales[at]) = (block.codes, block.scale);
                    rounding += off;
                })?;
            }
            (Format::Numbers(dtype), [stored]) => {
                let size = dtype.size() as usize * BLOCK;
                self.each_block(expert, files, |at, numbers| {
                    rounding += tensor::encode(dtype, numbers, &mut stored[at * size..][..size]);
                })?;
            }
            _ => unreachable!("the products of a format"),
        }
        Ok(rounding)
    }

    /// Hands out the blocks of an expert's matrix `[out, in]`, each with its
    /// place among them.
    fn each_block(
        &self,
        expert: u64,
        files: &mut Files,
        visit: impl FnMut(usize, &[f32; BLOCK]),
    ) -> Result<()> {
        let [_, out, inn] = self.sizes.map(|size| size as usize);
        match &self.from {
            ExpertMatrix::Mxfp4 { blocks, scales } => {
                mxfp4_blocks([blocks, scales], expert, out * inn / BLOCK, files, visit)
            }
            ExpertMatrix::OutputMajor(weight) => {
                let rows = (SLAB / inn).max(1);
                rows_in_order(
                    &Slabs { weight, expert, rows: out, columns: inn },
                    rows,
                    files,
                    visit,
                )
            }
            ExpertMatrix::InputMajor(weight) => {
                columns_in_order(&Slabs { weight, expert, rows: inn, columns: out }, files, visit)
            }
        }
    }
}

/// An expert's numbers as they are stored.
struct Slabs<'w> {
    weight: &'w Weight,
    expert: u64,
    rows: usize,
    columns: usize,
}

impl Slabs<'_> {
    /// The numbers of some rows.
    fn read(&self, rows: Range<usize>, files: &mut Files, numbers: &mut Vec<f32>) -> Result<()> {
        let Self { weight, columns, .. } = self;
        let size = weight.dtype.size() * *columns as u64;
        let first = (self.expert * self.rows as u64 + rows.start as u64) * size;
        let bytes = read_range(weight, files, first..first + rows.len() as u64 * size)?;
        numbers.resize(rows.len() * columns, 0.0);
        tensor::decode(weight.dtype, &bytes, numbers).expect("a dtype of experts");
        Ok(())
    }
}

/// Blocks of a matrix whose rows are outputs.
fn rows_in_order(
    slabs: &Slabs,
    rows: usize,
    files: &mut Files,
    mut visit: impl FnMut(usize, &[f32; BLOCK]),
) -> Result<()> {
    let (mut numbers, mut at) = (Vec::new(), 0);
    for first in (0..slabs.rows).step_by(rows) {
        slabs.read(first..slabs.rows.min(first + rows), files, &mut numbers)?;
        for block in numbers.as_chunks().0 {
            visit(at, block);
            at += 1;
        }
    }
    Ok(())
}

/// Blocks of a matrix whose columns are outputs: 32 rows have one block of each,
/// which tiles turn round.
fn columns_in_order(
    slabs: &Slabs,
    files: &mut Files,
    mut visit: impl FnMut(usize, &[f32; BLOCK]),
) -> Result<()> {
    let (outputs, groups) = (slabs.columns, slabs.rows / BLOCK);
    let mut numbers = Vec::new();
    for group in 0..groups {
        slabs.read(group * BLOCK..(group + 1) * BLOCK, files, &mut numbers)?;
        for first in (0..outputs).step_by(TILE) {
            let width = TILE.min(outputs - first);
            let mut tile = [[0f32; BLOCK]; TILE];
            for (row, stored) in numbers.chunks_exact(outputs).enumerate() {
                for (block, number) in tile.iter_mut().zip(&stored[first..first + width]) {
                    block[row] = *number;
                }
            }
            for (column, block) in tile[..width].iter().enumerate() {
                visit((first + column) * groups + group, block);
            }
        }
    }
    Ok(())
}

/// Blocks that are in MXFP4.
fn mxfp4_blocks(
    [blocks, scales]: [&Weight; 2],
    expert: u64,
    count: usize,
    files: &mut Files,
    mut visit: impl FnMut(usize, &[f32; BLOCK]),
) -> Result<()> {
    let slab = SLAB / BLOCK;
    for first in (0..count).step_by(slab) {
        let here = first as u64..count.min(first + slab) as u64;
        let [start, end] = [here.start, here.end].map(|at| expert * count as u64 + at);
        let codes = read_range(blocks, files, start * 16..end * 16)?;
        let scales = read_range(scales, files, start..end)?;
        for ((at, codes), scale) in (first..).zip(codes.as_chunks().0).zip(scales) {
            visit(at, &mxfp4::dequantise(&mxfp4::Block { scale, codes: *codes }));
        }
    }
    Ok(())
}

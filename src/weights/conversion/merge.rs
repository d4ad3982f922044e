//! What adapters change in a matrix, folded into its values: `W + Σ s · B · A` in f64, and in its bias:
//! `b + Σ s · bias of B` (LoRA, arXiv 2106.09685; `s` as PEFT's `LoraLayer` computes it).

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::tensor::{BLOCK_LENGTH, DType, decode, mxfp4};
use crate::weights::reader::{FileCache, read_range};
use crate::weights::recipe::Merge;
use crate::weights::{Conversion, Factor, FactorAxes, LowRank, Matrix, MatrixFormat, Rows, Weight};

use super::blocks::SourceBlocks;

/// The changes of one matrix, or of those of all experts, in memory.
pub struct Addends {
    /// Rows in the place of the matrix's own.
    rows: HashMap<u64, Vec<f32>>,
    terms: Vec<Term>,
    biases: Vec<Bias>,
}

struct Term {
    rows: Rows,
    scale: f64,
    rank: usize,
    a: Strided,
    b: Strided,
}

struct Bias {
    rows: Rows,
    scale: f64,
    /// `[out]`, or `[experts, out]`.
    values: Vec<f32>,
}

/// A factor as it is stored, with the steps from an expert, a rank and a place along its width to
/// the next.
struct Strided {
    values: Vec<f32>,
    steps: [usize; 3],
}

impl Addends {
    /// Reads rows, factors and biases as they are stored.
    pub fn read(merge: Option<&Merge>, files: &mut FileCache) -> Result<Self> {
        let mut addends = Self { rows: HashMap::new(), terms: Vec::new(), biases: Vec::new() };
        match merge {
            None => {}
            Some(Merge::Matrix(changes)) => {
                for new in &changes.rows {
                    let values = values(&new.weight, files)?;
                    let rows = values.chunks(new.weight.shape[1] as usize).map(<[f32]>::to_vec);
                    addends.rows.extend(new.places.iter().copied().zip(rows));
                }
                let terms = changes.terms.iter().map(|term| Term::read(term, files));
                addends.terms = terms.collect::<Result<_>>()?;
            }
            Some(Merge::Bias(changes)) => {
                let biases = changes.terms.iter().filter_map(|term| {
                    let values = values(term.bias.as_ref()?, files);
                    Some(values.map(|values| Bias { rows: term.rows, scale: term.scale, values }))
                });
                addends.biases = biases.collect::<Result<_>>()?;
            }
        }
        Ok(addends)
    }

    /// The values of some rows of one matrix, `[rows, in]`, with what is added.
    pub fn fold(
        &self,
        conversion: &Conversion,
        rows: &Range<u64>,
        files: &mut FileCache,
    ) -> Result<Vec<f64>> {
        let from = &conversion.from;
        let mut values = stored(conversion, rows, files)?;
        let inn = from.inn as usize;
        let (expert, first) = (rows.start / from.out, rows.start % from.out);
        for (at, row) in (rows.start..).zip(values.chunks_mut(inn)) {
            if let Some(new) = self.rows.get(&at) {
                row.iter_mut().zip(new).for_each(|(value, new)| *value = (*new).into());
            }
        }
        for term in &self.terms {
            term.add(expert as usize, first, inn, &mut values);
        }
        for (at, row) in (rows.start as usize..).zip(values.chunks_mut(inn)) {
            self.biases.iter().for_each(|bias| bias.add(at, row));
        }
        Ok(values)
    }
}

impl Term {
    fn read(LowRank { rows, scale, a, b, .. }: &LowRank, files: &mut FileCache) -> Result<Self> {
        let shape = &a.weight.shape;
        let rank = match a.axes {
            FactorAxes::RankWidth => shape[shape.len() - 2],
            FactorAxes::WidthRank => shape[shape.len() - 1],
            FactorAxes::WidthRankExperts => shape[1],
        };
        let [a, b] = [Strided::read(a, files)?, Strided::read(b, files)?];
        Ok(Self { rows: *rows, scale: *scale, rank: rank as usize, a, b })
    }

    /// Adds to rows `[.., in]` of an expert's matrix, of which `first` is the first.
    fn add(&self, expert: usize, first: u64, inn: usize, values: &mut [f64]) {
        let a: Vec<Vec<f64>> = (0..self.rank)
            .map(|rank| (0..inn).map(|at| self.a.get(expert, rank, at)).collect())
            .collect();
        for (at, row) in (first as usize..).zip(values.chunks_mut(inn)) {
            let Some(at) = self.rows.index(at) else { continue };
            for (rank, a) in a.iter().enumerate() {
                let factor = self.scale * self.b.get(expert, rank, at);
                row.iter_mut().zip(a).for_each(|(value, a)| *value += factor * a);
            }
        }
    }
}

impl Bias {
    /// Adds to a whole bias, of the expert with this number if there are several.
    fn add(&self, expert: usize, bias: &mut [f64]) {
        let width = (0..bias.len()).filter(|at| self.rows.index(*at).is_some()).count();
        let own = &self.values[expert * width % self.values.len()..][..width];
        for (at, value) in bias.iter_mut().enumerate() {
            if let Some(at) = self.rows.index(at) {
                *value += self.scale * f64::from(own[at]);
            }
        }
    }
}

impl Strided {
    fn read(Factor { weight, axes }: &Factor, files: &mut FileCache) -> Result<Self> {
        let shape: Vec<usize> = weight.shape.iter().map(|size| *size as usize).collect();
        let [.., rows, columns] = shape[..] else { unreachable!("a factor has two axes") };
        // All experts share a factor without an axis for them.
        let expert = if shape.len() == 3 { rows * columns } else { 0 };
        let steps = match axes {
            FactorAxes::RankWidth => [expert, columns, 1],
            FactorAxes::WidthRank => [expert, 1, columns],
            FactorAxes::WidthRankExperts => [1, columns, rows * columns],
        };
        Ok(Self { values: values(weight, files)?, steps })
    }

    fn get(&self, expert: usize, rank: usize, at: usize) -> f64 {
        let [experts, ranks, width] = self.steps;
        self.values[expert * experts + rank * ranks + at * width].into()
    }
}

impl Rows {
    /// The place of a matrix's row among these.
    fn index(self, row: usize) -> Option<usize> {
        match self {
            Self::All => Some(row),
            Self::Even => row.is_multiple_of(2).then_some(row / 2),
            Self::Odd => (row % 2 == 1).then_some(row / 2),
        }
    }
}

fn values(weight: &Weight, files: &mut FileCache) -> Result<Vec<f32>> {
    Ok(decode(weight.dtype, &read_range(weight, files, 0..weight.bytes())?))
}

/// The values of some rows of one matrix as they are.
fn stored(conversion: &Conversion, rows: &Range<u64>, files: &mut FileCache) -> Result<Vec<f64>> {
    let Matrix { out, inn, format, .. } = conversion.from;
    let mut read = |dtype: DType, elements: Range<u64>| -> Result<Vec<f64>> {
        let bytes = elements.start * dtype.size()..elements.end * dtype.size();
        let stored = read_range(conversion.from.whole(), files, bytes)?;
        Ok(decode(dtype, &stored).into_iter().map(f64::from).collect())
    };
    // Rows of floats need not be blocks.
    match format {
        MatrixFormat::Float(dtype) => return read(dtype, rows.start * inn..rows.end * inn),
        MatrixFormat::FloatTransposed(dtype) => {
            let (expert, first) = (rows.start / out, rows.start % out);
            let count = rows.end - rows.start;
            let mut values = vec![0.0; (count * inn) as usize];
            for at in 0..inn {
                let start = (expert * inn + at) * out + first;
                let column = values.iter_mut().skip(at as usize).step_by(inn as usize);
                let stored = read(dtype, start..start + count)?;
                column.zip(stored).for_each(|(value, stored)| *value = stored);
            }
            return Ok(values);
        }
        _ => {}
    }
    let mut values = vec![0.0; ((rows.end - rows.start) * inn) as usize];
    conversion.each_blocks(rows, files, |at, blocks| {
        let (all, _) = values.as_chunks_mut::<BLOCK_LENGTH>();
        let places = &mut all[at..][..blocks.len()];
        match blocks {
            SourceBlocks::Mxfp4(blocks) => {
                let blocks = blocks.iter().map(|block| mxfp4::dequantize(&block).map(f64::from));
                places.iter_mut().zip(blocks).for_each(|(place, block)| *place = block);
            }
            SourceBlocks::Floats(blocks) => {
                let blocks = blocks.iter().map(|block| block.map(f64::from));
                places.iter_mut().zip(blocks).for_each(|(place, block)| *place = block);
            }
        }
    })?;
    Ok(values)
}

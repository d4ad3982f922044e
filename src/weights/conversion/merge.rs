//! What adapters change in a matrix, folded into its values: `W + Σ s · B · A` in f64, and in its bias:
//! `b + Σ s · bias of B` (LoRA, arXiv 2106.09685; `s` as PEFT's `LoraLayer` computes it).

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::tensor::{DType, decode};
use crate::weights::reader::{FileCache, read_range, read_values};
use crate::weights::recipe::Merge;
use crate::weights::stacked::FactorValues;
use crate::weights::{Conversion, LowRank, Matrix, MatrixFormat, Rows};

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
    a: FactorValues,
    b: FactorValues,
}

struct Bias {
    rows: Rows,
    scale: f64,
    /// `[out]`, or `[experts, out]`.
    values: Vec<f32>,
}

impl Addends {
    /// Reads rows, factors and biases as they are stored.
    pub fn read(merge: Option<&Merge>, files: &mut FileCache) -> Result<Self> {
        let mut addends = Self { rows: HashMap::new(), terms: Vec::new(), biases: Vec::new() };
        match merge {
            None => {}
            Some(Merge::Matrix(changes)) => {
                for new in &changes.rows {
                    let values = read_values(&new.weight, files)?;
                    let rows = values.chunks(new.weight.shape[1] as usize).map(<[f32]>::to_vec);
                    addends.rows.extend(new.places.iter().copied().zip(rows));
                }
                let terms = changes.terms.iter().map(|term| Term::read(term, files));
                addends.terms = terms.collect::<Result<_>>()?;
            }
            Some(Merge::Bias(changes)) => {
                let biases = changes.terms.iter().filter_map(|term| {
                    let values = read_values(term.bias.as_ref()?, files);
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
    fn read(term: &LowRank, files: &mut FileCache) -> Result<Self> {
        let [a, b] = [&term.a, &term.b].map(|it| FactorValues::read(it, files));
        let rank = term.a.sides()[0] as usize;
        Ok(Self { rows: term.rows, scale: term.scale, rank, a: a?, b: b? })
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
    let blocks = conversion.values(rows, files)?;
    Ok(blocks.as_flattened().iter().map(|value| f64::from(*value)).collect())
}

//! `x · Wᵀ + b` for matrices `W [out, in]` of any size: a few rows at a time are decoded, used
//! and dropped. What adapters add is computed beside it.

use std::ops::Range;

use ndarray::{Array2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

use super::matrix::{Real, StoredMatrix};
use super::model::{AdapterTerm, LinearMap, RowsOfTokens};
use crate::error::Result;

/// Values that a thread decodes at once: 4 MiB of them.
const DECODED: u64 = 1 << 20;

impl LinearMap {
    /// `[out, in]`
    pub fn sides(&self) -> [u64; 2] {
        [self.weights.iter().map(|it| it.sides()[0]).sum(), self.weights[0].sides()[1]]
    }

    /// `x [n, in]` to `[n, out]`.
    pub fn apply<F: Real>(&self, x: &Array2<F>) -> Result<Array2<F>> {
        let mut y = Array2::zeros((x.nrows(), self.sides()[0] as usize));
        let outputs = self.outputs(self.weights.iter().map(|it| it.sides()[0]));
        for (weight, outputs) in self.weights.iter().zip(outputs) {
            multiply(x, weight, y.slice_axis_mut(Axis(1), outputs))?;
        }
        for RowsOfTokens { tokens, rows } in &self.new_rows {
            let products = x.dot(&rows.values()?.t());
            for (token, product) in tokens.iter().zip(products.columns()) {
                y.column_mut(*token).assign(&product);
            }
        }
        for term in &self.terms {
            let mut y = y.slice_axis_mut(Axis(1), term.outputs);
            y += &term.apply(x)?;
        }
        let outputs = self.outputs(self.biases.iter().map(|it| it.columns));
        for (bias, outputs) in self.biases.iter().zip(outputs) {
            let mut y = y.slice_axis_mut(Axis(1), outputs);
            y += &bias.values::<F>()?;
        }
        Ok(y)
    }

    /// The rows of `W` for some tokens, `[n, in]`.
    pub fn rows<F: Real>(&self, tokens: &[usize]) -> Result<Array2<F>> {
        let weight = self.weights[0].open()?;
        let mut found = Array2::zeros((tokens.len(), self.sides()[1] as usize));
        for (mut row, token) in found.rows_mut().into_iter().zip(tokens) {
            let token = *token as u64;
            row.assign(&weight.rows(token..token + 1)?.row(0));
        }
        for RowsOfTokens { tokens: new, rows } in &self.new_rows {
            let rows = rows.values()?;
            for (mut row, token) in found.rows_mut().into_iter().zip(tokens) {
                if let Some(at) = new.iter().position(|it| it == token) {
                    row.assign(&rows.row(at));
                }
            }
        }
        for term in &self.terms {
            found += &term.rows(tokens)?;
        }
        Ok(found)
    }

    /// Which outputs each part has, if it has so many.
    fn outputs(&self, parts: impl ExactSizeIterator<Item = u64>) -> Vec<Slice> {
        let (count, mut start) = (parts.len() as isize, 0);
        let of_part = |(at, out)| {
            let outputs = start..start + out;
            start = outputs.end;
            if self.alternates { Slice::new(at, None, count) } else { slice(&outputs) }
        };
        (0..).zip(parts).map(of_part).collect()
    }
}

impl AdapterTerm {
    /// `x [n, in]` to `[n, out]`.
    fn apply<F: Real>(&self, x: &Array2<F>) -> Result<Array2<F>> {
        let [a, b] = self.factors()?;
        let mut y = if self.is_transposed { x.dot(&b).dot(&a) } else { x.dot(&a.t()).dot(&b.t()) };
        if let Some(bias) = &self.bias {
            y += &bias.values::<F>()?;
        }
        Ok(y * F::of(self.scale))
    }

    /// The rows of `s · W` for some tokens, `[n, in]`.
    fn rows<F: Real>(&self, tokens: &[usize]) -> Result<Array2<F>> {
        let [a, b] = self.factors()?;
        let rows = if self.is_transposed {
            a.select(Axis(1), tokens).t().dot(&b.t())
        } else {
            b.select(Axis(0), tokens).dot(&a)
        };
        Ok(rows * F::of(self.scale))
    }

    /// `A` and `B`
    fn factors<F: Real>(&self) -> Result<[Array2<F>; 2]> {
        let b: Array2<F> = self.b.values()?;
        Ok([self.a.values()?, b.slice_axis(Axis(1), self.columns).to_owned()])
    }
}

fn slice(range: &Range<u64>) -> Slice {
    (range.start as usize..range.end as usize).into()
}

/// Writes `x · Wᵀ` to zeros.
fn multiply<F: Real>(x: &Array2<F>, weight: &StoredMatrix, mut y: ArrayViewMut2<F>) -> Result<()> {
    let step = (DECODED / weight.columns).max(1);
    let starts = (0..weight.rows).step_by(step as usize);
    let ranges: Vec<Range<u64>> =
        starts.map(|start| start..weight.rows.min(start + step)).collect();
    // Few openings of files: they are slow on a network's file system.
    let weight_file = weight.open()?;
    let decoded = |rows: &Range<u64>| weight_file.rows(rows.clone());
    if weight.is_transposed {
        for rows in &ranges {
            y += &x.slice_axis(Axis(1), slice(rows)).dot(&decoded(rows)?);
        }
        return Ok(());
    }
    let product = |rows| Ok(x.dot(&decoded(rows)?.t()));
    // Experts run on the threads of rayon already, each with products of its own.
    let is_alone = rayon::current_thread_index().is_none();
    let products: Result<Vec<Array2<F>>> = if is_alone {
        ranges.par_iter().map(product).collect()
    } else {
        ranges.iter().map(product).collect()
    };
    for (rows, product) in ranges.iter().zip(products?) {
        y.slice_axis_mut(Axis(1), slice(rows)).assign(&product);
    }
    Ok(())
}

//! `x · Wᵀ + b` for matrices `W [out, in]` of any size: a few rows at a time are decoded, used
//! and dropped.

use std::ops::Range;

use ndarray::{Array2, ArrayViewMut2, Axis, Slice, concatenate};
use rayon::prelude::*;

use super::matrix::{Real, StoredMatrix};
use super::model::LinearMap;
use crate::error::Result;

/// Values that a thread decodes at once: 4 MiB of them.
const DECODED: u64 = 1 << 20;

impl LinearMap {
    /// `x [n, in]` to `[n, out]`.
    pub fn apply<F: Real>(&self, x: &Array2<F>) -> Result<Array2<F>> {
        let mut y = self.product(x)?;
        if !self.biases.is_empty() {
            y += &self.bias()?;
        }
        Ok(y)
    }

    /// The same without the bias.
    pub fn product<F: Real>(&self, x: &Array2<F>) -> Result<Array2<F>> {
        let out =
            |weight: &StoredMatrix| if weight.is_transposed { weight.columns } else { weight.rows };
        let mut y = Array2::zeros((x.nrows(), self.weights.iter().map(out).sum::<u64>() as usize));
        let mut start = 0;
        for weight in &self.weights {
            let columns = start..start + out(weight);
            multiply(x, weight, y.slice_axis_mut(Axis(1), slice(&columns)))?;
            start = columns.end;
        }
        Ok(y)
    }

    /// The bias `[1, out]`.
    pub fn bias<F: Real>(&self) -> Result<Array2<F>> {
        let parts =
            self.biases.iter().map(StoredMatrix::values).collect::<Result<Vec<Array2<F>>>>()?;
        let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
        Ok(concatenate(Axis(1), &parts).expect("a row each"))
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

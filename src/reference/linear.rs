//! `x · Wᵀ + b` for a matrix `W [out, in]` of any size: some of its rows are
//! decoded, used and dropped, and then the next.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::Result;
use super::real::Real;
use super::stored::Stored;
use crate::checkpoint::{ExpertWeights, Linear};
use crate::weights::{Matrix, MatrixFormat};

/// Numbers that a thread decodes at once: 4 MiB of them.
const NUMBERS: u64 = 1 << 20;

/// `x [n, in]` to `[n, out]`.
pub fn linear<F: Real>(x: &ArrayView2<F>, layer: &Linear) -> Result<Array2<F>> {
    let mut y = product(x, &layer.matrix)?;
    if let Some(bias) = &layer.bias {
        y += &Stored::default().vector(bias)?.insert_axis(Axis(0));
    }
    Ok(y)
}

/// `x [n, in]` times the transpose of a matrix, on all processors: `[n, out]`.
pub fn product<F: Real>(x: &ArrayView2<F>, matrix: &Matrix) -> Result<Array2<F>> {
    let Matrix { out, inn, .. } = *matrix;
    let parts: Vec<Range<u64>> = parts(out, inn).collect();
    let part =
        |rows: &Range<u64>| Ok(x.dot(&Stored::default().matrix_rows(matrix, 0, rows.clone())?.t()));
    let made = parts.par_iter().map(part).collect::<Result<Vec<Array2<F>>>>()?;
    let mut y = Array2::zeros((x.nrows(), out as usize));
    for (rows, made) in parts.into_iter().zip(made) {
        y.slice_axis_mut(Axis(1), places(rows).into()).assign(&made);
    }
    Ok(y)
}

/// `x [n, in]` through one expert's matrix, on this processor: `[n, out]`.
pub fn expert_linear<F: Real>(
    x: &ArrayView2<F>,
    weights: &ExpertWeights,
    expert: u64,
    stored: &mut Stored,
) -> Result<Array2<F>> {
    let Matrix { out, inn, .. } = weights.matrix;
    let mut y = Array2::zeros((x.nrows(), out as usize));
    if let MatrixFormat::FloatTransposed(_) = weights.matrix.format {
        for rows in parts(inn, out) {
            let matrix = stored.matrix_rows(&weights.matrix, expert, rows.clone())?;
            y += &x.slice_axis(Axis(1), places(rows).into()).dot(&matrix);
        }
    } else {
        for rows in parts(out, inn) {
            let matrix = stored.matrix_rows(&weights.matrix, expert, rows.clone())?;
            y.slice_axis_mut(Axis(1), places(rows).into()).assign(&x.dot(&matrix.t()));
        }
    }
    y += &stored.expert_vector(&weights.bias, expert)?.insert_axis(Axis(0));
    Ok(y)
}

/// So many rows, in parts of [`NUMBERS`] or so.
fn parts(rows: u64, columns: u64) -> impl Iterator<Item = Range<u64>> {
    let step = (NUMBERS / columns).max(1);
    (0..rows).step_by(step as usize).map(move |start| start..rows.min(start + step))
}

fn places(rows: Range<u64>) -> Range<usize> {
    rows.start as usize..rows.end as usize
}

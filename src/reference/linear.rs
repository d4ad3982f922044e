//! `x · Wᵀ + b` for a matrix `W [out, in]` of any size: a few rows at a time are decoded,
//! used and dropped. Of a converted matrix the values before the conversion are taken.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::real::Real;
use super::weight_reader::WeightReader;
use crate::checkpoint::{ExpertWeights, Linear};
use crate::error::Result;
use crate::weights::{Matrix, MatrixFormat};

/// Values that a thread decodes at once: 4 MiB of them.
const DECODED: u64 = 1 << 20;

/// `x [n, in]` to `[n, out]`.
pub fn linear<F: Real>(x: &ArrayView2<F>, layer: &Linear) -> Result<Array2<F>> {
    let mut y = product(x, &layer.matrix)?;
    if let Some(bias) = &layer.bias {
        y += &WeightReader::default().vector(bias)?.insert_axis(Axis(0));
    }
    Ok(y)
}

/// `x · Wᵀ` on all processors, `x [n, in]` to `[n, out]`.
pub fn product<F: Real>(x: &ArrayView2<F>, matrix: &Matrix) -> Result<Array2<F>> {
    let matrix = matrix.source();
    let row_ranges: Vec<Range<u64>> = row_ranges(matrix.out, matrix.inn).collect();
    let one = |rows: &Range<u64>| {
        Ok(x.dot(&WeightReader::default().matrix_rows(matrix, 0, rows.clone())?.t()))
    };
    let products = row_ranges.par_iter().map(one).collect::<Result<Vec<Array2<F>>>>()?;
    let mut y = Array2::zeros((x.nrows(), matrix.out as usize));
    for (rows, product) in row_ranges.into_iter().zip(products) {
        y.slice_axis_mut(Axis(1), as_usize(rows).into()).assign(&product);
    }
    Ok(y)
}

/// `x [n, in]` through one expert's matrix on this thread, to `[n, out]`.
pub fn expert_linear<F: Real>(
    x: &ArrayView2<F>,
    weights: &ExpertWeights,
    expert: u64,
    reader: &mut WeightReader,
) -> Result<Array2<F>> {
    let matrix = weights.matrix.source();
    let Matrix { out, inn, .. } = *matrix;
    let mut y = Array2::zeros((x.nrows(), out as usize));
    if let MatrixFormat::FloatTransposed(_) = matrix.format {
        for rows in row_ranges(inn, out) {
            let decoded = reader.matrix_rows(matrix, expert, rows.clone())?;
            y += &x.slice_axis(Axis(1), as_usize(rows).into()).dot(&decoded);
        }
    } else {
        for rows in row_ranges(out, inn) {
            let decoded = reader.matrix_rows(matrix, expert, rows.clone())?;
            y.slice_axis_mut(Axis(1), as_usize(rows).into()).assign(&x.dot(&decoded.t()));
        }
    }
    y += &reader.expert_vector(&weights.bias, expert)?.insert_axis(Axis(0));
    Ok(y)
}

/// All rows, in ranges of about [`DECODED`] values.
fn row_ranges(rows: u64, columns: u64) -> impl Iterator<Item = Range<u64>> {
    let step = (DECODED / columns).max(1);
    (0..rows).step_by(step as usize).map(move |start| start..rows.min(start + step))
}

fn as_usize(rows: Range<u64>) -> Range<usize> {
    rows.start as usize..rows.end as usize
}

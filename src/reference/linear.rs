//! `x · Wᵀ + b` for a matrix `W [out, in]` of any size: a few rows at a time are decoded,
//! used and dropped. Of a converted matrix the values before the conversion are taken.

use std::ops::Range;

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::weight_reader::{Real, matrix_rows, row};
use crate::error::Result;
use crate::weights::{Matrix, MatrixFormat, Weight};

/// Values that a thread decodes at once: 4 MiB of them.
const DECODED: u64 = 1 << 20;

/// `x [n, in]` to `[n, out]` on all processors, by the matrix of an expert or the only one (0).
pub fn linear<F: Real>(
    x: &Array2<F>,
    matrix: &Matrix,
    bias: Option<&Weight>,
    expert: u64,
) -> Result<Array2<F>> {
    let matrix = matrix.source();
    let Matrix { out, inn, format, .. } = *matrix;
    let is_transposed = matches!(format, MatrixFormat::FloatTransposed(_));
    let (height, width) = if is_transposed { (inn, out) } else { (out, inn) };
    let step = (DECODED / width).max(1);
    let starts = (0..height).step_by(step as usize);
    let ranges: Vec<Range<u64>> = starts.map(|start| start..height.min(start + step)).collect();
    let columns = |rows: &Range<u64>| (rows.start as usize..rows.end as usize).into();
    let mut y = Array2::zeros((x.nrows(), out as usize));
    if is_transposed {
        for rows in ranges {
            let x = x.slice_axis(Axis(1), columns(&rows));
            y += &x.dot(&matrix_rows(matrix, expert, rows)?);
        }
    } else {
        let product =
            |rows: &Range<u64>| Ok(x.dot(&matrix_rows(matrix, expert, rows.clone())?.t()));
        let products = ranges.par_iter().map(product).collect::<Result<Vec<Array2<F>>>>()?;
        for (rows, product) in ranges.iter().zip(products) {
            y.slice_axis_mut(Axis(1), columns(rows)).assign(&product);
        }
    }
    if let Some(bias) = bias {
        y += &row(bias, expert)?.insert_axis(Axis(0));
    }
    Ok(y)
}

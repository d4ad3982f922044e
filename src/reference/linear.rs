//! `x · Wᵀ + b` for a matrix `W [out, in]` of any size: a few rows at a time are decoded,
//! used and dropped. Of a converted matrix the values before the conversion are taken.

use std::ops::Range;

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::weight_reader::{Real, elements, row};
use crate::error::Result;
use crate::weights::{FileCache, Matrix, MatrixFormat, Weight};

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
    // In the stored order.
    let is_transposed = matches!(format, MatrixFormat::FloatTransposed(_));
    let (height, width) = if is_transposed { (inn, out) } else { (out, inn) };
    let step = (DECODED / width).max(1);
    let starts = (0..height).step_by(step as usize);
    let ranges: Vec<Range<u64>> = starts.map(|start| start..height.min(start + step)).collect();
    let columns = |rows: &Range<u64>| (rows.start as usize..rows.end as usize).into();
    let decoded = |files: &mut FileCache, rows: &Range<u64>| -> Result<Array2<F>> {
        let [start, end] = [rows.start, rows.end].map(|row| (expert * height + row) * width);
        let shape = ((rows.end - rows.start) as usize, width as usize);
        Ok(elements(matrix, start..end, files)?.into_shape_with_order(shape).expect("whole rows"))
    };
    let mut files = FileCache::default();
    let mut y = Array2::zeros((x.nrows(), out as usize));
    if is_transposed {
        for rows in &ranges {
            y += &x.slice_axis(Axis(1), columns(rows)).dot(&decoded(&mut files, rows)?);
        }
    } else if matrix.experts.is_some() {
        // Experts run in parallel already.
        for rows in &ranges {
            let product = x.dot(&decoded(&mut files, rows)?.t());
            y.slice_axis_mut(Axis(1), columns(rows)).assign(&product);
        }
    } else {
        // Few openings of files: they are slow on a network's file system.
        let product = |files: &mut FileCache, rows| Ok(x.dot(&decoded(files, rows)?.t()));
        let products = ranges.par_iter().map_init(FileCache::default, product);
        let products = products.collect::<Result<Vec<Array2<F>>>>()?;
        for (rows, product) in ranges.iter().zip(products) {
            y.slice_axis_mut(Axis(1), columns(rows)).assign(&product);
        }
    }
    if let Some(bias) = bias {
        y += &row(bias, expert, &mut files)?.insert_axis(Axis(0));
    }
    Ok(y)
}

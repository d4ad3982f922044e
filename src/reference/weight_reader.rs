//! Decodes weights, some rows at a time.

use std::iter::Sum;
use std::ops::Range;

use ndarray::{Array1, Array2, NdFloat};

use crate::error::{Result, bail};
use crate::tensor::{self, ints, mxfp4};
use crate::weights::{FileCache, Matrix, MatrixFormat, Weight, read_range};

/// The type of a pass: `f64`, which models are compared with, or `f32`, whose distance from it
/// is the noise of float32 itself.
pub trait Real: NdFloat + Sum {
    /// The nearest value.
    fn of(value: f64) -> Self {
        Self::from(value).expect("floats are rounded")
    }
}

impl Real for f64 {}
impl Real for f32 {}

/// A row of a weight `[.., length]` of floats. A vector is its own row 0.
pub fn row<F: Real>(weight: &Weight, index: u64) -> Result<Array1<F>> {
    let length = weight.shape[weight.shape.len() - 1];
    floats(weight, index * length..(index + 1) * length).map(reals)
}

/// Rows of an expert's matrix, or of the only one, in its stored order: `[out, in]`, or
/// `[in, out]` if it is transposed.
pub fn matrix_rows<F: Real>(matrix: &Matrix, expert: u64, rows: Range<u64>) -> Result<Array2<F>> {
    let Matrix { out, inn, format, .. } = *matrix;
    let (height, width) =
        if let MatrixFormat::FloatTransposed(_) = format { (inn, out) } else { (out, inn) };
    let [start, end] = [rows.start, rows.end].map(|row| (expert * height + row) * width);
    let blocks = |weight, bytes: u64| {
        let [start, end] = [start, end].map(|element| element / mxfp4::BLOCK * bytes);
        read_range(weight, &mut FileCache::default(), start..end)
    };
    let values: Vec<f32> = match format {
        MatrixFormat::Float(_) | MatrixFormat::FloatTransposed(_) => {
            floats(matrix.whole(), start..end)?
        }
        MatrixFormat::Mxfp4 => {
            let [codes, scales] = matrix.codes_and_scales();
            let (codes, scales) = (blocks(codes, mxfp4::BLOCK / 2)?, blocks(scales, 1)?);
            let blocks = codes.as_chunks().0.iter().zip(scales);
            let blocks = blocks.map(|(codes, scale)| mxfp4::Block { codes: *codes, scale });
            blocks.flat_map(|block| mxfp4::dequantize(&block)).collect()
        }
        MatrixFormat::Int(bits) => {
            let [codes, scales] = matrix.codes_and_scales();
            let (codes, scales) = (blocks(codes, bits.block_bytes())?, blocks(scales, 4)?);
            let scales = scales.as_chunks().0.iter().map(|scale| f32::from_le_bytes(*scale));
            let blocks = codes.chunks_exact(bits.block_bytes() as usize).zip(scales);
            blocks.flat_map(|(codes, scale)| ints::dequantize(bits, codes, scale)).collect()
        }
        MatrixFormat::Mxfp4ColMajor => {
            bail!("the experts are laid out for CUDA: use the checkpoint itself")
        }
    };
    let shape = ((rows.end - rows.start) as usize, width as usize);
    Ok(reals(values).into_shape_with_order(shape).expect("whole rows"))
}

/// A range of elements of a weight of floats.
fn floats(weight: &Weight, range: Range<u64>) -> Result<Vec<f32>> {
    let size = weight.dtype.size();
    let bytes = range.start * size..range.end * size;
    let bytes = read_range(weight, &mut FileCache::default(), bytes)?;
    Ok(tensor::decode(weight.dtype, &bytes))
}

fn reals<F: Real>(values: Vec<f32>) -> Array1<F> {
    values.into_iter().map(|value| F::of(f64::from(value))).collect()
}

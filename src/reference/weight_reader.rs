//! Decodes weights, some rows at a time, through open files of the caller.

use std::iter::Sum;
use std::ops::Range;

use ndarray::{Array1, NdFloat};

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
pub fn row<F: Real>(weight: &Weight, index: u64, files: &mut FileCache) -> Result<Array1<F>> {
    let length = weight.shape[weight.shape.len() - 1];
    floats(weight, index * length..(index + 1) * length, files).map(reals)
}

/// A range of a matrix's elements in their stored order, counted over all experts. It begins
/// and ends with a block, if the format has blocks.
pub fn elements<F: Real>(
    matrix: &Matrix,
    range: Range<u64>,
    files: &mut FileCache,
) -> Result<Array1<F>> {
    let mut blocks = |weight, bytes: u64| {
        let [start, end] = [range.start, range.end].map(|at| at / mxfp4::BLOCK * bytes);
        read_range(weight, files, start..end)
    };
    let values = match matrix.format {
        MatrixFormat::Float(_) | MatrixFormat::FloatTransposed(_) => {
            floats(matrix.whole(), range, files)?
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
    Ok(reals(values))
}

fn floats(weight: &Weight, range: Range<u64>, files: &mut FileCache) -> Result<Vec<f32>> {
    let size = weight.dtype.size();
    let bytes = read_range(weight, files, range.start * size..range.end * size)?;
    Ok(tensor::decode(weight.dtype, &bytes))
}

fn reals<F: Real>(values: Vec<f32>) -> Array1<F> {
    values.into_iter().map(|value| F::of(f64::from(value))).collect()
}

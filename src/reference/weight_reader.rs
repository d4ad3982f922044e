//! Decodes weights, some rows at a time.

use std::ops::Range;

use ndarray::{Array1, Array2};

use super::real::Real;
use crate::error::{Result, bail};
use crate::tensor::ints::{self, Bits};
use crate::tensor::{self, mxfp4};
use crate::weights::{FileCache, Matrix, MatrixFormat, Weight, read_range};

/// Reads weights through open files of its own: one reader for each thread.
#[derive(Default)]
pub struct WeightReader {
    files: FileCache,
}

impl WeightReader {
    /// A weight `[length]`.
    pub fn vector<F: Real>(&mut self, weight: &Weight) -> Result<Array1<F>> {
        self.floats(weight, 0..weight.shape[0]).map(vector)
    }

    /// An expert's vector, from a weight `[experts, length]`.
    pub fn expert_vector<F: Real>(&mut self, weight: &Weight, expert: u64) -> Result<Array1<F>> {
        let length = weight.shape[1];
        self.floats(weight, expert * length..(expert + 1) * length).map(vector)
    }

    /// Rows of a weight `[rows, columns]` of floats.
    pub fn rows<F: Real>(&mut self, weight: &Weight, rows: Range<u64>) -> Result<Array2<F>> {
        let columns = weight.shape[1];
        let values = self.floats(weight, rows.start * columns..rows.end * columns)?;
        Ok(matrix(columns, values))
    }

    /// Rows of an expert's matrix, or of the only one, in its stored order: `[out, in]`, or
    /// `[in, out]` if it is transposed.
    pub fn matrix_rows<F: Real>(
        &mut self,
        stored: &Matrix,
        expert: u64,
        rows: Range<u64>,
    ) -> Result<Array2<F>> {
        let Matrix { out, inn, .. } = *stored;
        let (height, width) = match stored.format {
            MatrixFormat::FloatTransposed(_) => (inn, out),
            _ => (out, inn),
        };
        let [start, end] = [rows.start, rows.end].map(|row| (expert * height + row) * width);
        let blocks = start / mxfp4::BLOCK..end / mxfp4::BLOCK;
        let values = match stored.format {
            MatrixFormat::Float(_) | MatrixFormat::FloatTransposed(_) => {
                self.floats(stored.whole(), start..end)?
            }
            MatrixFormat::Mxfp4 => self.mxfp4(stored.codes_and_scales(), blocks)?,
            MatrixFormat::Int(bits) => self.ints(bits, stored.codes_and_scales(), blocks)?,
            MatrixFormat::Mxfp4ColMajor => {
                bail!("the experts are laid out for CUDA: use the checkpoint itself")
            }
        };
        Ok(matrix(width, values))
    }

    /// A range of elements of a weight of floats.
    fn floats(&mut self, weight: &Weight, range: Range<u64>) -> Result<Vec<f32>> {
        let size = weight.dtype.size();
        let bytes = read_range(weight, &mut self.files, range.start * size..range.end * size)?;
        Ok(tensor::decode(weight.dtype, &bytes))
    }

    /// A range of blocks of integers.
    fn ints(
        &mut self,
        bits: Bits,
        [codes, scales]: [&Weight; 2],
        range: Range<u64>,
    ) -> Result<Vec<f32>> {
        let bytes = bits.block_bytes();
        let codes = read_range(codes, &mut self.files, range.start * bytes..range.end * bytes)?;
        let scales = read_range(scales, &mut self.files, range.start * 4..range.end * 4)?;
        let codes = codes.chunks_exact(bytes as usize).zip(scales.as_chunks().0);
        let values = codes
            .flat_map(|(codes, scale)| ints::dequantize(bits, codes, f32::from_le_bytes(*scale)));
        Ok(values.collect())
    }

    /// A range of MXFP4 blocks.
    fn mxfp4(&mut self, [blocks, scales]: [&Weight; 2], range: Range<u64>) -> Result<Vec<f32>> {
        const BYTES: u64 = mxfp4::BLOCK / 2;
        let codes = read_range(blocks, &mut self.files, range.start * BYTES..range.end * BYTES)?;
        let scales = read_range(scales, &mut self.files, range)?;
        let mut values = Vec::with_capacity(codes.len() * 2);
        for (codes, scale) in codes.as_chunks().0.iter().zip(scales) {
            values.extend(mxfp4::dequantize(&mxfp4::Block { codes: *codes, scale }));
        }
        Ok(values)
    }
}

fn vector<F: Real>(values: Vec<f32>) -> Array1<F> {
    values.into_iter().map(|value| F::of(f64::from(value))).collect()
}

fn matrix<F: Real>(columns: u64, values: Vec<f32>) -> Array2<F> {
    let shape = (values.len() / columns as usize, columns as usize);
    let values: Vec<F> = values.into_iter().map(|value| F::of(f64::from(value))).collect();
    Array2::from_shape_vec(shape, values).expect("whole rows")
}

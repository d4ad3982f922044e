//! Weights as numbers, decoded some rows at a time.

use std::ops::Range;

use ndarray::{Array1, Array2};

use super::real::{Real, all_of};
use super::{Error, Result};
use crate::tensor::ints::{self, Bits};
use crate::tensor::{self, mxfp4};
use crate::weights::{FileCache, Matrix, MatrixFormat, Weight, read_range};

/// Reads weights, with its own open files: one for each thread.
#[derive(Default)]
pub struct Stored {
    files: FileCache,
}

impl Stored {
    /// All numbers of a vector.
    pub fn vector<F: Real>(&mut self, weight: &Weight) -> Result<Array1<F>> {
        self.numbers(weight, 0..weight.shape[0]).map(vector)
    }

    /// An expert's vector, of a tensor `[experts, length]`.
    pub fn expert_vector<F: Real>(&mut self, weight: &Weight, expert: u64) -> Result<Array1<F>> {
        let length = weight.shape[1];
        self.numbers(weight, expert * length..(expert + 1) * length).map(vector)
    }

    /// Some rows of a matrix.
    pub fn rows<F: Real>(&mut self, weight: &Weight, rows: Range<u64>) -> Result<Array2<F>> {
        let columns = weight.shape[1];
        let numbers = self.numbers(weight, rows.start * columns..rows.end * columns)?;
        Ok(matrix(columns, numbers))
    }

    /// Some rows of one of the matrices as they are stored: `[out, in]`, or
    /// `[in, out]` where it is input-major.
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
        let numbers = match stored.format {
            MatrixFormat::Float(_) | MatrixFormat::FloatTransposed(_) => {
                self.numbers(stored.whole(), start..end)?
            }
            MatrixFormat::Mxfp4 => self.blocks(stored.codes_and_scales(), blocks)?,
            MatrixFormat::Int(bits) => self.integers(bits, stored.codes_and_scales(), blocks)?,
            MatrixFormat::Mxfp4ColMajor => return Err(Error::ForCuda),
        };
        Ok(matrix(width, numbers))
    }

    /// Some numbers of a weight.
    fn numbers(&mut self, weight: &Weight, range: Range<u64>) -> Result<Vec<f32>> {
        let size = weight.dtype.size();
        let bytes = read_range(weight, &mut self.files, range.start * size..range.end * size)?;
        let mut numbers = vec![0.0; (range.end - range.start) as usize];
        tensor::decode(weight.dtype, &bytes, &mut numbers).expect("a dtype of numbers");
        Ok(numbers)
    }

    /// The numbers of some blocks of integers.
    fn integers(
        &mut self,
        bits: Bits,
        [codes, scales]: [&Weight; 2],
        range: Range<u64>,
    ) -> Result<Vec<f32>> {
        let bytes = bits.block_bytes();
        let codes = read_range(codes, &mut self.files, range.start * bytes..range.end * bytes)?;
        let scales = read_range(scales, &mut self.files, range.start * 4..range.end * 4)?;
        let codes = codes.chunks_exact(bytes as usize).zip(scales.as_chunks().0);
        let numbers = codes
            .flat_map(|(codes, scale)| ints::dequantise(bits, codes, f32::from_le_bytes(*scale)));
        Ok(numbers.collect())
    }

    /// The numbers of some MXFP4 blocks.
    fn blocks(&mut self, [blocks, scales]: [&Weight; 2], range: Range<u64>) -> Result<Vec<f32>> {
        const BYTES: u64 = mxfp4::BLOCK / 2;
        let codes = read_range(blocks, &mut self.files, range.start * BYTES..range.end * BYTES)?;
        let scales = read_range(scales, &mut self.files, range)?;
        let mut numbers = Vec::with_capacity(codes.len() * 2);
        for (codes, scale) in codes.as_chunks().0.iter().zip(scales) {
            numbers.extend(mxfp4::dequantise(&mxfp4::Block { codes: *codes, scale }));
        }
        Ok(numbers)
    }
}

fn vector<F: Real>(numbers: Vec<f32>) -> Array1<F> {
    Array1::from_vec(all_of(numbers))
}

fn matrix<F: Real>(columns: u64, numbers: Vec<f32>) -> Array2<F> {
    let shape = (numbers.len() / columns as usize, columns as usize);
    Array2::from_shape_vec(shape, all_of(numbers)).expect("whole rows")
}

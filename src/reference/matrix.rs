//! Tables of numbers in files, decoded some rows at a time.

use std::array;
use std::iter::Sum;
use std::ops::Range;

use fs_err as fs;
use ndarray::{Array2, NdFloat};

use crate::error::{Kind, Result, err};
use crate::files::FileRange;
use crate::files::positional::read_exact_at;
use crate::tensor::{DType, decode};

/// The type of a pass: `f64`, which models are compared with, or `f32`, whose distance from it
/// is the noise of float32 itself.
pub trait Real: NdFloat + Sum {
    /// The nearest value.
    fn of(value: f64) -> Self;
    /// Decoded numbers, exactly.
    fn of_all(values: Vec<f32>) -> Vec<Self>;
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }

    fn of_all(values: Vec<f32>) -> Vec<Self> {
        values.into_iter().map(Self::from).collect()
    }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }

    fn of_all(values: Vec<f32>) -> Vec<Self> {
        values
    }
}

/// A matrix in the stored order, or a vector as its only row.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMatrix {
    pub rows: u64,
    /// A multiple of [`BLOCK`] if the encoding has blocks.
    pub columns: u64,
    /// Whether it is a matrix `[out, in]` stored as `[in, out]`.
    pub is_transposed: bool,
    pub numbers: EncodedNumbers,
}

/// Numbers, and how they are encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedNumbers {
    pub encoding: Encoding,
    /// Floats; or codes, then scales, then the scale of all.
    pub parts: Vec<FileRange>,
}

/// What the bytes of numbers mean. Two codes of 4 bits are a byte, the first one low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Float(DType),
    /// Codes in E2M1, and for each block a scale in E8M0.
    Mxfp4,
    /// Codes in E2M1, for each half of a block a scale in E4M3, and one scale in f32 for all.
    Nvfp4,
    /// Codes from which 8 is subtracted, and for each block a scale in f32.
    Int4,
    /// The same with 128.
    Int8,
    /// Each row twice in `Int4`, one after the other: a number is the sum of its two.
    Int4x2,
    /// High digits in i8, low digits in i8, and for each row of so many columns a scale in f32:
    /// `scale · (256·high + low)`.
    Int8x2 {
        columns: u64,
    },
}

/// Numbers that share a scale.
pub const BLOCK: u64 = 32;
const HALF_BLOCK: u64 = BLOCK / 2;

/// The values of E2M1 (Open Compute Project, Microscaling Formats 1.0) by their codes.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

impl Encoding {
    /// Bytes of each part of so many numbers, which are whole blocks.
    pub fn bytes(self, numbers: u64) -> Vec<u64> {
        match self {
            Self::Float(dtype) => vec![numbers * dtype.size()],
            Self::Mxfp4 => vec![numbers / 2, numbers / BLOCK],
            Self::Nvfp4 => vec![numbers / 2, numbers / HALF_BLOCK],
            Self::Int4 => vec![numbers / 2, numbers / BLOCK * 4],
            Self::Int8 => vec![numbers, numbers / BLOCK * 4],
            Self::Int4x2 => vec![numbers, numbers / BLOCK * 8],
            Self::Int8x2 { columns } => vec![numbers, numbers, numbers / columns * 4],
        }
    }

    /// Where each part has some of the numbers, which are whole blocks.
    fn ranges(self, numbers: Range<u64>) -> Vec<Range<u64>> {
        let [start, end] = [numbers.start, numbers.end].map(|at| self.bytes(at));
        let mut ranges: Vec<_> =
            start.into_iter().zip(end).map(|(start, end)| start..end).collect();
        if self == Self::Nvfp4 {
            ranges.push(0..DType::F32.size());
        }
        ranges
    }

    /// The numbers of whole rows with so many columns.
    fn decode(self, parts: &[Vec<u8>], columns: u64) -> Vec<f32> {
        let low_first = |byte: u8| [byte & 15, byte >> 4];
        let e2m1 = |byte: u8| low_first(byte).map(|code| E2M1[usize::from(code)]);
        match self {
            Self::Float(dtype) => decode(dtype, &parts[0]),
            Self::Mxfp4 => scaled(&parts[0], BLOCK, parts[1].iter().map(e8m0), e2m1),
            Self::Nvfp4 => {
                let of_all = decode(DType::F32, &parts[2])[0];
                let scales = decode(DType::F8E4M3, &parts[1]).into_iter();
                scaled(&parts[0], HALF_BLOCK, scales.map(|scale| scale * of_all), e2m1)
            }
            Self::Int4 => scaled(&parts[0], BLOCK, decode(DType::F32, &parts[1]), |byte| {
                low_first(byte).map(|code| f32::from(code) - 8.0)
            }),
            Self::Int4x2 => {
                let terms = Self::Int4.decode(parts, 2 * columns);
                let rows = terms.chunks(2 * columns as usize);
                let sums = rows.flat_map(|row| {
                    let (first, second) = row.split_at(columns as usize);
                    first.iter().zip(second).map(|(first, second)| first + second)
                });
                sums.collect()
            }
            Self::Int8x2 { columns } => {
                let scales = decode(DType::F32, &parts[2]);
                let digits = parts[0].iter().zip(&parts[1]).enumerate();
                let digit = |byte: &u8| f32::from(*byte as i8);
                let value = |(at, (high, low))| {
                    scales[at / columns as usize] * (256.0 * digit(high) + digit(low))
                };
                digits.map(value).collect()
            }
            Self::Int8 => scaled(&parts[0], BLOCK, decode(DType::F32, &parts[1]), |byte| {
                [f32::from(byte) - 128.0]
            }),
        }
    }
}

/// The numbers of each byte of codes, times the scale that so many of them share.
fn scaled<const N: usize>(
    codes: &[u8],
    block: u64,
    scales: impl IntoIterator<Item = f32>,
    numbers: impl Fn(u8) -> [f32; N],
) -> Vec<f32> {
    let table: [[f32; N]; 256] = array::from_fn(|byte| numbers(byte as u8));
    let mut values = vec![0.0; codes.len() * N];
    let blocks = codes.chunks(block as usize / N).zip(values.chunks_mut(block as usize));
    for ((codes, values), scale) in blocks.zip(scales) {
        for (code, values) in codes.iter().zip(values.as_chunks_mut::<N>().0) {
            for (value, number) in values.iter_mut().zip(&table[usize::from(*code)]) {
                *value = number * scale;
            }
        }
    }
    values
}

/// A power of two, or NaN: the scale is the exponent of an f32, in which 0 is that of numbers
/// without a leading one.
fn e8m0(scale: &u8) -> f32 {
    match *scale {
        0 => f32::from_bits(1 << 22),
        u8::MAX => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

impl EncodedNumbers {
    /// All of them as a matrix, or the part of one of some experts.
    pub fn matrix(
        &self,
        expert: Option<[u64; 2]>,
        [rows, columns]: [u64; 2],
        is_transposed: bool,
    ) -> StoredMatrix {
        let [expert, all] = expert.unwrap_or([0, 1]);
        let part = |whole: &FileRange| {
            let (file, length) = (whole.file.clone(), whole.len() / all);
            let start = whole.range.start + expert * length;
            FileRange { file, range: start..start + length }
        };
        let parts = self.parts.iter().map(part).collect();
        let numbers = Self { encoding: self.encoding, parts };
        StoredMatrix { rows, columns, is_transposed, numbers }
    }

    /// Some of them, which are whole blocks.
    pub fn slice(&self, numbers: Range<u64>) -> Self {
        let part = |(whole, Range { start, end }): (&FileRange, Range<u64>)| {
            let (file, first) = (whole.file.clone(), whole.range.start);
            FileRange { file, range: first + start..first + end }
        };
        let parts = self.parts.iter().zip(self.encoding.ranges(numbers)).map(part).collect();
        Self { encoding: self.encoding, parts }
    }
}

impl StoredMatrix {
    /// `[out, in]`
    pub fn sides(&self) -> [u64; 2] {
        let Self { rows, columns, is_transposed, .. } = *self;
        if is_transposed { [columns, rows] } else { [rows, columns] }
    }

    /// Bytes in files.
    pub fn bytes(&self) -> u64 {
        self.numbers.parts.iter().map(FileRange::len).sum()
    }

    /// Opens its files, which threads may share.
    pub fn open(&self) -> Result<OpenMatrix<'_>> {
        let open = |part: &FileRange| fs::File::open(&*part.file);
        let files = self.numbers.parts.iter().map(open).collect::<Result<_, _>>()?;
        Ok(OpenMatrix { matrix: self, files })
    }

    /// All of it.
    pub fn values<F: Real>(&self) -> Result<Array2<F>> {
        self.open()?.rows(0..self.rows)
    }
}

pub struct OpenMatrix<'m> {
    matrix: &'m StoredMatrix,
    files: Vec<fs::File>,
}

impl OpenMatrix<'_> {
    /// Some rows `[rows, columns]`.
    pub fn rows<F: Real>(&self, rows: Range<u64>) -> Result<Array2<F>> {
        let StoredMatrix { columns, numbers: EncodedNumbers { encoding, parts }, .. } = self.matrix;
        let ranges = encoding.ranges(rows.start * columns..rows.end * columns);
        let read = self
            .files
            .iter()
            .zip(parts)
            .zip(ranges)
            .map(|((file, part), range)| read(file, part, range));
        let parts = read.collect::<Result<Vec<_>>>()?;
        let values = F::of_all(encoding.decode(&parts, *columns));
        let shape = ((rows.end - rows.start) as usize, *columns as usize);
        Ok(Array2::from_shape_vec(shape, values).expect("whole rows"))
    }
}

/// Some bytes of a part, whose file may have changed.
fn read(file: &fs::File, part: &FileRange, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let start = part.range.start + range.start;
    read_exact_at(file.file(), &mut bytes, start).map_err(|error| {
        let path = part.file.display();
        err!("cannot read {} bytes at {start} of `{path}`", bytes.len())
            .with_kind(Kind::Io)
            .with_source(error)
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the fields of a number: a sign, an exponent with its bias, and a mantissa.
    fn float(sign: u32, exponent: i32, mantissa: f64) -> f64 {
        let magnitude = if exponent == 0 { mantissa } else { 1.0 + mantissa };
        (if sign == 1 { -1.0 } else { 1.0 }) * magnitude * 2f64.powi(exponent.max(1))
    }

    #[test]
    fn decodes_every_code_and_scale_of_mxfp4() {
        // Twice all 16, two a byte.
        let codes = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe].repeat(2);
        for scale in 0..=252u8 {
            let found = Encoding::Mxfp4.decode(&[codes.clone(), vec![scale]], 32);
            for (at, found) in (0..16u32).cycle().zip(&found) {
                let e2m1 = float(at >> 3, (at >> 1 & 3) as i32, f64::from(at & 1) / 2.0) / 2.0;
                let expected = e2m1 * 2f64.powi(i32::from(scale) - 127);
                assert_eq!(f64::from(*found).to_bits(), expected.to_bits(), "{at} by {scale}");
            }
            assert_eq!(found.len(), 32);
        }
        let nan = Encoding::Mxfp4.decode(&[codes, vec![255]], 32);
        assert!(nan.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn decodes_scales_of_nvfp4() {
        // Twice 16 codes of 1, under E4M3's 1.5 · 2^3 and its smallest number 2^-9.
        let found = Encoding::Nvfp4
            .decode(&[vec![0x22; 16], vec![0b0101_0100, 1], 0.25f32.to_le_bytes().to_vec()], 32);
        assert_eq!(found, [[3.0; 16], [2f32.powi(-11); 16]].concat());
    }

    #[test]
    fn decodes_integers_and_fp8() {
        let codes: Vec<u8> = (0..32).collect();
        let scale = 0.75f32.to_le_bytes().to_vec();
        let int8 = Encoding::Int8.decode(&[codes.clone(), scale.clone()], 32);
        assert!((0..32).all(|at| int8[at] == (at as f32 - 128.0) * 0.75));
        let int4 = Encoding::Int4.decode(&[codes[..16].to_vec(), scale], 32);
        let expected = |at: usize| (((at / 2) >> (4 * (at % 2)) & 15) as f32 - 8.0) * 0.75;
        assert!((0..32).all(|at| int4[at] == expected(at)), "{int4:?}");
        // A row of 64 numbers, first all of one term, then all of the other.
        let terms = [codes.clone(), codes.iter().rev().copied().collect()].concat();
        let scales = [1f32, 2.0, 4.0, 8.0].map(f32::to_le_bytes).concat();
        let sums = Encoding::Int4x2.decode(&[terms.clone(), scales], 64);
        let code = |at: usize| f32::from(terms[at / 2] >> (4 * (at % 2)) & 15) - 8.0;
        for (at, found) in sums.into_iter().enumerate() {
            let [first, second] = if at < 32 { [1.0, 4.0] } else { [2.0, 8.0] };
            assert_eq!(found, code(at) * first + code(64 + at) * second, "{at}");
        }
        let bytes: Vec<u8> = (0..=255).filter(|byte| byte & 0x7c != 0x7c).collect();
        let fp8 = Encoding::Float(DType::F8E5M2).decode(std::slice::from_ref(&bytes), 32);
        for (byte, found) in bytes.into_iter().map(u32::from).zip(fp8) {
            let mantissa = f64::from(byte & 3) / 4.0;
            let expected = float(byte >> 7, (byte >> 2 & 31) as i32, mantissa) / 32768.0;
            assert_eq!(f64::from(found).to_bits(), expected.to_bits(), "{byte}");
        }
    }
}

//! Tables of numbers in files, decoded some rows at a time.

use std::fs::File;
use std::io::ErrorKind;
use std::iter::Sum;
use std::ops::Range;

use fs_err as fs;
use ndarray::{Array2, NdFloat};

use crate::error::{Result, err};
use crate::files::FileRange;
use crate::files::positional::read_exact_at;
use crate::tensor::{DType, decode};

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
    /// Floats, or codes.
    pub elements: FileRange,
    /// The scales of blocks.
    pub scales: Option<FileRange>,
}

/// What the bytes of numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Float(DType),
    /// Codes in E2M1, two a byte, and for each block a scale in E8M0.
    Mxfp4,
    /// Unsigned codes, of 4 bits two a byte, and for each block a scale in f32.
    Integers {
        bits: u64,
    },
}

/// Numbers that share a scale.
pub const BLOCK: u64 = 32;

/// The values of E2M1 (Open Compute Project, Microscaling Formats 1.0) by their codes.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

impl Encoding {
    /// Bytes of the elements and of the scales of so many numbers, which are whole blocks.
    pub fn bytes(self, numbers: u64) -> [u64; 2] {
        match self {
            Self::Float(dtype) => [numbers * dtype.size(), 0],
            Self::Mxfp4 => [numbers / 2, numbers / BLOCK],
            Self::Integers { bits } => [numbers * bits / 8, numbers / BLOCK * 4],
        }
    }

    fn decode(self, elements: &[u8], scales: &[u8]) -> Vec<f32> {
        let low_first = |byte: &u8| [byte & 15, byte >> 4];
        match self {
            Self::Float(dtype) => decode(dtype, elements),
            Self::Mxfp4 => {
                let mut values = Vec::with_capacity(elements.len() * 2);
                for (codes, scale) in elements.chunks(BLOCK as usize / 2).zip(scales) {
                    let scale = e8m0(*scale);
                    let codes = codes.iter().flat_map(low_first);
                    values.extend(codes.map(|code| E2M1[usize::from(code)] * scale));
                }
                values
            }
            Self::Integers { bits } => {
                let codes: Vec<u8> = match bits {
                    4 => elements.iter().flat_map(low_first).collect(),
                    _ => elements.to_vec(),
                };
                let (zero, scales) = ((1 << (bits - 1)) as f32, decode(DType::F32, scales));
                let scaled = codes.chunks(BLOCK as usize).zip(scales);
                let values = scaled.flat_map(|(codes, scale)| {
                    codes.iter().map(move |code| (f32::from(*code) - zero) * scale)
                });
                values.collect()
            }
        }
    }
}

/// A power of two, or NaN.
fn e8m0(scale: u8) -> f32 {
    if scale == u8::MAX { f32::NAN } else { 2f32.powi(i32::from(scale) - 127) }
}

impl EncodedNumbers {
    /// As many tables of equal size as there are numbers.
    pub fn matrices(
        self,
        [count, rows, columns]: [u64; 3],
        is_transposed: bool,
    ) -> Vec<StoredMatrix> {
        let part = |whole: &FileRange, at: u64| {
            let (file, length) = (whole.file.clone(), whole.len() / count);
            let start = whole.range.start + at * length;
            FileRange { file, range: start..start + length }
        };
        let table = |at| {
            let elements = part(&self.elements, at);
            let scales = self.scales.as_ref().map(|scales| part(scales, at));
            let numbers = Self { encoding: self.encoding, elements, scales };
            StoredMatrix { rows, columns, is_transposed, numbers }
        };
        (0..count).map(table).collect()
    }
}

impl StoredMatrix {
    /// Bytes in files.
    pub fn bytes(&self) -> u64 {
        let EncodedNumbers { elements, scales, .. } = &self.numbers;
        elements.len() + scales.as_ref().map_or(0, FileRange::len)
    }

    pub fn open(&self) -> Result<OpenMatrix<'_>> {
        let open = |it: &FileRange| fs::File::open(&*it.file).map(|file| file.into_parts().0);
        let EncodedNumbers { elements, scales, .. } = &self.numbers;
        let scales = scales.as_ref().map(open).transpose()?;
        Ok(OpenMatrix { table: self, elements: open(elements)?, scales })
    }

    /// All of it.
    pub fn values<F: Real>(&self) -> Result<Array2<F>> {
        self.open()?.rows(0..self.rows)
    }
}

/// A table with open files, which threads may share.
pub struct OpenMatrix<'t> {
    table: &'t StoredMatrix,
    elements: File,
    scales: Option<File>,
}

impl OpenMatrix<'_> {
    /// Some rows `[rows, columns]`.
    pub fn rows<F: Real>(&self, rows: Range<u64>) -> Result<Array2<F>> {
        let StoredMatrix { columns, numbers, .. } = self.table;
        let EncodedNumbers { encoding, elements, scales } = numbers;
        let [start, end] = [rows.start, rows.end].map(|row| encoding.bytes(row * columns));
        let elements = read(&self.elements, elements, start[0]..end[0])?;
        let scales = match (&self.scales, scales) {
            (Some(file), Some(scales)) => read(file, scales, start[1]..end[1])?,
            _ => Vec::new(),
        };
        let values = encoding.decode(&elements, &scales).into_iter();
        let values = values.map(|value| F::of(f64::from(value))).collect();
        let shape = ((rows.end - rows.start) as usize, *columns as usize);
        Ok(Array2::from_shape_vec(shape, values).expect("whole rows"))
    }
}

/// Some bytes of a range of a file.
fn read(
    file: &File,
    FileRange { file: path, range }: &FileRange,
    part: Range<u64>,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (part.end - part.start) as usize];
    read_exact_at(file, &mut bytes, range.start + part.start).map_err(|error| {
        let path = path.display();
        match error.kind() {
            ErrorKind::UnexpectedEof => {
                err!("`{path}` ends within the bytes {range:?}: the file changed while it was read")
            }
            _ => err!("cannot read `{path}`").with_source(error),
        }
    })?;
    Ok(bytes)
}

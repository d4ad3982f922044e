//! Matrices of dense layers and of experts: the forms in which they are stored.

use std::fmt;

use super::{Recipe, Weight};
use crate::tensor::ints::Bits;
use crate::tensor::{DType, mxfp4};

/// A matrix `[out, in]`, or one for each expert, in the form in which all are stored.
/// Their name tells the form: a square matrix looks the same either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// In MXFP4 along `in`.
    Mxfp4 {
        /// `blocks [experts, out, in/32, 16]`
        blocks: Weight,
        /// `scales [experts, out, in/32]`
        scales: Weight,
    },
    /// In MXFP4 along `in`, with the codes of an input together: CUDA's way.
    Mxfp4Columns {
        /// `columns [experts, in, out/2]`, of two outputs the first in the low nibble
        columns: Weight,
        /// `scales [experts, out, in/32]`
        scales: Weight,
    },
    /// In integers along `in`.
    Ints {
        /// How wide they are.
        bits: Bits,
        /// `codes u8 [.., out, in/32, 32]`, or 16 bytes for 4 bits
        codes: Weight,
        /// `scales f32 [.., out, in/32]`
        scales: Weight,
    },
    /// `weight [.., out, in]`
    OutputMajor(Weight),
    /// `weight_t [experts, in, out]`
    InputMajor(Weight),
}

/// A format for the numbers of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Blocks and scales.
    Mxfp4,
    /// Columns and scales.
    Mxfp4Columns,
    /// Integers and scales.
    Ints(Bits),
    /// BF16, F16 or F32, `[.., out, in]`.
    Numbers(DType),
}

/// Between formats, where matrices of one kind have several.
pub const AND: &str = " and ";

impl Format {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Mxfp4,
        Self::Mxfp4Columns,
        Self::Ints(Bits::Eight),
        Self::Ints(Bits::Four),
        Self::Numbers(DType::BF16),
        Self::Numbers(DType::F16),
        Self::Numbers(DType::F32),
    ];

    /// Whether a text names formats that a checkpoint's matrices may have.
    pub(super) fn are(words: &str) -> bool {
        let known = Self::ALL.into_iter().chain([Self::Numbers(DType::F8E5M2)]);
        let known: Vec<String> = known.map(|format| format.to_string()).collect();
        words.split(AND).all(|word| known.iter().any(|format| format == word))
    }

    /// That of the logits' matrix beside others in this one: 4 bits are too few to choose
    /// among so many tokens.
    pub fn for_logits(self) -> Self {
        match self {
            Self::Ints(Bits::Four) => Self::Ints(Bits::Eight),
            format => format,
        }
    }

    /// The weights that matrices `[.., out, in]` consist of: the last part of the
    /// name, dtype and shape.
    pub(super) fn parts(
        self,
        above: &[u64],
        [out, inn]: [u64; 2],
    ) -> Vec<(&'static str, DType, Vec<u64>)> {
        let groups = inn / mxfp4::BLOCK;
        let shape = |axes: &[u64]| [above, axes].concat();
        match self {
            Self::Mxfp4 => vec![
                ("blocks", DType::U8, shape(&[out, groups, mxfp4::BLOCK / 2])),
                ("scales", DType::U8, shape(&[out, groups])),
            ],
            Self::Mxfp4Columns => vec![
                ("columns", DType::U8, shape(&[inn, out / 2])),
                ("scales", DType::U8, shape(&[out, groups])),
            ],
            Self::Ints(bits) => vec![
                ("codes", DType::U8, shape(&[out, groups, bits.block_bytes()])),
                ("scales", DType::F32, shape(&[out, groups])),
            ],
            Self::Numbers(dtype) => vec![("weight", dtype, shape(&[out, inn]))],
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mxfp4 => f.write_str("mxfp4"),
            Self::Mxfp4Columns => f.write_str("mxfp4 by columns"),
            Self::Ints(bits) => write!(f, "{bits}"),
            Self::Numbers(dtype) => write!(f, "{dtype}"),
        }
    }
}

impl Matrix {
    /// The weights that it consists of.
    pub fn weights(&self) -> Vec<&Weight> {
        match self {
            Self::Mxfp4 { blocks, scales } => vec![blocks, scales],
            Self::Mxfp4Columns { columns, scales } => vec![columns, scales],
            Self::Ints { codes, scales, .. } => vec![codes, scales],
            Self::OutputMajor(weight) | Self::InputMajor(weight) => vec![weight],
        }
    }

    /// The same, to be changed.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        match self {
            Self::Mxfp4 { blocks, scales } => vec![blocks, scales],
            Self::Mxfp4Columns { columns, scales } => vec![columns, scales],
            Self::Ints { codes, scales, .. } => vec![codes, scales],
            Self::OutputMajor(weight) | Self::InputMajor(weight) => vec![weight],
        }
    }

    /// The canonical name that those of its weights begin with.
    pub fn path(&self) -> &str {
        let name = &self.weights()[0].name;
        name.rsplit_once('.').expect("a canonical name").0
    }

    /// The axes before `out` and `in`: the experts, or none.
    pub(super) fn above(&self) -> &[u64] {
        let shape = match self {
            Self::Mxfp4 { scales, .. }
            | Self::Mxfp4Columns { scales, .. }
            | Self::Ints { scales, .. } => &scales.shape,
            Self::OutputMajor(weight) | Self::InputMajor(weight) => &weight.shape,
        };
        &shape[..shape.len() - 2]
    }

    /// How many matrices there are, and `out` and `in` of each.
    pub fn sizes(&self) -> [u64; 3] {
        let last = |shape: &[u64]| [shape[shape.len() - 2], shape[shape.len() - 1]];
        let [out, inn] = match self {
            Self::Mxfp4 { scales, .. }
            | Self::Mxfp4Columns { scales, .. }
            | Self::Ints { scales, .. } => {
                let [out, groups] = last(&scales.shape);
                [out, groups * mxfp4::BLOCK]
            }
            Self::OutputMajor(weight) => last(&weight.shape),
            Self::InputMajor(weight) => {
                let [inn, out] = last(&weight.shape);
                [out, inn]
            }
        };
        [self.above().iter().product(), out, inn]
    }

    /// Whether their rows are whole blocks of 32.
    pub fn fills_blocks(&self) -> bool {
        self.sizes()[2].is_multiple_of(mxfp4::BLOCK)
    }

    /// How many numbers they have.
    pub fn numbers(&self) -> u64 {
        self.sizes().iter().product()
    }

    /// What it is converted from, or itself where it is not converted.
    pub fn source(&self) -> &Self {
        match &self.weights()[0].recipe {
            Recipe::Converted(conversion, _) => conversion.from(),
            _ => self,
        }
    }

    /// Whether it is in a format as it stands.
    pub(super) fn is_in(&self, format: Format) -> bool {
        match (self, format) {
            (Self::Mxfp4 { .. }, Format::Mxfp4) => true,
            (Self::Mxfp4Columns { .. }, Format::Mxfp4Columns) => true,
            (Self::Ints { bits, .. }, Format::Ints(wanted)) => *bits == wanted,
            (Self::OutputMajor(weight), Format::Numbers(dtype)) => weight.dtype == dtype,
            _ => false,
        }
    }

    /// The format of its numbers, in words.
    pub fn format(&self) -> String {
        match self {
            Self::Mxfp4 { .. } => Format::Mxfp4.to_string(),
            Self::Mxfp4Columns { .. } => Format::Mxfp4Columns.to_string(),
            Self::Ints { bits, .. } => bits.to_string(),
            Self::OutputMajor(weight) | Self::InputMajor(weight) => weight.dtype.to_string(),
        }
    }
}

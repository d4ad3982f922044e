//! Formats in which matrices are stored, and the one table of their parts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, err};
use crate::tensor::ints::Bits;
use crate::tensor::{BLOCK, DType, nvfp4};

/// How the elements of a matrix `[out, in]`, or of one for each expert, are stored. A
/// square matrix has the same shape in both orders, so the format tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixFormat {
    /// MXFP4 blocks of 32 elements along `in`.
    Mxfp4,
    /// The same codes in blocks of 16 along `in`, with a scale for each and one for each expert.
    Nvfp4,
    /// Integers in blocks of 32 along `in` with an f32 scale each.
    Int(Bits),
    /// Two integers of 4 bits an element, which is their sum: a high and a low digit.
    Int4x2,
    /// Two int8 digits, with a power of two as the scale of each row.
    Int8x2,
    /// Floats, `[out, in]`.
    Float(DType),
    /// Floats, `[in, out]`.
    FloatTransposed(DType),
}

/// What the elements of a weight are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementKind {
    /// BF16, F16 or F32.
    Float,
    /// The same or FP8, in the matrices of experts alone.
    ExpertFloat,
    /// Two E2M1 codes a byte.
    Mxfp4Blocks,
    /// E8M0 scales, which most checkpoints store as U8.
    Mxfp4Scales,
    /// One or two integer codes a byte.
    IntCodes,
    /// F32 scales of integers.
    IntScales,
    /// E4M3 scales.
    Nvfp4Scales,
    /// Global scales of NVFP4.
    GlobalScales,
    /// Digits of integers.
    Digits,
}

/// One of the tensors that a matrix consists of.
#[derive(Clone, Debug)]
pub struct MatrixPart {
    /// Last component of its name.
    pub name: &'static str,
    pub kind: ElementKind,
    pub dtype: DType,
    pub shape: Vec<u64>,
}

impl MatrixFormat {
    /// Formats that a conversion can produce.
    pub const TARGETS: [Self; 9] = [
        Self::Mxfp4,
        Self::Nvfp4,
        Self::Int(Bits::Eight),
        Self::Int(Bits::Four),
        Self::Int4x2,
        Self::Int8x2,
        Self::Float(DType::BF16),
        Self::Float(DType::F16),
        Self::Float(DType::F32),
    ];

    /// The tensors of matrices `[stack.., out, in]`. In MXFP4: `blocks u8 [.., out, in/32,
    /// 16]` and `scales u8 [.., out, in/32]`. NVFP4: `pairs u8 [.., out, in/16, 8]`,
    /// `block_scales f8e4m3 [.., out, in/16]` and `global_scale f32 [..]`. Integers: `codes u8 [..,
    /// out, in/32, 32 or 16]` and `scales f32 [.., out, in/32]`. Two digits of 4 bits: `digits u8 [..,
    /// out, 2, in/32, 16]`, the high ones of a row before the low ones, and `digit_scales f32 [.., out,
    /// 2, in/32]`; of 8 bits: `high` and `low i8 [.., out, in]` and `scales f32 [.., out]`. Floats:
    /// `weight [.., out, in]` or `weight_t [.., in, out]`.
    pub fn parts(self, stack: &[u64], [out, inn]: [u64; 2]) -> Vec<MatrixPart> {
        use ElementKind::{
            Digits, ExpertFloat, Float, GlobalScales, IntCodes, IntScales, Mxfp4Blocks,
            Mxfp4Scales, Nvfp4Scales,
        };
        let groups = inn / BLOCK;
        let floats = if stack.is_empty() { Float } else { ExpertFloat };
        let part = |name, kind, dtype, axes: &[u64]| {
            let shape = [stack, axes].concat();
            MatrixPart { name, kind, dtype, shape }
        };
        let scales = |kind, dtype| part("scales", kind, dtype, &[out, groups]);
        match self {
            Self::Mxfp4 => vec![
                part("blocks", Mxfp4Blocks, DType::U8, &[out, groups, BLOCK / 2]),
                scales(Mxfp4Scales, DType::U8),
            ],
            Self::Nvfp4 => {
                let groups = inn / nvfp4::BLOCK;
                vec![
                    part("pairs", Mxfp4Blocks, DType::U8, &[out, groups, nvfp4::BLOCK / 2]),
                    part("block_scales", Nvfp4Scales, DType::F8E4M3, &[out, groups]),
                    part("global_scale", GlobalScales, DType::F32, &[]),
                ]
            }
            Self::Int(bits) => vec![
                part("codes", IntCodes, DType::U8, &[out, groups, bits.block_bytes()]),
                scales(IntScales, DType::F32),
            ],
            Self::Int4x2 => vec![
                part("digits", IntCodes, DType::U8, &[out, 2, groups, Bits::Four.block_bytes()]),
                part("digit_scales", IntScales, DType::F32, &[out, 2, groups]),
            ],
            Self::Int8x2 => vec![
                part("high", Digits, DType::I8, &[out, inn]),
                part("low", Digits, DType::I8, &[out, inn]),
                part("scales", IntScales, DType::F32, &[out]),
            ],
            Self::Float(dtype) => vec![part("weight", floats, dtype, &[out, inn])],
            Self::FloatTransposed(dtype) => vec![part("weight_t", floats, dtype, &[inn, out])],
        }
    }

    /// Whether rows are blocks of 32 elements, or pairs of blocks of 16.
    pub fn has_blocks(self) -> bool {
        self.is_fp4() || self.is_int() || self == Self::Int4x2
    }

    pub fn is_fp4(self) -> bool {
        matches!(self, Self::Mxfp4 | Self::Nvfp4)
    }

    /// Whether integers share the scale of a block.
    pub fn is_int(self) -> bool {
        matches!(self, Self::Int(_))
    }

    /// The format of lm_head where other dense matrices get this one: int4 is too coarse
    /// to choose among all tokens.
    pub fn for_lm_head(self) -> Self {
        if self == Self::Int(Bits::Four) { Self::Int(Bits::Eight) } else { self }
    }

    /// The same order of floats in another dtype.
    pub fn with_dtype(self, dtype: DType) -> Self {
        match self {
            Self::Float(_) => Self::Float(dtype),
            Self::FloatTransposed(_) => Self::FloatTransposed(dtype),
            format => format,
        }
    }
}

impl fmt::Display for MatrixFormat {
    /// The orders of floats have one name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mxfp4 => f.write_str("mxfp4"),
            Self::Nvfp4 => f.write_str("nvfp4"),
            Self::Int(bits) => write!(f, "{bits}"),
            Self::Int4x2 => f.write_str("int4x2"),
            Self::Int8x2 => f.write_str("int8x2"),
            Self::Float(dtype) | Self::FloatTransposed(dtype) => write!(f, "{dtype}"),
        }
    }
}

impl ElementKind {
    /// The dtypes that it accepts, and what they are called.
    fn dtypes(self) -> (&'static [DType], &'static str) {
        match self {
            Self::Float => (&[DType::BF16, DType::F16, DType::F32], "bf16, f16 or f32"),
            Self::ExpertFloat => {
                (&[DType::BF16, DType::F16, DType::F32, DType::F8E5M2], "bf16, f16, f32 or f8e5m2")
            }
            Self::Mxfp4Blocks => (&[DType::U8], "u8 (MXFP4 blocks)"),
            Self::Mxfp4Scales => (&[DType::U8, DType::F8E8M0], "u8 (MXFP4 scales)"),
            Self::IntCodes => (&[DType::U8], "u8 (integer codes)"),
            Self::IntScales => (&[DType::F32], "f32 (scales of integers)"),
            Self::Nvfp4Scales => (&[DType::F8E4M3], "f8e4m3 (NVFP4 scales)"),
            Self::GlobalScales => (&[DType::F32], "f32 (global scales of NVFP4)"),
            Self::Digits => (&[DType::I8], "i8 (digits of integers)"),
        }
    }

    pub fn accepts(self, dtype: DType) -> bool {
        self.dtypes().0.contains(&dtype)
    }
}

impl fmt::Display for ElementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtypes().1)
    }
}

/// The formats of several matrices, whatever the order of their floats; as text they are
/// joined by ` and `.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FormatSet(Vec<MatrixFormat>);

const AND: &str = " and ";

impl FormatSet {
    pub fn contains(&self, is_wanted: impl Fn(MatrixFormat) -> bool) -> bool {
        self.0.iter().any(|format| is_wanted(*format))
    }

    /// The format that all these matrices may have been converted to, lm_head apart
    /// ([`MatrixFormat::for_lm_head`]); `None` for other mixtures.
    pub fn common(&self) -> Option<MatrixFormat> {
        match self.0[..] {
            [format] => Some(format),
            [format, of_lm_head] if format.for_lm_head() == of_lm_head => Some(format),
            _ => None,
        }
    }
}

impl FromIterator<MatrixFormat> for FormatSet {
    fn from_iter<I: IntoIterator<Item = MatrixFormat>>(formats: I) -> Self {
        let normal = |format| match format {
            MatrixFormat::FloatTransposed(dtype) => MatrixFormat::Float(dtype),
            format => format,
        };
        let mut formats: Vec<_> = formats.into_iter().map(normal).collect();
        formats.sort_by_key(MatrixFormat::to_string);
        formats.dedup();
        Self(formats)
    }
}

impl fmt::Display for FormatSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(MatrixFormat::to_string).collect();
        f.write_str(&names.join(AND))
    }
}

impl From<FormatSet> for String {
    fn from(formats: FormatSet) -> Self {
        formats.to_string()
    }
}

impl TryFrom<String> for FormatSet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        let known = MatrixFormat::TARGETS.into_iter().chain([MatrixFormat::Float(DType::F8E5M2)]);
        let format = |name: &str| {
            let format = known.clone().find(|format| format.to_string() == name);
            format.ok_or_else(|| err!("{name:?} is not a format of matrices"))
        };
        text.split(AND).map(format).collect()
    }
}

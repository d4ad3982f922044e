//! Element types of tensors.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// The element type of a tensor. Every element fills whole bytes, but for other ones.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum DType {
    Bool,
    U8,
    I8,
    I32,
    I64,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    F16,
    BF16,
    #[default]
    F32,
    /// One of SafeTensors that no weight has, by its name in lower case.
    #[serde(skip)]
    Other(#[serde(skip)] &'static str),
}

impl DType {
    /// Bytes of one element; 0 of another dtype.
    pub const fn size(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 | Self::F8E8M0 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 => 8,
            Self::Other(_) => 0,
        }
    }

    /// The largest finite value that both this compute dtype and f32 represent.
    pub fn largest(self) -> f32 {
        match self {
            Self::F16 => f16::MAX.to_f32(),
            Self::BF16 => bf16::MAX.to_f32(),
            _ => f32::MAX,
        }
    }

    /// Bytes of a tensor of this shape, or `None` beyond 2⁶⁴.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        shape.iter().try_fold(self.size(), |size, dim| size.checked_mul(*dim))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Other(name) = self { f.write_str(name) } else { self.serialize(f) }
    }
}

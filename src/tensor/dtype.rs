//! Element types of tensors.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::error::{Error, err};

/// The element type of a tensor. Every element fills whole bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum DType {
    Bool,
    U8,
    I8,
    I32,
    I64,
    F8E5M2,
    F8E8M0,
    F16,
    BF16,
    F32,
}

impl DType {
    /// The names of all, which serde uses too.
    const NAMES: [(Self, &str); 10] = [
        (Self::Bool, "bool"),
        (Self::U8, "u8"),
        (Self::I8, "i8"),
        (Self::I32, "i32"),
        (Self::I64, "i64"),
        (Self::F8E5M2, "f8e5m2"),
        (Self::F8E8M0, "f8e8m0"),
        (Self::F16, "f16"),
        (Self::BF16, "bf16"),
        (Self::F32, "f32"),
    ];

    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E8M0 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 => 8,
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
        let (_, name) = Self::NAMES.iter().find(|(dtype, _)| dtype == self).ok_or(fmt::Error)?;
        f.write_str(name)
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(dtype, _)| *dtype).ok_or_else(|| err!("`{text}` is not a dtype"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_display_from_str_and_serde() {
        for (dtype, name) in DType::NAMES {
            assert_eq!((dtype.to_string().as_str(), name.parse().ok()), (name, Some(dtype)));
            assert_eq!(serde_json::to_value(dtype).unwrap(), name);
            assert_eq!(serde_json::from_value::<DType>(name.into()).unwrap(), dtype);
        }
        assert_eq!("F16".parse::<DType>().unwrap_err().to_string(), "`F16` is not a dtype");
    }
}

//! What the codes of a block stand for, and how they are stored.

use std::fmt;

use serde::Serialize;

use crate::{BLOCK, BlockValues, Rounding};

/// Adding and subtracting this rounds to the nearest integer, ties to even, where the
/// magnitude is below 2²².
pub const ROUND: f32 = 1.5 * (1u32 << 23) as f32;

/// How wide the integers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum Bits {
    #[serde(rename = "int4")]
    Four,
    #[serde(rename = "int8")]
    Eight,
}

#[allow(missing_docs)]
impl Bits {
    pub const ALL: [Self; 2] = [Self::Four, Self::Eight];

    pub const fn count(self) -> u64 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The code of 0; codes are not negative.
    pub const fn zero(self) -> u8 {
        1 << (self.count() - 1)
    }

    /// Bytes of a block's codes.
    pub const fn block_bytes(self) -> u64 {
        BLOCK * self.count() / 8
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The values of a block, whose codes are [`Bits::block_bytes`] long. Of two 4-bit codes
/// in a byte the low nibble comes first.
pub fn dequantize(bits: Bits, codes: &[u8], scale: f32) -> BlockValues {
    let value = |code: u8| (f32::from(code) - f32::from(bits.zero())) * scale;
    std::array::from_fn(|at| match bits {
        Bits::Four => value(codes[at / 2] >> (4 * (at % 2)) & 15),
        Bits::Eight => value(codes[at]),
    })
}

/// Stores integers, which must be whole and in range.
pub fn pack(bits: Bits, ints: &BlockValues, codes: &mut [u8]) {
    // The code is in the lowest bits of the sum. Unlike a cast, this is vectorized.
    let code = |int: &f32| (int + f32::from(bits.zero()) + ROUND).to_bits() as u8;
    match bits {
        Bits::Four => {
            for (byte, [first, second]) in codes.iter_mut().zip(ints.as_chunks().0) {
                *byte = code(first) | code(second) << 4;
            }
        }
        Bits::Eight => codes.iter_mut().zip(ints).for_each(|(byte, int)| *byte = code(int)),
    }
}

/// The nearest 4-bit integer.
pub fn round_int4(value: f32) -> f32 {
    ((value + ROUND) - ROUND).clamp(-8.0, 7.0)
}

/// Compares values with what they became; a zero may change its sign.
pub fn compare(values: &BlockValues, converted: &BlockValues) -> Rounding {
    let positive_zero = |value| value + 0.0;
    Rounding::of(&values.map(positive_zero), &converted.map(positive_zero))
}

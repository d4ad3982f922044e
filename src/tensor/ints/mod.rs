//! Integers of 8 or 4 bits in blocks of 32 that share an f32 scale, as ONNX Runtime's
//! QMoE and MatMulNBits read them.
//!
//! `value = (code − zero) · scale`, where zero is 128 or 8: codes are not negative.
//! Of 4 bits, two codes share a byte, the first one in the low nibble.

mod from_mxfp4;
#[cfg(test)]
mod oracle;
mod quantise;

use std::fmt;

pub use from_mxfp4::from_mxfp4;
pub use quantise::quantise;
use serde::{Deserialize, Serialize};

use super::Rounding;
use super::mxfp4::BLOCK;

/// How wide the integers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Bits {
    #[serde(rename = "int4")]
    Four,
    #[serde(rename = "int8")]
    Eight,
}

impl Bits {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Four, Self::Eight];

    /// How many bits.
    pub const fn count(self) -> u64 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The code of 0.
    pub const fn zero(self) -> u8 {
        match self {
            Self::Four => 8,
            Self::Eight => 128,
        }
    }

    /// Bytes that the codes of a block take.
    pub const fn block_bytes(self) -> u64 {
        BLOCK * self.count() / 8
    }

    /// Those of which a block has so many bytes of codes.
    pub fn of_block(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|bits| bits.block_bytes() == bytes)
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "int{}", self.count())
    }
}

/// The numbers of a block, whose codes have [`Bits::block_bytes`].
pub fn dequantise(bits: Bits, codes: &[u8], scale: f32) -> [f32; BLOCK as usize] {
    let number = |code: u8| (f32::from(code) - f32::from(bits.zero())) * scale;
    std::array::from_fn(|at| match bits {
        Bits::Four => number(codes[at / 2] >> (4 * (at % 2)) & 15),
        Bits::Eight => number(codes[at]),
    })
}

/// Writes the codes of a block, whole numbers that a code can hold.
fn pack(bits: Bits, whole: &[f32; BLOCK as usize], codes: &mut [u8]) {
    // So that the lowest bits are the code: many at once, where a cast takes each alone.
    let code = |number: &f32| (number + f32::from(bits.zero()) + WHOLE).to_bits() as u8;
    match bits {
        Bits::Four => {
            for (byte, [first, second]) in codes.iter_mut().zip(whole.as_chunks().0) {
                *byte = code(first) | code(second) << 4;
            }
        }
        Bits::Eight => {
            codes.iter_mut().zip(whole).for_each(|(byte, number)| *byte = code(number));
        }
    }
}

/// Adding and taking away this leaves the nearest whole number, of two the even one,
/// where the number is below 2²².
const WHOLE: f32 = 1.5 * (1u32 << 23) as f32;

/// The nearest whole number that 4 bits hold.
fn four_bits(number: f32) -> f32 {
    ((number + WHOLE) - WHOLE).clamp(-8.0, 7.0)
}

/// What became of numbers; that a zero has another sign is not counted.
fn rounding(numbers: &[f32; BLOCK as usize], back: &[f32; BLOCK as usize]) -> Rounding {
    let [numbers, back] = [numbers, back].map(|numbers| numbers.map(|number| number + 0.0));
    Rounding::of(&numbers, &back)
}

/// The outcome of a block that holds infinity or NaN, and comes out as zeros.
fn not_finite(bits: Bits, count: u64, codes: &mut [u8]) -> (f32, Rounding) {
    codes.fill(match bits {
        Bits::Four => bits.zero() | bits.zero() << 4,
        Bits::Eight => bits.zero(),
    });
    (1.0, Rounding { numbers: BLOCK, not_finite: count, ..Rounding::default() })
}

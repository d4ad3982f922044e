//! Rows of values as two int8 digits each, under one power of two for the row.

use std::array;

use super::block::{ROUND, compare};
use crate::{BLOCK, BLOCK_LENGTH, BlockValues, Rounding};

/// What the high digit counts for in units of the low one.
pub const BASE: f32 = 256.0;
/// The largest magnitude of two digits, `256·127 + 127`.
const LARGEST: f32 = 32639.0;
/// How far the exponent is from the lowest bit.
const MANTISSA_BITS: u32 = 23;

/// Writes the digits of a row, i8 each, and returns the scale: `value = scale · (256·high + low)`.
/// The scale is the least power of two that keeps the largest magnitude in range, so that BF16
/// values are exact unless the row's largest is more than 64 times larger. A row with a value that
/// is not finite becomes zeros.
pub fn to_digits(row: &[BlockValues], high: &mut [u8], low: &mut [u8]) -> (f32, Rounding) {
    let values = row.as_flattened();
    let not_finite = values.iter().filter(|value| !value.is_finite()).count() as u64;
    if not_finite > 0 {
        high.fill(0);
        low.fill(0);
        let values = row.len() as u64 * BLOCK;
        return (1.0, Rounding { values, not_finite, ..Rounding::default() });
    }
    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scale = scale_of(largest);
    let inverse = 1.0 / scale;
    let mut rounding = Rounding::default();
    let parts = row.iter().zip(high.as_chunks_mut().0).zip(low.as_chunks_mut().0);
    for ((values, high), low) in parts {
        let whole = values.map(|value| value * inverse + ROUND);
        store(&whole, high, low);
        rounding += compare(values, &whole.map(|value| (value - ROUND) * scale));
    }
    (scale, rounding)
}

/// The values of a block, whose digits are i8.
pub fn from_digits(high: &[u8; BLOCK_LENGTH], low: &[u8; BLOCK_LENGTH], scale: f32) -> BlockValues {
    let digit = |byte: u8| f32::from(byte as i8);
    array::from_fn(|at| scale * (BASE * digit(high[at]) + digit(low[at])))
}

fn store<const N: usize>(whole: &[f32; N], high: &mut [u8; N], low: &mut [u8; N]) {
    for ((value, high), low) in whole.iter().zip(high).zip(low) {
        // The integer is in the lowest bits of the sum. Unlike a cast, this is vectorized.
        let whole = value.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        let digit = (whole + 128) >> 8;
        (*high, *low) = (digit as u8, (whole - (digit << 8)) as u8);
    }
}

/// The least power of two with `largest / scale ≤ LARGEST`, at least f32's least normal number.
fn scale_of(largest: f32) -> f32 {
    let exponent = ((largest / LARGEST).to_bits() >> MANTISSA_BITS).max(1);
    let scale = f32::from_bits(exponent << MANTISSA_BITS);
    if scale * LARGEST >= largest { scale } else { scale * 2.0 }
}

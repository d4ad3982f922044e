//! Values to integers: the nearest codes under a scale.

use super::block::{Bits, ROUND, compare, pack, round_int4};
use super::from_mxfp4::from_mxfp4;
use crate::mxfp4::{self, Blocks};
use crate::rounding::sum_in_lanes;
use crate::{BLOCK, BLOCK_LENGTH, BlockValues, Rounding};

const MANTISSA_BITS: u32 = 23;
/// The exponent bits of 1.
const ONE: u32 = 127;

/// Writes the codes of a block and returns its scale. With 8 bits the largest magnitude
/// becomes 127; with 4 a scale with little squared error is searched for. Values that are
/// exact in MXFP4 become the same codes as from MXFP4. A block with a value that is not
/// finite becomes zeros.
pub fn quantize(bits: Bits, values: &BlockValues, codes: &mut [u8]) -> (f32, Rounding) {
    let not_finite = values.iter().filter(|value| !value.is_finite()).count();
    if not_finite > 0 {
        pack(bits, &[0.0; BLOCK_LENGTH], codes);
        let not_finite = not_finite as u64;
        return (1.0, Rounding { values: BLOCK, not_finite, ..Rounding::default() });
    }
    if let Some(block) = mxfp4::exact(values) {
        let mut scale = [0.0];
        let blocks = Blocks { scales: &[block.scale], codes: &[block.codes] };
        let rounding = from_mxfp4(bits, blocks, codes, &mut scale);
        return (scale[0], rounding);
    }
    // The power of two makes the largest magnitude 1 to 2, which keeps scales in f32's
    // range. As integers, the bits of magnitudes have the order of their values.
    let largest = values.iter().map(|value| value.abs().to_bits() as i32).max().unwrap_or(0);
    let largest = f32::from_bits(largest as u32);
    let exponent = (largest.to_bits() >> MANTISSA_BITS).max(1);
    let power = f32::from_bits((2 * ONE - exponent).max(1) << MANTISSA_BITS);
    let (largest, scaled) = (largest * power, values.map(|value| value * power));
    let scale = match bits {
        Bits::Four => best_int4_scale(&scaled, largest),
        Bits::Eight => largest / 127.0,
    };
    let inverse = 1.0 / scale;
    let ints = match bits {
        Bits::Four => scaled.map(|value| round_int4(value * inverse)),
        Bits::Eight => scaled.map(|value| (value * inverse + ROUND) - ROUND),
    };
    pack(bits, &ints, codes);
    let scale = scale / power;
    (scale, compare(values, &ints.map(|int| int * scale)))
}

/// What the largest magnitude is scaled to in the search for a scale.
const TARGETS: [f32; 6] = [6.5, 7.0, 7.5, 8.0, 8.5, 9.0];

/// The best of some scales, each fitted to its codes `c` by least squares: `Σxc / Σc²`
/// leaves an error of `Σx² − (Σxc)² / Σc²`. The value with the largest magnitude becomes
/// negative: codes reach -8, and 7.
fn best_int4_scale(values: &BlockValues, largest: f32) -> f32 {
    let is_negative = values.iter().fold(false, |any, value| any | (*value == -largest));
    let largest = if is_negative { largest } else { -largest };
    let (mut best, mut scale) = (0.0, 1.0);
    for target in TARGETS {
        let ints = values.map(|value| round_int4(value * (target / largest)));
        let products = sum_in_lanes(values, &ints, |value, int| value * int);
        let squares = sum_in_lanes(&ints, &ints, |int, _| int * int);
        if products * products > best * squares {
            (best, scale) = (products * products / squares, products / squares);
        }
    }
    scale
}

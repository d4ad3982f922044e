//! Numbers to integers: the nearest codes under a scale.
//!
//! Numbers that came from MXFP4 are told by being exact in it, and go the way of
//! [`from_mxfp4`]: what they become does not depend on how they were stored.

use super::{Bits, WHOLE, four_bits, from_mxfp4, not_finite, pack, rounding};
use crate::tensor::Rounding;
use crate::tensor::mxfp4::{self, BLOCK};

const LENGTH: usize = BLOCK as usize;
const MANTISSA_BITS: u32 = 23;
/// The exponent bits of 1.
const ONE: u32 = 127;

/// Writes the codes of a block and returns its scale, and how far off it is. With 8
/// bits the largest magnitude is 127 scales; with 4 the scale with the least squared
/// error is looked for.
pub fn quantise(bits: Bits, numbers: &[f32; LENGTH], codes: &mut [u8]) -> (f32, Rounding) {
    let infinite = numbers.iter().filter(|number| !number.is_finite()).count();
    if infinite > 0 {
        return not_finite(bits, infinite as u64, codes);
    }
    if let Some(block) = mxfp4::exact(numbers) {
        return from_mxfp4::one(bits, &block, codes);
    }
    // Between 1 and 2 at most, so that no scale leaves f32's range.
    // As integers, floats are in the same order.
    let largest = numbers.iter().map(|number| number.abs().to_bits() as i32).max().unwrap_or(0);
    let largest = f32::from_bits(largest as u32);
    let exponent = (largest.to_bits() >> MANTISSA_BITS).max(1);
    let power = f32::from_bits((2 * ONE - exponent).max(1) << MANTISSA_BITS);
    let scaled = numbers.map(|number| number * power);
    let (scale, whole) = match bits {
        Bits::Eight => under(largest * power / 127.0, &scaled, |number| (number + WHOLE) - WHOLE),
        Bits::Four => under(best_of_four_bits(&scaled, largest * power), &scaled, four_bits),
    };
    let scale = scale / power;
    pack(bits, &whole, codes);
    (scale, rounding(numbers, &whole.map(|whole| whole * scale)))
}

/// The scale, and numbers as whole multiples of it.
fn under(
    scale: f32,
    numbers: &[f32; LENGTH],
    nearest: impl Fn(f32) -> f32,
) -> (f32, [f32; LENGTH]) {
    let inverse = 1.0 / scale;
    (scale, numbers.map(|number| nearest(number * inverse)))
}

/// Scales are looked for where the largest magnitude becomes one of these.
const LARGEST_CODES: [f32; 6] = [6.5, 7.0, 7.5, 8.0, 8.5, 9.0];

/// The best of the scales that are tried, each moved to where least squares put it for
/// its codes `c`: `Σxc / Σc²`, which leaves an error of `Σx² − (Σxc)² / Σc²`. The number
/// with the largest magnitude gets a negative code: there is one more of them.
fn best_of_four_bits(numbers: &[f32; LENGTH], largest: f32) -> f32 {
    let is_negative = numbers.iter().fold(false, |found, number| found | (*number == -largest));
    let largest = if is_negative { largest } else { -largest };
    let (mut best, mut scale) = (0.0, 1.0);
    for code in LARGEST_CODES {
        let whole = numbers.map(|number| four_bits(number * (code / largest)));
        let products = sum_of_products(numbers, &whole);
        let squares = sum_of_products(&whole, &whole);
        if products * products > best * squares {
            (best, scale) = (products * products / squares, products / squares);
        }
    }
    scale
}

/// In lanes, as the processor has them: the order of the sum is part of the result.
fn sum_of_products(left: &[f32; LENGTH], right: &[f32; LENGTH]) -> f32 {
    let mut lanes = [0f32; 8];
    for (left, right) in left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right;
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{dequantise, oracle};
    use super::*;

    fn made(bits: Bits, numbers: &[f32; LENGTH]) -> ([f32; LENGTH], Rounding) {
        let mut codes = vec![0; bits.block_bytes() as usize];
        let (scale, rounding) = quantise(bits, numbers, &mut codes);
        (dequantise(bits, &codes, scale), rounding)
    }

    fn sized(numbers: &[f32; LENGTH], exponent: i32) -> [f32; LENGTH] {
        numbers.map(|number| (f64::from(number) * 2f64.powi(exponent)) as f32)
    }

    proptest! {
        /// No code is further off than half a scale, the largest number's aside.
        #[test]
        fn eight_bits_are_the_nearest(
            numbers in prop::array::uniform32(-1f32..1f32), exponent in -100i32..100,
        ) {
            let numbers = sized(&numbers, exponent);
            let (back, rounding) = made(Bits::Eight, &numbers);
            let largest = numbers.iter().fold(0f32, |most, number| most.max(number.abs()));
            let half = largest / 127.0 * 0.5001;
            for (number, back) in numbers.iter().zip(&back) {
                prop_assert!((number - back).abs() <= half, "{number:e} {back:e}");
            }
            let expected = oracle::error(&numbers, &back);
            prop_assert!((rounding.error - expected).abs() <= expected * 1e-9);
        }

        /// The scale that others take is never better. The best of a thousand may be in
        /// one block of many; over all, it hardly is, as the next test has it.
        #[test]
        fn four_bits_have_a_good_scale(
            numbers in prop::array::uniform32(-1f32..1f32), exponent in -100i32..100,
        ) {
            let numbers = sized(&numbers, exponent);
            let (back, rounding) = made(Bits::Four, &numbers);
            let found = oracle::error(&numbers, &back);
            prop_assert!((rounding.error - found).abs() <= found * 1e-9);
            let best = oracle::least(&numbers);
            prop_assert!(found <= best * 3.0, "{found:e} against {best:e}");
            prop_assert!(found <= oracle::by_the_maximum(&numbers) * 1.0001);
        }

        #[test]
        fn any_bits_are_a_block(bits in prop::array::uniform32(any::<u32>()), four: bool) {
            let numbers = bits.map(f32::from_bits);
            let (back, rounding) = made(if four { Bits::Four } else { Bits::Eight }, &numbers);
            let infinite = numbers.iter().filter(|number| !number.is_finite()).count() as u64;
            prop_assert_eq!(rounding.not_finite, infinite);
            let overflowed = back.iter().filter(|number| !number.is_finite()).count() as u64;
            prop_assert_eq!(rounding.overflowed, overflowed);
        }
    }

    #[test]
    fn over_many_blocks_the_error_is_a_tenth_less_than_by_the_maximum() {
        let (mut ours, mut least, mut theirs) = (0.0, 0.0, 0.0);
        for numbers in oracle::normal_blocks(2000) {
            ours += made(Bits::Four, &numbers).1.error;
            least += oracle::least(&numbers);
            theirs += oracle::by_the_maximum(&numbers);
        }
        assert!(ours < 0.9 * theirs, "{ours} against {theirs}");
        assert!(ours < 1.02 * least, "{ours} against {least}");
    }

    #[test]
    fn the_smallest_and_the_largest_numbers() {
        for bits in Bits::ALL {
            let mut numbers = [0f32; LENGTH];
            let (back, rounding) = made(bits, &numbers);
            assert_eq!((back, rounding.changed), (numbers, 0));
            numbers[3] = f32::from_bits(5);
            assert!(made(bits, &numbers).0.iter().all(|number| number.is_finite()));
            (numbers[3], numbers[4]) = (f32::MAX, 1.1);
            let (back, _) = made(bits, &numbers);
            assert!(back[3] >= 0.9 * f32::MAX);
        }
    }
}

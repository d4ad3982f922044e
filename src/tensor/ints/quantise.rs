//! Numbers to integers: the nearest codes under a scale.
//!
//! Numbers that came from MXFP4 are told by being exact in it, and go the way of
//! [`from_mxfp4`]: what they become does not depend on how they were stored.

use super::{Bits, WHOLE, four_bit_candidates, four_bits, from_mxfp4, not_finite, pack};
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
        return from_mxfp4(bits, &block, codes);
    }
    // Between 1 and 2 at most, so that no scale leaves f32's range.
    let largest = numbers.iter().fold(0f32, |largest, number| largest.max(number.abs()));
    let exponent = (largest.to_bits() >> MANTISSA_BITS).max(1);
    let power = f32::from_bits((2 * ONE - exponent).max(1) << MANTISSA_BITS);
    let scaled = numbers.map(|number| number * power);
    let (scale, whole) = match bits {
        Bits::Eight => under(largest * power / 127.0, &scaled, |number| (number + WHOLE) - WHOLE),
        Bits::Four => under(best_of_four_bits(&scaled, largest * power), &scaled, four_bits),
    };
    let scale = scale / power;
    pack(bits, &whole, codes);
    (scale, compared(numbers, &whole.map(|whole| whole * scale)))
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

/// Of the scales that are tried, each moved to where least squares put it for its
/// codes `c`: `Σxc / Σc²`, which leaves an error of `Σx² − (Σxc)² / Σc²`.
fn best_of_four_bits(numbers: &[f32; LENGTH], largest: f32) -> f32 {
    let (mut best, mut scale) = (0.0, 1.0);
    for candidate in four_bit_candidates() {
        let inverse = candidate / largest;
        // In lanes, as the processor has them.
        let (mut products, mut squares) = ([0f32; 8], [0f32; 8]);
        for numbers in numbers.as_chunks::<8>().0 {
            for lane in 0..8 {
                let whole = four_bits(numbers[lane] * inverse);
                products[lane] += numbers[lane] * whole;
                squares[lane] += whole * whole;
            }
        }
        let [products, squares] = [products, squares].map(|lanes| lanes.iter().sum::<f32>());
        if products * products > best * squares {
            (best, scale) = (products * products / squares, products / squares);
        }
    }
    scale
}

/// What became of numbers; that a zero loses its sign is not counted.
fn compared(numbers: &[f32; LENGTH], back: &[f32; LENGTH]) -> Rounding {
    let mut rounding = Rounding { numbers: BLOCK, ..Rounding::default() };
    for (number, back) in numbers.iter().zip(back) {
        if !back.is_finite() {
            rounding.overflowed += 1;
            continue;
        }
        rounding.changed += u64::from(number != back);
        rounding.squares += f64::from(*number).powi(2);
        rounding.error += (f64::from(*number) - f64::from(*back)).powi(2);
    }
    rounding
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dequantise;
    use super::*;

    fn made(bits: Bits, numbers: &[f32; LENGTH]) -> ([f32; LENGTH], Rounding) {
        let mut codes = vec![0; bits.block_bytes() as usize];
        let (scale, rounding) = quantise(bits, numbers, &mut codes);
        (dequantise(bits, &codes, scale), rounding)
    }

    fn error(numbers: &[f32; LENGTH], back: &[f32; LENGTH]) -> f64 {
        let off = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
        numbers.iter().zip(back).map(off).sum()
    }

    /// By the formula alone: the largest magnitude, sign and all, becomes -8.
    fn by_the_maximum(numbers: &[f32; LENGTH]) -> f64 {
        let largest = numbers.iter().fold(0f64, |largest, number| {
            if f64::from(number.abs()) > largest.abs() { f64::from(*number) } else { largest }
        });
        let scale = largest / -8.0;
        let off = |number: &f32| {
            let code = (f64::from(*number) / scale).round().clamp(-8.0, 7.0);
            (f64::from(*number) - code * scale).powi(2)
        };
        numbers.iter().map(off).sum()
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
            let expected = error(&numbers, &back);
            prop_assert!((rounding.error - expected).abs() <= expected * 1e-9);
        }

        /// The best of a thousand scales is hardly better, and the one that others
        /// take never is.
        #[test]
        fn four_bits_have_a_good_scale(
            numbers in prop::array::uniform32(-1f32..1f32), exponent in -100i32..100,
        ) {
            let numbers = sized(&numbers, exponent);
            let (back, rounding) = made(Bits::Four, &numbers);
            let found = error(&numbers, &back);
            prop_assert!((rounding.error - found).abs() <= found * 1e-9);
            let largest = numbers.iter().fold(0f64, |most, number| most.max(f64::from(number.abs())));
            let under = |scale: f64| {
                let off = |number: &f32| {
                    let code = (f64::from(*number) / scale).round().clamp(-8.0, 7.0);
                    (f64::from(*number) - code * scale).powi(2)
                };
                numbers.iter().map(off).sum::<f64>()
            };
            let scales = (500..=1000).flat_map(|d| [1.0, -1.0].map(|sign| sign * largest * 100.0 / f64::from(d)));
            let best = scales.map(under).fold(f64::INFINITY, f64::min);
            prop_assert!(found <= best * 1.25, "{found:e} against {best:e}");
            prop_assert!(found <= by_the_maximum(&numbers) * 1.0001);
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
        let mut random = 1u32;
        let mut uniform = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(random) / f64::from(u32::MAX) - 0.5
        };
        // Twelve of them added up are as good as normal.
        let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() as f32;
        let (mut ours, mut theirs) = (0.0, 0.0);
        for _ in 0..2000 {
            let numbers = std::array::from_fn(|_| normal());
            ours += made(Bits::Four, &numbers).1.error;
            theirs += by_the_maximum(&numbers);
        }
        assert!(ours < 0.9 * theirs, "{ours} against {theirs}");
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

//! Numbers to MXFP4: the nearest codes under the best scale.
//!
//! Numbers that came from MXFP4 come back bit for bit. Wherever a block can be
//! written under some scale, it can be under the one that makes its largest
//! magnitude 4 or 6, because codes up to 3 can be doubled; so that scale is
//! tried first, and alone decides whether a block is exact.

use super::{BLOCK, Block, e8m0};
use crate::tensor::Rounding;

/// Numbers of a block.
const LENGTH: usize = BLOCK as usize;

/// The block with the least squared error, and how far off it is. Of scales that
/// are equally good the one that makes the largest magnitude 4 to 8 is taken, of
/// codes equally near the even one. Nothing overflows: beyond the largest scale's
/// grid its end is the nearest. A block with a number that is not finite comes out
/// as zeros.
pub fn quantise(numbers: &[f32; LENGTH]) -> (Block, Rounding) {
    let largest = numbers.iter().map(|number| number.to_bits() & MAGNITUDE).max().unwrap_or(0);
    if largest >= INFINITE {
        let not_finite = numbers.iter().filter(|number| !number.is_finite()).count() as u64;
        let rounding = Rounding { numbers: BLOCK, not_finite, ..Rounding::default() };
        return (Block { scale: ONE, codes: [0; LENGTH / 2] }, rounding);
    }
    let scale = usual_scale(largest);
    let usual = Rounded::new(numbers, scale);
    let best = match usual.is_exact(numbers) {
        true => usual,
        // Smaller scales cut off too much, larger ones have a coarser grid.
        false => [(scale + 1).min(LARGEST_SCALE), scale.saturating_sub(1)]
            .map(|scale| Rounded::new(numbers, scale))
            .into_iter()
            .fold(usual, |best, other| if other.error() < best.error() { other } else { best }),
    };
    (Block { scale: best.scale, codes: best.codes(numbers) }, best.rounding(numbers))
}

/// The block whose numbers these are bit for bit, where there is one.
pub fn exact(numbers: &[f32; LENGTH]) -> Option<Block> {
    // Most often a look at the bits tells: E2M1 has one bit of mantissa.
    let has_more = |number: &f32| number.is_normal() & (number.to_bits() & LOWER_BITS != 0);
    if numbers.iter().fold(false, |some, number| some | has_more(number)) {
        return None;
    }
    let largest = numbers.iter().map(|number| number.to_bits() & MAGNITUDE).max().unwrap_or(0);
    let rounded = Rounded::new(numbers, usual_scale(largest));
    let is_exact = largest < INFINITE && rounded.is_exact(numbers);
    is_exact.then(|| Block { scale: rounded.scale, codes: rounded.codes(numbers) })
}

/// The scale under which the largest magnitude, of these bits, is 4 to 8.
fn usual_scale(largest: u32) -> u8 {
    match largest {
        0 => ONE,
        bits => (bits >> MANTISSA_BITS).saturating_sub(2) as u8,
    }
}

const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITE: u32 = 0x7f80_0000;
const MANTISSA_BITS: u32 = 23;
/// All of the mantissa but for the first bit.
const LOWER_BITS: u32 = 0x003f_ffff;
/// The scale byte of 1.
const ONE: u8 = 127;
/// Under larger scales 6 is beyond f32.
pub const LARGEST_SCALE: u8 = 252;

/// A block's numbers divided by a scale, and the nearest E2M1 number of each.
struct Rounded {
    scale: u8,
    scaled: [f32; LENGTH],
    nearest: [f32; LENGTH],
}

impl Rounded {
    fn new(numbers: &[f32; LENGTH], scale: u8) -> Self {
        let inverse = e8m0(254 - scale);
        let scaled = numbers.map(|number| number * inverse);
        Self { scale, scaled, nearest: scaled.map(nearest) }
    }

    /// Whether the numbers come back bit for bit.
    fn is_exact(&self, numbers: &[f32; LENGTH]) -> bool {
        self.changed(numbers) == 0
    }

    fn changed(&self, numbers: &[f32; LENGTH]) -> u32 {
        let scale = e8m0(self.scale);
        let pairs = numbers.iter().zip(&self.nearest);
        pairs
            .map(|(number, nearest)| u32::from((nearest * scale).to_bits() != number.to_bits()))
            .sum()
    }

    /// The sum of squared errors, in squares of 2^-127.
    fn error(&self) -> f64 {
        let pairs = self.scaled.iter().zip(&self.nearest);
        let lost: f64 = pairs.map(|(scaled, nearest)| f64::from(scaled - nearest).powi(2)).sum();
        lost * 4f64.powi(self.scale.into())
    }

    fn codes(&self, numbers: &[f32; LENGTH]) -> [u8; LENGTH / 2] {
        let mut codes = [0; LENGTH];
        for ((code, nearest), number) in codes.iter_mut().zip(self.nearest).zip(numbers) {
            let magnitude = nearest.to_bits() & MAGNITUDE;
            // From 1 on, exponent and first mantissa bit count the codes up.
            let from_one = (magnitude >> (MANTISSA_BITS - 1)).wrapping_sub(0xfc);
            let below = u32::from(magnitude != 0);
            let magnitude = if magnitude >= 1f32.to_bits() { from_one } else { below };
            *code = (magnitude | (number.to_bits() >> 31) << 3) as u8;
        }
        std::array::from_fn(|at| codes[2 * at] | codes[2 * at + 1] << 4)
    }

    fn rounding(&self, numbers: &[f32; LENGTH]) -> Rounding {
        let changed = self.changed(numbers);
        let square = f64::from(e8m0(self.scale)).powi(2);
        Rounding {
            numbers: BLOCK,
            changed: changed.into(),
            squares: f64::from(sum_of_squares(&self.scaled)) * square,
            error: if changed == 0 { 0.0 } else { self.squared_error(numbers) },
            ..Rounding::default()
        }
    }

    /// [`Self::error`] in ones, from the numbers themselves: divided by the scale,
    /// one that is far below it is nothing.
    fn squared_error(&self, numbers: &[f32; LENGTH]) -> f64 {
        let scale = f64::from(e8m0(self.scale));
        let off =
            |(number, nearest): (&f32, &f32)| f64::from(*number) - f64::from(*nearest) * scale;
        numbers.iter().zip(&self.nearest).map(|pair| off(pair).powi(2)).sum()
    }
}

/// The nearest E2M1 number, the even one where two are: multiples of 1/2 up to 2,
/// of 1 up to 4, of 2 up to 6.
fn nearest(number: f32) -> f32 {
    let magnitude = number.abs();
    let step = if magnitude < 2.0 {
        0.5
    } else if magnitude < 4.0 {
        1.0
    } else {
        2.0
    };
    // Adding this leaves no mantissa bits for less than a step.
    let shift = step * 1.5 * (1u32 << MANTISSA_BITS) as f32;
    let rounded = (magnitude + shift) - shift;
    rounded.min(6.0).copysign(number)
}

/// In lanes, as the processor has them: the order of the sum is part of the result.
fn sum_of_squares(numbers: &[f32; LENGTH]) -> f32 {
    let mut lanes = [0f32; 8];
    for eight in numbers.chunks_exact(8) {
        lanes.iter_mut().zip(eight).for_each(|(lane, number)| *lane += number * number);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{E2M1, dequantise};
    use super::*;

    /// The least error under one scale, by trying every code.
    fn least_error(numbers: &[f32; LENGTH], scale: u8) -> f64 {
        let scale = 2f64.powi(i32::from(scale) - 127);
        // A value that f32 does not hold is infinity to whoever reads it.
        let values = E2M1.map(|code| f64::from(code) * scale);
        let off = |number: f32| {
            let held = values.iter().filter(|value| value.abs() <= f64::from(f32::MAX));
            held.map(|value| (f64::from(number) - value).powi(2)).fold(f64::INFINITY, f64::min)
        };
        numbers.iter().map(|number| off(*number)).sum()
    }

    /// Numbers below 2^exponent; with some much smaller, smaller scales pay.
    fn scaled(numbers: &[f32; LENGTH], exponent: i32, sparse: u32) -> [f32; LENGTH] {
        let small = |at: usize| if sparse >> at & 1 == 1 { 0.05 } else { 1.0 };
        let scaled = |at: usize| f64::from(numbers[at] * small(at)) * 2f64.powi(exponent);
        std::array::from_fn(|at| scaled(at) as f32)
    }

    fn check_nearest(numbers: [f32; LENGTH]) {
        let (block, rounding) = quantise(&numbers);
        let best =
            (0..=254).map(|scale| least_error(&numbers, scale)).fold(f64::INFINITY, f64::min);
        let found = error_of(&numbers, &block);
        assert!(found <= best * 1.0001, "{found:e} against {best:e}");
        assert!((rounding.error - found).abs() <= found * 1e-4, "{:e}, {found:e}", rounding.error);
        let squares: f64 = numbers.iter().map(|number| f64::from(*number).powi(2)).sum();
        assert!((rounding.squares - squares).abs() <= squares * 1e-5, "{:e}", rounding.squares);
    }

    fn error_of(numbers: &[f32; LENGTH], block: &Block) -> f64 {
        let pairs = numbers.iter().zip(dequantise(block));
        pairs.map(|(number, back)| (f64::from(*number) - f64::from(back)).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn what_came_from_mxfp4_comes_back(codes: [u8; 16], scale in 0u8..=252) {
            let numbers = dequantise(&Block { scale, codes });
            let (block, rounding) = quantise(&numbers);
            prop_assert_eq!(dequantise(&block).map(f32::to_bits), numbers.map(f32::to_bits));
            prop_assert_eq!((rounding.numbers, rounding.changed, rounding.error), (32, 0, 0.0));
        }

        #[test]
        fn no_scale_and_no_codes_are_nearer(
            numbers in prop::array::uniform32(-1f32..1f32), exponent in -100i32..100, sparse: u32,
        ) {
            check_nearest(scaled(&numbers, exponent, sparse));
        }

        /// Where the scale that would be taken is not one that there is: around 0,
        /// with subnormal numbers, and 252.
        #[test]
        fn nor_at_the_ends_of_all_scales(
            numbers in prop::array::uniform32(-1f32..1f32),
            exponent in prop_oneof![-148i32..=-118, 122i32..=128],
            sparse: u32,
        ) {
            check_nearest(scaled(&numbers, exponent, sparse));
        }

        #[test]
        fn any_bits_are_a_block(bits in prop::array::uniform32(any::<u32>())) {
            let numbers = bits.map(f32::from_bits);
            let (block, rounding) = quantise(&numbers);
            let not_finite = numbers.iter().filter(|number| !number.is_finite()).count() as u64;
            prop_assert_eq!((rounding.not_finite, rounding.overflowed), (not_finite, 0));
            prop_assert!(dequantise(&block).iter().all(|number| number.is_finite()));
        }
    }

    #[test]
    fn halves_go_to_the_even_code() {
        let mut numbers = [0f32; 32];
        numbers[..8].copy_from_slice(&[6.0, 0.25, 0.75, -1.25, 1.75, 2.5, -3.5, 5.0]);
        let back = dequantise(&quantise(&numbers).0);
        assert_eq!(back[..8], [6.0, 0.0, 1.0, -1.0, 2.0, 2.0, -4.0, 4.0]);
    }

    /// Not even one that is nothing beside the scale.
    #[test]
    fn no_change_is_without_an_error() {
        let mut numbers = [0f32; 32];
        numbers[..2].copy_from_slice(&[6.0 * 2f32.powi(100), f32::from_bits(1)]);
        let (_, rounding) = quantise(&numbers);
        assert_eq!((rounding.changed, rounding.error), (1, 2f64.powi(-298)));
        assert!(rounding.relative_error() > 0.0);
    }

    #[test]
    fn a_block_of_zeros_keeps_its_signs() {
        let numbers: [f32; 32] = std::array::from_fn(|at| if at % 3 == 0 { -0.0 } else { 0.0 });
        let (block, rounding) = quantise(&numbers);
        assert_eq!(dequantise(&block).map(f32::to_bits), numbers.map(f32::to_bits));
        assert_eq!((block.scale, rounding.changed), (127, 0));
    }
}

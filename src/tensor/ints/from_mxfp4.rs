//! MXFP4 to integers, by tables: a block holds sixteen different numbers at most, so
//! what a scale makes of it follows from how often each code is there.

use std::sync::LazyLock;

use super::{Bits, four_bit_candidates, four_bits, quantise};
use crate::tensor::Rounding;
use crate::tensor::mxfp4::{self, BLOCK, Block, E2M1, e8m0};

/// Writes the codes of a block and returns its scale, and how far off it is. Integers
/// of 8 bits are exact: twice E2M1's numbers, under half the scale.
pub fn from_mxfp4(bits: Bits, block: &Block, codes: &mut [u8]) -> (f32, Rounding) {
    if block.scale > mxfp4::LARGEST_SCALE {
        return quantise(bits, &mxfp4::dequantise(block), codes);
    }
    let count = counted(&block.codes);
    let (scale, table) = match bits {
        Bits::Eight => (0.5 * e8m0(block.scale), E2M1.map(|number| 2.0 * number)),
        Bits::Four => {
            let unscaled = best_scale(&count);
            (unscaled * e8m0(block.scale), E2M1.map(|number| four_bits(number / unscaled)))
        }
    };
    let code = table.map(|whole| (whole + f32::from(bits.zero())) as u8);
    let [low, high] =
        [0, 4].map(|shift| block.codes.map(|byte| code[usize::from(byte >> shift & 15)]));
    match bits {
        Bits::Four => (0..16).for_each(|at| codes[at] = low[at] | high[at] << 4),
        Bits::Eight => {
            (0..16).for_each(|at| [codes[2 * at], codes[2 * at + 1]] = [low[at], high[at]])
        }
    }
    (scale, compared(&count, block.scale, &table.map(|whole| whole * scale)))
}

/// How often each code is in a block.
fn counted(codes: &[u8; 16]) -> [f32; 16] {
    /// For each byte a one in the place of each of its codes.
    static ONES: LazyLock<[u128; 256]> = LazyLock::new(|| {
        std::array::from_fn(|byte| (1 << (8 * (byte & 15))) + (1 << (8 * (byte >> 4))))
    });
    let ones = &*ONES;
    let sum: u128 = codes.iter().map(|byte| ones[usize::from(*byte)]).sum();
    sum.to_le_bytes().map(f32::from)
}

/// For each code, what one of it adds to `Σxc` and `Σc²` under each scale that is
/// tried, where the largest magnitude of the block is a certain one.
struct Table {
    products: [[f32; 12]; 16],
    squares: [[f32; 12]; 16],
}

impl Table {
    fn new(largest: f32) -> Self {
        let whole = |number: f32| {
            four_bit_candidates().map(|candidate| four_bits(number * candidate / largest))
        };
        Self {
            products: E2M1.map(|number| whole(number).map(|whole| number * whole)),
            squares: E2M1.map(|number| whole(number).map(|whole| whole * whole)),
        }
    }
}

/// The scale, of numbers without their own, with the least squared error.
fn best_scale(count: &[f32; 16]) -> f32 {
    static TABLES: LazyLock<[Table; 8]> = LazyLock::new(|| {
        // A block of zeros has no use for it.
        std::array::from_fn(|code| Table::new(E2M1[code.max(1)]))
    });
    let largest = (1..8).rev().find(|code| count[*code] + count[code + 8] > 0.0);
    let Some(largest) = largest else { return 1.0 };
    let table = &TABLES[largest];
    let (mut products, mut squares) = ([0f32; 12], [0f32; 12]);
    for (code, count) in count.iter().enumerate() {
        for at in 0..12 {
            products[at] += count * table.products[code][at];
            squares[at] += count * table.squares[code][at];
        }
    }
    // All are small multiples of 1/2, so these sums are exact.
    let gains: [f32; 12] = std::array::from_fn(|at| products[at] * products[at] / squares[at]);
    let best = (0..12).fold(0, |best, at| if gains[at] > gains[best] { at } else { best });
    products[best] / squares[best]
}

/// What became of so many numbers of each code; that a zero loses its sign is not
/// counted.
fn compared(count: &[f32; 16], scale: u8, back: &[f32; 16]) -> Rounding {
    let scale = e8m0(scale);
    let mut rounding = Rounding { numbers: BLOCK, ..Rounding::default() };
    let mut changed = 0.0;
    for code in 0..16 {
        let (number, times) = (E2M1[code] * scale, f64::from(count[code]));
        let off = f64::from(number) - f64::from(back[code]);
        changed += if off == 0.0 { 0.0 } else { times };
        rounding.squares += times * f64::from(number).powi(2);
        rounding.error += times * off * off;
    }
    rounding.changed = changed as u64;
    rounding
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dequantise;
    use super::*;

    fn made(bits: Bits, block: &Block) -> (Vec<u8>, f32, Rounding) {
        let mut codes = vec![0; bits.block_bytes() as usize];
        let (scale, rounding) = from_mxfp4(bits, block, &mut codes);
        (codes, scale, rounding)
    }

    proptest! {
        #[test]
        fn eight_bits_are_exact(codes: [u8; 16], scale in 0u8..=252) {
            let block = Block { scale, codes };
            let (codes, scale, rounding) = made(Bits::Eight, &block);
            prop_assert_eq!(dequantise(Bits::Eight, &codes, scale), mxfp4::dequantise(&block));
            prop_assert!(rounding.is_lossless() && rounding.error == 0.0);
        }

        /// Against every scale from far too small to far too large, by trying them.
        #[test]
        fn four_bits_have_the_best_scale(codes: [u8; 16], scale in 60u8..=190) {
            let block = Block { scale, codes };
            let numbers = mxfp4::dequantise(&block).map(f64::from);
            let (codes, scale, rounding) = made(Bits::Four, &block);
            let back = dequantise(Bits::Four, &codes, scale).map(f64::from);
            let found: f64 = numbers.iter().zip(back).map(|(a, b)| (a - b).powi(2)).sum();
            let largest = numbers.iter().fold(0f64, |most, number| most.max(number.abs()));
            let under = |scale: f64| {
                let off = |number: &f64| {
                    (number - (number / scale).round().clamp(-8.0, 7.0) * scale).powi(2)
                };
                numbers.iter().map(off).sum::<f64>()
            };
            let scales = (500..=1000).flat_map(|d| [1.0, -1.0].map(|sign| sign * largest * 100.0 / f64::from(d)));
            let best = scales.map(under).fold(f64::INFINITY, f64::min);
            let squares: f64 = numbers.iter().map(|number| number * number).sum();
            prop_assert!(found <= best * 1.02 + 1e-9 * squares, "{found:e} against {best:e}");
            prop_assert!((rounding.error - found).abs() <= 1e-9 * squares);
            prop_assert!((rounding.squares - squares).abs() <= 1e-9 * squares);
        }

        /// Whichever way they come, the same numbers become the same codes.
        #[test]
        fn numbers_that_came_from_mxfp4_are_told(codes: [u8; 16], scale in 0u8..=252, four: bool) {
            let bits = if four { Bits::Four } else { Bits::Eight };
            let block = Block { scale, codes };
            let (expected, scale, _) = made(bits, &block);
            let mut codes = vec![0; bits.block_bytes() as usize];
            let (found, _) = quantise(bits, &mxfp4::dequantise(&block), &mut codes);
            let numbers = |codes: &[u8], scale| dequantise(bits, codes, scale);
            prop_assert_eq!(numbers(&codes, found), numbers(&expected, scale));
        }
    }

    #[test]
    fn a_scale_that_is_not_a_number_is_told() {
        for (scale, infinite) in [(255, 32), (254, 32), (253, 32), (252, 0)] {
            let block = Block { scale, codes: [0x77; 16] };
            let (_, _, rounding) = made(Bits::Four, &block);
            assert_eq!(rounding.not_finite, infinite, "{scale}");
        }
    }
}

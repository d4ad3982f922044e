//! MXFP4 to integers of 4 bits, many blocks at once: each step is a loop over all of
//! them, compiled for each set of instructions that a processor may have.

use std::array;
use std::sync::LazyLock;

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x16};
use fearless_simd_macros::simd;

use super::TOGETHER;
use super::ways::{Choices, Sums, TWICE, WAYS, Way};
use crate::tensor::Rounding;
use crate::tensor::mxfp4::{BLOCK, Blocks, E2M1, e8m0};

/// The codes of a block, those that it has and those that it gets.
pub type Codes = [u8; BLOCK as usize / 2];

/// Writes the codes and scales of at most [`TOGETHER`] blocks, whose own scales must leave
/// all numbers finite. Under scales below `SMALLEST_SCALE` codes and scales hold, and what
/// is said of rounding does not.
pub fn four(blocks: Blocks, codes: &mut [Codes], scales: &mut [f32]) -> Rounding {
    four_on(Level::new(), blocks, codes, scales)
}

fn four_on(level: Level, blocks: Blocks, codes: &mut [Codes], scales: &mut [f32]) -> Rounding {
    // By the code of the largest magnitude.
    static CHOICES: LazyLock<[Choices; 8]> =
        LazyLock::new(|| array::from_fn(|code| Choices::new(E2M1[code])));
    dispatch!(level, simd => in_steps(simd, &CHOICES, blocks, codes, scales))
}

/// What is known of a block on its way.
#[derive(Clone, Copy, Default)]
struct Known {
    sums: Sums,
    /// The code of the largest magnitude.
    largest: u8,
    /// The way that is taken.
    way: u8,
}

impl Known {
    /// `Σxc` and `Σc²` of the way, and `Σx²`.
    fn sums(&self) -> [i16; 3] {
        let Sums { products, squares } = &self.sums;
        let way = usize::from(self.way) % products.len();
        [products[way], squares[way], products[WAYS]]
    }

    fn way<'c>(&self, choices: &'c [Choices; 8]) -> &'c Way {
        &choices[usize::from(self.largest) % 8].ways[usize::from(self.way) % 8]
    }
}

#[simd]
fn in_steps<S: Simd>(
    simd: S,
    choices: &[Choices; 8],
    blocks: Blocks,
    codes: &mut [Codes],
    scales: &mut [f32],
) -> Rounding {
    let mut known = [Known::default(); TOGETHER];
    let known = &mut known[..blocks.codes.len()];
    find_largest(simd, blocks.codes, known);
    add_up(simd, choices, blocks.codes, known);
    choose(simd, known);
    let kept = give_codes(simd, choices, blocks.codes, known, codes);
    let (squares, error) = give_scales(simd, blocks.scales, known, scales);
    let numbers = BLOCK * known.len() as u64;
    Rounding { numbers, changed: numbers - kept, squares, error, ..Rounding::default() }
}

#[simd]
fn find_largest<S: Simd>(simd: S, from: &[Codes], known: &mut [Known]) {
    for (known, codes) in known.iter_mut().zip(from) {
        let codes = u8x16::from_slice(simd, codes);
        known.largest = (codes & 7).max((codes >> 4) & 7).reduce_max();
    }
}

#[simd]
fn add_up<S: Simd>(_: S, choices: &[Choices; 8], from: &[Codes], known: &mut [Known]) {
    for (known, codes) in known.iter_mut().zip(from) {
        let of_bytes = &choices[usize::from(known.largest) % 8].sums;
        let mut sums = Sums::default();
        for byte in codes {
            let Sums { products, squares } = &of_bytes[usize::from(*byte)];
            sums.products.iter_mut().zip(products).for_each(|(sum, one)| *sum += one);
            sums.squares.iter_mut().zip(squares).for_each(|(sum, one)| *sum += one);
        }
        known.sums = sums;
    }
}

/// The way with the least squared error, `Σx² − (Σxc)² / Σc²`.
#[simd]
fn choose<S: Simd>(_: S, known: &mut [Known]) {
    for Known { sums, way, .. } in known {
        let (products, squares) = (sums.products.map(f32::from), sums.squares.map(f32::from));
        let mut gains = [0f32; 8];
        for at in 0..WAYS {
            gains[at] = products[at] * products[at] / squares[at].max(1.0);
        }
        // Their lowest bits tell the way. As integers, floats are in the same order.
        let mut tagged = [0u32; 8];
        for at in 0..WAYS {
            tagged[at] = gains[at].to_bits() & !7 | at as u32;
        }
        *way = tagged.into_iter().max().unwrap_or(0) as u8 & 7;
    }
}

/// How many numbers stay as they are is returned: those that are the scale times their
/// code, which is so where `x · Σc²` is `c · Σxc`. Both are below 2¹⁵: `|x|` is 12 at most,
/// `Σc²` 32 · 8², `|c|` 8 and `|Σxc|` 32 · 12 · 8.
#[simd]
fn give_codes<S: Simd>(
    simd: S,
    choices: &[Choices; 8],
    from: &[Codes],
    known: &[Known],
    codes: &mut [Codes],
) -> u64 {
    let mut all_kept = 0;
    for ((known, from), codes) in known.iter().zip(from).zip(codes) {
        let Way { whole, stored } = known.way(choices);
        let from = u8x16::from_slice(simd, from);
        let (first, second) = (from & 15, from >> 4);
        let stored = u8x16::from_slice(simd, stored);
        (stored.swizzle_dyn(first) | (stored.swizzle_dyn(second) << 4)).store_slice(codes);
        let [products, squares, _] = known.sums();
        let mut kept = [0u8; 16];
        for code in 0..16 {
            kept[code] =
                u8::from(TWICE[code].wrapping_mul(squares) == whole[code].wrapping_mul(products));
        }
        let kept = u8x16::from_slice(simd, &kept);
        let kept = kept.swizzle_dyn(first) + kept.swizzle_dyn(second);
        all_kept += u64::from(kept.reduce_sum());
    }
    all_kept
}

/// Scales are those of least squares: `Σxc / Σc²`, times half of the block's own. The
/// sums of the squares of numbers and of what they are off by are returned.
#[simd]
fn give_scales<S: Simd>(_: S, own: &[u8], known: &[Known], scales: &mut [f32]) -> (f64, f64) {
    let (mut all_squares, mut all_error) = (0.0, 0.0);
    for ((known, own), scale) in known.iter().zip(own).zip(scales) {
        let [products, squares, all] = known.sums().map(f32::from);
        let (squares, half) = (squares.max(1.0), e8m0(*own) / 2.0);
        *scale = products / squares * half;
        // Whole numbers below 2²⁴ until they are divided.
        let error = (all * squares - products * products) / squares;
        let unit = f64::from(half).powi(2);
        all_squares += f64::from(all) * unit;
        all_error += f64::from(error) * unit;
    }
    (all_squares, all_error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Bit for bit, with the oldest instructions that may be met and with this machine's.
        #[test]
        fn any_instructions_make_the_same(
            blocks in prop::collection::vec((32u8..=252, any::<[u8; 16]>()), 1..=TOGETHER),
        ) {
            let (scales, codes): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
            let made = |level| {
                let mut made = (vec![[0; 16]; codes.len()], vec![0.0; codes.len()]);
                let blocks = Blocks { scales: &scales, codes: &codes };
                let rounding = four_on(level, blocks, &mut made.0, &mut made.1);
                (made, rounding)
            };
            prop_assert_eq!(made(Level::new()), made(Level::baseline()));
        }
    }
}

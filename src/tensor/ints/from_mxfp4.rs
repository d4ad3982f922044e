//! MXFP4 to integers: a few table look-ups per block, compiled for each instruction set that
//! a processor may have. Plain loops, in which the compiler finds no shuffles, take twice as
//! long for an export to int4.

use std::array;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x16};

use super::block::{self, Bits, compare};
use super::codebook::{Codebooks, TWICE};
use crate::mxfp4::{self, Block, Blocks, E2M1, LARGEST_SCALE, dequantize, e8m0, sum_of_squares};
use crate::{BLOCK, BLOCK_LENGTH, Rounding};

/// Statistics are added up over so many blocks before they are added to the total, which
/// keeps the rounding error of long sums small.
const BATCH: usize = 64;

/// Under smaller scales the product of an integer and its scale may not be exact in f32,
/// under larger ones it may not be finite.
const EXACT_SCALES: RangeInclusive<u8> = 32..=LARGEST_SCALE;

/// Writes the codes of blocks, [`Bits::block_bytes`] each, and their scales. 8-bit integers
/// are exact. The squared error of 4-bit integers is within a thousandth of the least
/// possible, over many blocks.
pub fn from_mxfp4(bits: Bits, blocks: Blocks, codes: &mut [u8], scales: &mut [f32]) -> Rounding {
    from_mxfp4_at(Level::new(), bits, blocks, codes, scales)
}

/// With the instructions of a level; the results are the same at every level.
pub fn from_mxfp4_at(
    level: Level,
    bits: Bits,
    blocks: Blocks,
    codes: &mut [u8],
    scales: &mut [f32],
) -> Rounding {
    /// By the E2M1 code of the largest magnitude.
    static CODEBOOKS: LazyLock<[Codebooks; 8]> =
        LazyLock::new(|| array::from_fn(|code| Codebooks::new(E2M1[code])));
    let count = blocks.scales.len();
    assert_eq!([codes.len(), scales.len()], [count * bits.block_bytes() as usize, count]);
    dispatch!(level, simd => simd.vectorize(#[inline(always)] || match bits {
        Bits::Four => {
            let int4 = |block: &_, codes: &mut _| int4(simd, &CODEBOOKS, block, codes);
            convert(bits, blocks, codes.as_chunks_mut().0, scales, int4)
        }
        Bits::Eight => {
            let int8 = |block: &_, codes: &mut _| int8(simd, block, codes);
            convert(bits, blocks, codes.as_chunks_mut().0, scales, int8)
        }
    }))
}

#[inline(always)]
fn convert<const BYTES: usize>(
    bits: Bits,
    blocks: Blocks,
    codes: &mut [[u8; BYTES]],
    scales: &mut [f32],
    convert_one: impl Fn(&Block, &mut [u8; BYTES]) -> (f32, Rounding),
) -> Rounding {
    let mut total = Rounding::default();
    let batches = blocks.chunks(BATCH).zip(codes.chunks_mut(BATCH)).zip(scales.chunks_mut(BATCH));
    for ((blocks, codes), scales) in batches {
        let mut sum = Rounding::default();
        for ((mut block, codes), scale) in blocks.iter().zip(codes).zip(scales) {
            if block.scale > LARGEST_SCALE {
                block = with_smaller_scale(block);
            }
            let mut rounding;
            (*scale, rounding) = convert_one(&block, codes);
            if !EXACT_SCALES.contains(&block.scale) {
                rounding = compare_decoded(bits, &block, codes, *scale);
            }
            sum += rounding;
        }
        total += sum;
    }
    total
}

/// The same block, if it is finite.
#[cold]
fn with_smaller_scale(block: Block) -> Block {
    let values = dequantize(&block);
    let is_finite = values.iter().all(|value| value.is_finite());
    if is_finite { mxfp4::exact(&values).unwrap_or(block) } else { block }
}

#[cold]
fn compare_decoded(bits: Bits, block: &Block, codes: &[u8], scale: f32) -> Rounding {
    compare(&dequantize(block), &block::dequantize(bits, codes, scale))
}

#[inline(always)]
fn int4<S: Simd>(
    simd: S,
    codebooks: &[Codebooks; 8],
    block: &Block,
    codes: &mut [u8; BLOCK_LENGTH / 2],
) -> (f32, Rounding) {
    let pairs = u8x16::from_slice(simd, &block.codes);
    let [first, second] = [pairs & 15, pairs >> 4];
    let largest = (first & 7).max(second & 7).reduce_max();
    let codebooks = &codebooks[usize::from(largest) % 8];
    let (codebook, [products, squares, all]) = codebooks.best(&block.codes);
    let stored = u8x16::from_slice(simd, &codebook.stored);
    (stored.swizzle_dyn(first) | stored.swizzle_dyn(second) << 4).store_slice(codes);

    // A value is unchanged where it is the fitted scale times its integer, `Σxc / Σc² · c`.
    let mut unchanged = [0; 16];
    for code in 0..16 {
        unchanged[code] = u8::from(TWICE[code] * squares == codebook.ints[code] * products);
    }
    let unchanged = u8x16::from_slice(simd, &unchanged);
    let unchanged = unchanged.swizzle_dyn(first) + unchanged.swizzle_dyn(second);

    // All three sums are whole and exact until they are divided.
    let [products, squares, all] = [products, squares.max(1), all].map(f32::from);
    let half = e8m0(block.scale) / 2.0;
    let scale = products / squares * half;
    let error = (all * squares - products * products) / squares;
    let unit = f64::from(half).powi(2);
    let rounding = Rounding {
        values: BLOCK,
        changed: BLOCK - u64::from(unchanged.reduce_sum()),
        squares: f64::from(all) * unit,
        error: f64::from(error) * unit,
        ..Rounding::default()
    };
    (scale, rounding)
}

/// Twice the E2M1 values, under half the scale.
#[inline(always)]
fn int8<S: Simd>(simd: S, block: &Block, codes: &mut [u8; BLOCK_LENGTH]) -> (f32, Rounding) {
    let stored = TWICE.map(|twice| (twice + i16::from(Bits::Eight.zero())) as u8);
    let stored = u8x16::from_slice(simd, &stored);
    let pairs = u8x16::from_slice(simd, &block.codes);
    let (low, high) = stored.swizzle_dyn(pairs & 15).interleave(stored.swizzle_dyn(pairs >> 4));
    low.combine(high).store_slice(codes);
    let squares = sum_of_squares(block);
    (e8m0(block.scale) / 2.0, Rounding { values: BLOCK, squares, ..Rounding::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_the_same_at_every_level() {
        let scales: Vec<u8> = (0..=u8::MAX).flat_map(|scale| [scale; BATCH + 1]).collect();
        let mixed = |at: usize| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
        let codes: Vec<u8> = (0..scales.len() * BLOCK_LENGTH / 2).map(mixed).collect();
        let blocks = Blocks { scales: &scales, codes: codes.as_chunks().0 };
        for bits in Bits::ALL {
            let [best, baseline] = [Level::new(), Level::baseline()].map(|level| {
                let mut codes = vec![0; scales.len() * bits.block_bytes() as usize];
                let mut made = vec![0.0; scales.len()];
                let rounding = from_mxfp4_at(level, bits, blocks, &mut codes, &mut made);
                (codes, made.into_iter().map(f32::to_bits).collect::<Vec<_>>(), rounding)
            });
            assert!(best == baseline, "{bits}");
        }
    }
}

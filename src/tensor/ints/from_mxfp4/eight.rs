//! MXFP4 to integers of 8 bits, which are exact: twice E2M1's numbers, under half the
//! scale.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x16};
use fearless_simd_macros::simd;

use super::ways::TWICE;
use super::{Bits, Rounding};
use crate::tensor::mxfp4::{BLOCK, Blocks, e8m0};

/// Writes the codes and scales of blocks whose own scales leave all numbers finite.
pub fn eight(blocks: Blocks, codes: &mut [[u8; BLOCK as usize]], scales: &mut [f32]) -> Rounding {
    dispatch!(Level::new(), simd => convert(simd, blocks, codes, scales))
}

#[simd]
fn convert<S: Simd>(
    simd: S,
    blocks: Blocks,
    codes: &mut [[u8; BLOCK as usize]],
    scales: &mut [f32],
) -> Rounding {
    let table = |of: fn(i16) -> i16| u8x16::from_slice(simd, &TWICE.map(|twice| of(twice) as u8));
    let stored = table(|twice| twice + i16::from(Bits::Eight.zero()));
    let magnitudes = table(i16::abs);
    let mut all_squares = 0.0;
    for (((own, from), codes), scale) in
        blocks.scales.iter().zip(blocks.codes).zip(codes).zip(scales)
    {
        let from = u8x16::from_slice(simd, from);
        let nibbles = [from & 15, from >> 4];
        let [first, second] = nibbles.map(|codes| stored.swizzle_dyn(codes));
        let (low, high) = first.interleave(second);
        low.combine(high).store_slice(codes);
        let squares = nibbles.map(|codes| {
            let magnitudes = magnitudes.swizzle_dyn(codes);
            magnitudes.pairwise_dot_product(magnitudes).reduce_sum()
        });
        let half = e8m0(*own) / 2.0;
        *scale = half;
        all_squares += f64::from(squares[0] + squares[1]) * f64::from(half).powi(2);
    }
    let numbers = BLOCK * blocks.codes.len() as u64;
    Rounding { numbers, squares: all_squares, ..Rounding::default() }
}

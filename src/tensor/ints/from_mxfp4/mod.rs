//! MXFP4 to integers, by what each of its few numbers becomes.

mod eight;
mod four;
mod ways;

use super::{Bits, dequantise, quantise, rounding};
use crate::tensor::Rounding;
use crate::tensor::mxfp4::{self, Block, Blocks, LARGEST_SCALE};
use eight::eight;
use four::four;

/// At most so many blocks are converted together: what one step leaves for the next stays
/// in the processor's nearest cache.
const TOGETHER: usize = 64;
/// Under smaller ones a code times its scale may need more bits than f32 has so close to
/// zero, and what is lost is not what sums tell.
const SMALLEST_SCALE: u8 = 32;

/// Writes the codes of blocks and their scales, and returns how far off they are.
/// Integers of 8 bits are exact: twice E2M1's numbers, under half the scale. Of many
/// blocks in 4 bits the squared error is within a thousandth of what the best scales
/// leave. A block has [`Bits::block_bytes`] of codes, and a scale.
pub fn from_mxfp4(bits: Bits, blocks: Blocks, codes: &mut [u8], scales: &mut [f32]) -> Rounding {
    let mut rounding = Rounding::default();
    let count = blocks.scales.len();
    assert_eq!([codes.len(), scales.len()], [count * bits.block_bytes() as usize, count]);
    let codes = codes.chunks_mut(TOGETHER * bits.block_bytes() as usize);
    for ((blocks, codes), scales) in
        blocks.chunks(TOGETHER).zip(codes).zip(scales.chunks_mut(TOGETHER))
    {
        let usual = |scale: &u8| (SMALLEST_SCALE..=LARGEST_SCALE).contains(scale);
        if blocks.scales.iter().all(usual) {
            rounding += together(bits, blocks, codes, scales);
            continue;
        }
        let codes = codes.chunks_mut(bits.block_bytes() as usize);
        for ((block, codes), scale) in blocks.iter().zip(codes).zip(scales) {
            let (made, off) = one(bits, &block, codes);
            *scale = made;
            rounding += off;
        }
    }
    rounding
}

fn together(bits: Bits, blocks: Blocks, codes: &mut [u8], scales: &mut [f32]) -> Rounding {
    match bits {
        Bits::Four => four(blocks, codes.as_chunks_mut().0, scales),
        Bits::Eight => eight(blocks, codes.as_chunks_mut().0, scales),
    }
}

/// The same of one block; its scale is returned.
pub fn one(bits: Bits, block: &Block, codes: &mut [u8]) -> (f32, Rounding) {
    if block.scale > LARGEST_SCALE {
        return quantise(bits, &mxfp4::dequantise(block), codes);
    }
    let blocks = Blocks { scales: &[block.scale], codes: &[block.codes] };
    let mut scale = [0.0];
    let mut off = together(bits, blocks, codes, &mut scale);
    if block.scale < SMALLEST_SCALE {
        off = rounding(&mxfp4::dequantise(block), &dequantise(bits, codes, scale[0]));
    }
    (scale[0], off)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::oracle;
    use super::*;

    fn made(bits: Bits, block: &Block) -> (Vec<u8>, f32, Rounding) {
        let mut codes = vec![0; bits.block_bytes() as usize];
        let (scale, rounding) = one(bits, block, &mut codes);
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

        /// Whatever is said of them is what a look at them says.
        #[test]
        fn four_bits_are_off_as_they_say(codes: [u8; 16], scale in 0u8..=252) {
            let block = Block { scale, codes };
            let numbers = mxfp4::dequantise(&block);
            let (codes, scale, rounding) = made(Bits::Four, &block);
            let back = dequantise(Bits::Four, &codes, scale);
            let changed = numbers.iter().zip(&back).filter(|(number, back)| number != back);
            prop_assert_eq!((rounding.numbers, rounding.changed), (32, changed.count() as u64));
            let (found, squares) = (oracle::error(&numbers, &back), oracle::error(&numbers, &[0.0; 32]));
            // Products are rounded to f32 when they are read.
            prop_assert!((rounding.error - found).abs() <= 1e-7 * squares);
            prop_assert!((rounding.squares - squares).abs() <= 1e-9 * squares);
            prop_assert!(block.scale < 32 || found <= oracle::by_the_maximum(&numbers) + 1e-9 * squares);
        }

        /// One block after the other is what many at once are.
        #[test]
        fn many_blocks_are_each_of_them(
            blocks in prop::collection::vec((0u8..=255, any::<[u8; 16]>()), 0..200),
            usual: bool, four: bool,
        ) {
            let bits = if four { Bits::Four } else { Bits::Eight };
            let scale = |scale| if usual { 100 + scale % 30 } else { scale };
            let (scales, codes): (Vec<_>, Vec<_>) =
                blocks.into_iter().map(|(of, codes)| (scale(of), codes)).unzip();
            let blocks = Blocks { scales: &scales, codes: &codes };
            let mut many = (vec![0; scales.len() * bits.block_bytes() as usize], vec![0.0; scales.len()]);
            let rounding = from_mxfp4(bits, blocks, &mut many.0, &mut many.1);
            let (mut each, mut sum) = ((vec![], vec![]), Rounding::default());
            for block in blocks.iter() {
                let (codes, scale, rounding) = made(bits, &block);
                each.0.extend(codes);
                each.1.push(scale);
                sum += rounding;
            }
            prop_assert_eq!(many, each);
            for (found, expected) in [(rounding.squares, sum.squares), (rounding.error, sum.error)] {
                prop_assert!((found - expected).abs() <= 1e-12 * expected, "{found:e} {expected:e}");
            }
            let counts = |rounding| Rounding { squares: 0.0, error: 0.0, ..rounding };
            prop_assert_eq!(counts(rounding), counts(sum));
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

    /// Of random codes, and of those that normally distributed numbers have.
    #[test]
    fn four_bits_are_the_best_but_for_a_thousandth_and_a_tenth_less_off_than_by_the_maximum() {
        let random = oracle::normal_blocks(2000).map(|numbers| Block {
            scale: 120,
            codes: std::array::from_fn(|at| numbers[at].to_bits() as u8),
        });
        let normal = oracle::normal_blocks(2000).map(|numbers| mxfp4::quantise(&numbers).0);
        for blocks in [random.collect::<Vec<_>>(), normal.collect()] {
            let numbers: Vec<_> = blocks.iter().map(mxfp4::dequantise).collect();
            let ours: f64 = blocks.iter().map(|block| made(Bits::Four, block).2.error).sum();
            let least: f64 = numbers.iter().map(oracle::least).sum();
            let theirs: f64 = numbers.iter().map(oracle::by_the_maximum).sum();
            assert!(ours <= 1.001 * least, "{ours} against {least}");
            assert!(ours <= 0.9 * theirs, "{ours} against {theirs}");
        }
    }
}

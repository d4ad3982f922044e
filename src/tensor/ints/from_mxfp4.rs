//! MXFP4 to integers, by tables: what a byte of codes becomes, and what it adds to the
//! sums that tell a good scale, are known beforehand.

use std::sync::LazyLock;

use super::{Bits, dequantise, four_bits, quantise, rounding};
use crate::tensor::Rounding;
use crate::tensor::mxfp4::{self, BLOCK, Block, E2M1, e8m0};

/// Under smaller ones a product may need more bits than f32 has so close to zero.
const SMALLEST_SCALE: u8 = 32;

/// Writes the codes of a block and returns its scale, and how far off it is. Integers
/// of 8 bits are exact: twice E2M1's numbers, under half the scale. Of many blocks in 4
/// bits the squared error is within a thousandth of what the best scales leave.
pub fn from_mxfp4(bits: Bits, block: &Block, codes: &mut [u8]) -> (f32, Rounding) {
    match bits {
        _ if block.scale > mxfp4::LARGEST_SCALE => quantise(bits, &mxfp4::dequantise(block), codes),
        Bits::Eight => eight(block, codes),
        Bits::Four => four(block, codes),
    }
}

fn eight(block: &Block, codes: &mut [u8]) -> (f32, Rounding) {
    static PAIRS: LazyLock<[[u8; 2]; 256]> = LazyLock::new(|| {
        let zero = f32::from(Bits::Eight.zero());
        std::array::from_fn(|byte| {
            mxfp4::pair(byte as u8).map(|number| (zero + 2.0 * number) as u8)
        })
    });
    let table = &*PAIRS;
    codes.copy_from_slice(block.codes.map(|byte| table[usize::from(byte)]).as_flattened());
    let squares = mxfp4::sum_of_squares(block);
    (0.5 * e8m0(block.scale), Rounding { numbers: BLOCK, squares, ..Rounding::default() })
}

fn four(block: &Block, codes: &mut [u8]) -> (f32, Rounding) {
    static TABLES: LazyLock<Vec<Choices>> =
        LazyLock::new(|| E2M1[..8].iter().map(|largest| Choices::new(*largest)).collect());
    let Some(choice) = TABLES[mxfp4::largest(&block.codes)].best(block) else {
        codes.fill(0x11 * Bits::Four.zero());
        return (e8m0(block.scale), Rounding { numbers: BLOCK, ..Rounding::default() });
    };
    let codes: &mut [u8; 16] = codes.try_into().expect("those of a block");
    for (code, byte) in codes.iter_mut().zip(&block.codes) {
        *code = choice.mapping.bytes[usize::from(*byte)];
    }
    let scale = choice.scale() * e8m0(block.scale);
    let rounding = choice.rounding(block).unwrap_or_else(|| {
        rounding(&mxfp4::dequantise(block), &dequantise(Bits::Four, codes, scale))
    });
    (scale, rounding)
}

/// How many ways there are to give codes to numbers.
const WAYS: usize = 7;

/// Each way has the codes that are nearest when the largest magnitude becomes this.
/// Least squares then find the scale that fits them: the best scale there is leads to
/// one of them, or gains hardly anything. Half of a magnitude that codes can hold twice
/// is exact. Of equally good ways the last is taken, whose scales have the fewest bits.
fn ways(largest: f32) -> [f32; WAYS] {
    let twice = 2.0 * largest;
    [6.8, 7.2, 8.5, -8.5, 8.0, -8.0, if twice < 8.0 { twice } else { 6.01 }]
}

/// Sums of a block for each way, where x is twice a number without its scale and c its
/// code; they add up byte by byte.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// `Σxc`, and last `Σx²`.
    products: [i16; 8],
    /// `Σc²`, and last how many are zeros.
    squares: [i16; 8],
}

/// The last of them.
const LAST: usize = 7;

/// The ways where the largest magnitude of a block is a certain one.
struct Choices {
    /// Of each byte.
    sums: [Sums; 256],
    mappings: [Mapping; WAYS],
}

/// The code of each number.
struct Mapping {
    /// Of each E2M1 code, as a whole number.
    whole: [f32; 16],
    /// Of each byte of them.
    bytes: [u8; 256],
}

impl Choices {
    fn new(largest: f32) -> Self {
        let mappings = ways(largest).map(|code| {
            let whole = E2M1.map(|number| four_bits(number * code / largest.max(E2M1[1])));
            let code = |at: usize| (whole[at] + f32::from(Bits::Four.zero())) as u8;
            let bytes = std::array::from_fn(|byte| code(byte & 15) | code(byte >> 4) << 4);
            Mapping { whole, bytes }
        });
        let sums = std::array::from_fn(|byte| {
            let mut sums = Sums::default();
            for code in [byte & 15, byte >> 4] {
                let x = 2.0 * E2M1[code];
                for (at, mapping) in mappings.iter().enumerate() {
                    sums.products[at] += (x * mapping.whole[code]) as i16;
                    sums.squares[at] += mapping.whole[code].powi(2) as i16;
                }
                sums.products[LAST] += (x * x) as i16;
                sums.squares[LAST] += i16::from(x == 0.0);
            }
            sums
        });
        Self { sums, mappings }
    }

    /// The one with the least squared error, `Σx² − (Σxc)² / Σc²`, or none where all
    /// numbers are zeros.
    fn best(&self, block: &Block) -> Option<Choice<'_>> {
        let mut sums = Sums::default();
        for byte in block.codes {
            let of_byte = &self.sums[usize::from(byte)];
            sums.products.iter_mut().zip(of_byte.products).for_each(|(sum, one)| *sum += one);
            sums.squares.iter_mut().zip(of_byte.squares).for_each(|(sum, one)| *sum += one);
        }
        let [products, squares] = [sums.products, sums.squares].map(|sums| sums.map(f32::from));
        // Their lowest bits tell the way. As integers, floats are in the same order.
        let mut gains: [i32; 8] = std::array::from_fn(|at| {
            let gain = products[at] * products[at] / squares[at];
            gain.to_bits() as i32 & !LAST as i32 | at as i32
        });
        gains[LAST] = 0;
        let at = gains.into_iter().max().unwrap_or(0) as usize & LAST;
        (sums.squares[at] > 0).then(|| Choice {
            mapping: &self.mappings[at],
            products: sums.products[at].into(),
            squares: sums.squares[at].into(),
            all_squares: sums.products[LAST].into(),
            zeros: sums.squares[LAST] as u64,
        })
    }
}

/// A way to give codes to the numbers of a block.
struct Choice<'c> {
    mapping: &'c Mapping,
    /// `Σxc`, where x is twice a number.
    products: i32,
    /// `Σc²`
    squares: i32,
    /// `Σx²`
    all_squares: i32,
    /// How many numbers are 0.
    zeros: u64,
}

impl Choice<'_> {
    /// Of numbers without their own.
    fn scale(&self) -> f32 {
        self.products as f32 / (2 * self.squares) as f32
    }

    /// From the sums alone, which is possible unless numbers are too close to zero.
    fn rounding(&self, block: &Block) -> Option<Rounding> {
        let lost = self.all_squares * self.squares - self.products * self.products;
        let unit = f64::from(e8m0(block.scale)).powi(2) / 4.0;
        (block.scale >= SMALLEST_SCALE).then(|| Rounding {
            numbers: BLOCK,
            changed: if lost == 0 { 0 } else { self.changed(block) },
            squares: f64::from(self.all_squares) * unit,
            error: f64::from(lost) / f64::from(self.squares) * unit,
            ..Rounding::default()
        })
    }

    /// How many numbers come out different: not those that are the scale times their code.
    fn changed(&self, block: &Block) -> u64 {
        let scale = self.scale();
        let kept: [bool; 16] =
            std::array::from_fn(|code| self.mapping.whole[code] * scale == E2M1[code]);
        let zero = E2M1.map(|number| number == 0.0);
        if kept == zero {
            return BLOCK - self.zeros;
        }
        let changed = |code: u8| u64::from(!kept[usize::from(code)]);
        block.codes.iter().map(|byte| changed(byte & 15) + changed(byte >> 4)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::oracle;
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

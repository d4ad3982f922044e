//! Tables for converting MXFP4 blocks to 4-bit integers.

use super::block::{Bits, round_int4};
use crate::mxfp4::E2M1;

/// Twice each E2M1 value, which is whole.
pub const TWICE: [i16; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// How many codebooks a block has to choose from.
const COUNT: usize = 7;

/// What the largest magnitude of a block is scaled to in each codebook. Least squares then
/// fit the scale to the codes; the best scale of all leads to one of these codebooks, or
/// gains hardly anything. The last one is exact where the codes reach twice the values; it
/// wins ties, as its scales have the fewest bits.
fn targets(largest: f32) -> [f32; COUNT] {
    let twice = 2.0 * largest;
    [6.8, 7.2, 8.5, -8.5, 8.0, -8.0, if twice < 8.0 { twice } else { 6.01 }]
}

/// One way to map E2M1 values to 4-bit integers.
#[derive(Clone, Copy, Default)]
pub struct Codebook {
    /// The integer of each E2M1 code.
    pub ints: [i16; 16],
    /// The integers as they are stored.
    pub stored: [u8; 16],
}

impl Codebook {
    fn new(target: f32, largest: f32) -> Self {
        let ints = E2M1.map(|value| round_int4(value * target / largest.max(E2M1[1])));
        let stored = ints.map(|int| (int + f32::from(Bits::Four.zero())) as u8);
        Self { ints: ints.map(|int| int as i16), stored }
    }
}

/// Sums over a block, a lane for each codebook, where x is twice a value without its scale
/// and c its integer. Aligned so that one load does not span two cache lines.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Sums {
    /// `Σxc`; `Σx²` in the last lane.
    products: [i16; COUNT + 1],
    /// `Σc²`.
    squares: [i16; COUNT + 1],
}

/// The codebooks for blocks whose largest magnitude is the same.
pub struct Codebooks {
    /// What each byte of E2M1 codes adds.
    sums: [Sums; 256],
    /// Padded so that three bits index it; the last one is never the best.
    each: [Codebook; COUNT + 1],
}

impl Codebooks {
    pub fn new(largest: f32) -> Self {
        let mut each = [Codebook::default(); COUNT + 1];
        for (codebook, target) in each.iter_mut().zip(targets(largest)) {
            *codebook = Codebook::new(target, largest);
        }
        let mut sums = [Sums::default(); 256];
        for (codes, sums) in sums.iter_mut().enumerate() {
            for code in [codes & 15, codes >> 4] {
                for (at, codebook) in each.iter().enumerate() {
                    sums.products[at] += TWICE[code] * codebook.ints[code];
                    sums.squares[at] += codebook.ints[code].pow(2);
                }
                sums.products[COUNT] += TWICE[code].pow(2);
            }
        }
        Self { sums, each }
    }

    /// The codebook with the least squared error, `Σx² − (Σxc)² / Σc²`; with `Σxc`, `Σc²` and
    /// `Σx²`.
    #[inline(always)]
    pub fn best(&self, codes: &[u8; 16]) -> (&Codebook, [i16; 3]) {
        let mut sums = Sums::default();
        for codes in codes {
            let Sums { products, squares } = &self.sums[usize::from(*codes)];
            sums.products.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
            sums.squares.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
        }
        let (products, squares) = (sums.products.map(f32::from), sums.squares.map(f32::from));
        // As integers, positive floats keep their order; the lowest bits tell the codebook.
        let mut gains = [0; COUNT + 1];
        for at in 0..COUNT {
            let gain = products[at] * products[at] / squares[at].max(1.0);
            gains[at] = gain.to_bits() as i32 & !7 | at as i32;
        }
        let best = gains.into_iter().max().unwrap_or(0) as usize & 7;
        (&self.each[best], [sums.products[best], sums.squares[best], sums.products[COUNT]])
    }
}

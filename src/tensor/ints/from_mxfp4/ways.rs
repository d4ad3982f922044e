//! The ways to give the numbers of a block codes of 4 bits, and what each adds up to.

use super::super::{Bits, four_bits};
use crate::tensor::mxfp4::E2M1;

/// How many ways there are.
pub const WAYS: usize = 7;

/// Each way has the codes that are nearest when the largest magnitude becomes this.
/// Least squares then find the scale that fits them: the best scale there is leads to
/// one of them, or gains hardly anything. Half of a magnitude that codes can hold twice
/// is exact. Of equally good ways the last is taken, whose scales have the fewest bits.
/// A test holds what they lead to against the best of many scales.
fn ways(largest: f32) -> [f32; WAYS] {
    let twice = 2.0 * largest;
    [6.8, 7.2, 8.5, -8.5, 8.0, -8.0, if twice < 8.0 { twice } else { 6.01 }]
}

/// Twice each E2M1 number, which is whole.
pub const TWICE: [i16; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Sums over a block in a lane for each way, where x is twice a number without its scale
/// and c its code. They are read as one: no two cache lines are to share them.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
pub struct Sums {
    /// `Σxc`, and last `Σx²`.
    pub products: [i16; 8],
    /// `Σc²`
    pub squares: [i16; 8],
}

/// A way: the code of each E2M1 number.
#[derive(Clone, Copy, Default)]
pub struct Way {
    /// As a whole number.
    pub whole: [i16; 16],
    /// As it is stored.
    pub stored: [u8; 16],
}

/// The ways where the largest magnitude of a block is a certain one.
pub struct Choices {
    /// What a byte of E2M1 codes adds.
    pub sums: [Sums; 256],
    /// An eighth one is never the best: as many as three bits can tell.
    pub ways: [Way; 8],
}

impl Choices {
    /// Those where the largest magnitude is this.
    pub fn new(largest: f32) -> Self {
        let mut choices = Self { sums: [Sums::default(); 256], ways: [Way::default(); 8] };
        for (way, code) in choices.ways.iter_mut().zip(ways(largest)) {
            let whole = E2M1.map(|number| four_bits(number * code / largest.max(E2M1[1])));
            way.whole = whole.map(|code| code as i16);
            way.stored = whole.map(|code| (code + f32::from(Bits::Four.zero())) as u8);
        }
        let Self { sums, ways } = &mut choices;
        for (byte, sums) in sums.iter_mut().enumerate() {
            for code in [byte & 15, byte >> 4] {
                let x = TWICE[code];
                for (at, way) in ways[..WAYS].iter().enumerate() {
                    sums.products[at] += x * way.whole[code];
                    sums.squares[at] += way.whole[code].pow(2);
                }
                sums.products[WAYS] += x.pow(2);
            }
        }
        choices
    }
}

//! MXFP4 as two integers of 4 bits a value, its digits: twice an E2M1 value is `4·high + low`.
//! Kernels for integers then compute with it exactly.

use super::block::{Bits, dequantize};
use super::codebook::TWICE;
use crate::mxfp4::{self, e8m0};
use crate::{BLOCK_LENGTH, BlockValues};

/// One digit of each value of a block.
#[allow(missing_docs)]
pub struct Digit {
    pub codes: [u8; BLOCK_LENGTH / 2],
    pub scale: f32,
}

/// The high and the low digits of a block with a scale up to [`mxfp4::LARGEST_SCALE`]. A zero loses
/// its sign.
pub fn digits(block: &mxfp4::Block) -> [Digit; 2] {
    const TABLES: [[u8; 256]; 2] = [pairs(false), pairs(true)];
    let scale = e8m0(block.scale);
    [(&TABLES[0], 2.0 * scale), (&TABLES[1], scale / 2.0)].map(|(table, scale)| {
        let codes = block.codes.map(|pair| table[usize::from(pair)]);
        Digit { codes, scale }
    })
}

/// The codes of a digit for each byte of two E2M1 codes.
const fn pairs(are_low: bool) -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (first, second) = (TWICE[byte & 15], TWICE[byte >> 4]);
        let [first, second] =
            if are_low { [first % 4, second % 4] } else { [first / 4, second / 4] };
        let zero = Bits::Four.zero() as i16;
        table[byte] = (first + zero) as u8 | ((second + zero) as u8) << 4;
        byte += 1;
    }
    table
}

/// The values of a block: for each digit codes and their scale.
pub fn join(digits: [(&[u8; BLOCK_LENGTH / 2], f32); 2]) -> BlockValues {
    let [high, low] = digits.map(|(codes, scale)| dequantize(Bits::Four, codes, scale));
    std::array::from_fn(|at| high[at] + low[at])
}

//! NVFP4: E2M1 values in blocks of 16 with a scale in E4M3 each, and one f32 scale for all blocks
//! of a matrix. It holds MXFP4 exactly where the scales of a matrix are within 17 octaves: a block
//! of 32 is two of 16 with the same codes.

use super::mxfp4::{self, sum_of_squares};
use super::{BLOCK_LENGTH, BlockValues, DType, Rounding, decode};

/// Values that share a scale in E4M3.
pub const BLOCK: u64 = 16;

/// The exponents of E4M3's largest power of two, its smallest normal number, and its smallest
/// number.
const LARGEST: i32 = 8;
const NORMAL: i32 = -6;
const SMALLEST: i32 = -9;

/// The exponent of an E8M0 scale byte of 0.
const E8M0_BIAS: i32 = 127;

/// The scales of a matrix in MXFP4, as its blocks of 16 have them: one byte of E4M3 for each, and
/// the matrix's own. The largest scale of a block that holds a number becomes E4M3's largest power
/// of two. Blocks whose scales are too small for E4M3 become zeros, and blocks of zeros have scale 0.
pub fn from_mxfp4(blocks: mxfp4::Blocks, scales: &mut [[u8; 2]]) -> (f32, Rounding) {
    let is_used = |block: &mxfp4::Block| block.codes.iter().any(|byte| byte & 0x77 != 0);
    let largest = blocks.iter().filter(is_used).map(|block| block.scale).max();
    let unit = i32::from(largest.unwrap_or_default()) - E8M0_BIAS - LARGEST;
    let mut rounding = Rounding::default();
    for (block, scales) in blocks.iter().zip(scales) {
        *scales = [0; 2];
        if is_used(&block) {
            let byte = power_of_two(i32::from(block.scale) - E8M0_BIAS - unit);
            *scales = [byte; 2];
            if byte == 0 {
                let codes = block.each_code();
                rounding.changed += codes.iter().filter(|code| *code & 7 != 0).count() as u64;
                rounding.error += sum_of_squares(&block);
            }
        }
    }
    // Beyond the exponents of normal numbers too.
    (2f64.powi(unit) as f32, rounding)
}

/// A power of two in E4M3; 0 if it is too small.
fn power_of_two(exponent: i32) -> u8 {
    match exponent {
        NORMAL.. => ((exponent - NORMAL + 1) as u8) << 3,
        SMALLEST..NORMAL => 1 << (exponent - SMALLEST),
        _ => 0,
    }
}

/// The values of two blocks, whose codes come one after the other.
pub fn dequantize(codes: &[u8; BLOCK_LENGTH / 2], scales: [u8; 2], of_matrix: f32) -> BlockValues {
    let mut values = [0f32; BLOCK_LENGTH];
    let halves = values.as_chunks_mut::<{ BLOCK as usize }>().0.iter_mut();
    for ((half, codes), scale) in halves.zip(codes.chunks(8)).zip(decode(DType::F8E4M3, &scales)) {
        for (pair, codes) in half.as_chunks_mut().0.iter_mut().zip(codes) {
            *pair = mxfp4::pair(*codes).map(|value| value * scale * of_matrix);
        }
    }
    values
}

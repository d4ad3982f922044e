//! What the bytes of MXFP4 stand for: `E2M1[code] · 2^(scale − 127)`.

use crate::{BLOCK_LENGTH, BlockValues};

/// The largest scale under which all codes are finite in f32.
pub const LARGEST_SCALE: u8 = 252;

/// The values of E2M1 codes: sign, two exponent bits, one mantissa bit.
#[rustfmt::skip]
pub const E2M1: [f32; 16] = [
    0.0,  0.5,  1.0,  1.5,  2.0,  3.0,  4.0,  6.0,
   -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The value of an E8M0 scale byte: 2^(scale − 127), NaN for 255.
pub fn e8m0(scale: u8) -> f32 {
    match scale {
        // 2^-127 is subnormal: its only bit is the highest of the mantissa.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// The two values, unscaled, of a byte of codes: the low nibble comes first.
pub fn pair(codes: u8) -> [f32; 2] {
    [codes & 15, codes >> 4].map(|code| E2M1[usize::from(code)])
}

/// 32 values in MXFP4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// E8M0.
    pub scale: u8,
    /// Two E2M1 codes a byte, the first one in the low nibble.
    pub codes: [u8; BLOCK_LENGTH / 2],
}

impl Block {
    /// The codes in their order, one a byte.
    pub fn each_code(&self) -> [u8; BLOCK_LENGTH] {
        std::array::from_fn(|at| self.codes[at / 2] >> (4 * (at % 2)) & 15)
    }
}

/// Blocks as they are stored, scales apart from codes.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Blocks<'b> {
    pub scales: &'b [u8],
    pub codes: &'b [[u8; BLOCK_LENGTH / 2]],
}

impl Blocks<'_> {
    /// The block of this index.
    pub fn get(&self, at: usize) -> Block {
        Block { scale: self.scales[at], codes: self.codes[at] }
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Block> {
        let blocks = self.scales.iter().zip(self.codes);
        blocks.map(|(scale, codes)| Block { scale: *scale, codes: *codes })
    }

    /// At most `count` at a time.
    pub fn chunks(&self, count: usize) -> impl Iterator<Item = Self> {
        let chunks = self.scales.chunks(count).zip(self.codes.chunks(count));
        chunks.map(|(scales, codes)| Self { scales, codes })
    }
}

/// The values of a block.
pub fn dequantize(block: &Block) -> BlockValues {
    let (mut values, scale) = ([0f32; BLOCK_LENGTH], e8m0(block.scale));
    for (values, codes) in values.as_chunks_mut().0.iter_mut().zip(block.codes) {
        *values = pair(codes).map(|value| value * scale);
    }
    values
}

/// The sum of the squared values of a block.
pub fn sum_of_squares(block: &Block) -> f64 {
    /// Of a byte's two values, each doubled to be whole.
    const PAIRS: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let [first, second] = [2.0 * E2M1[byte & 15], 2.0 * E2M1[byte >> 4]];
            table[byte] = (first * first + second * second) as u16;
            byte += 1;
        }
        table
    };
    let squares: u32 = block.codes.iter().map(|byte| u32::from(PAIRS[usize::from(*byte)])).sum();
    f64::from(squares) / 4.0 * f64::from(e8m0(block.scale)).powi(2)
}

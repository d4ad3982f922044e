//! MXFP4 (Open Compute Project, Microscaling Formats v1.0): blocks of 32
//! four-bit E2M1 numbers that share one power-of-two scale.
//!
//! `value = E2M1[code] · 2^(scale − 127)`; two codes share a byte, the first
//! one in the low nibble; scale 255 is NaN.

mod encode;
mod quantise;

pub use encode::encode;
pub use quantise::{LARGEST_SCALE, exact, quantise};

/// Numbers that share a scale.
pub const BLOCK: u64 = 32;

/// The sixteen values of an E2M1 code: sign, two exponent bits, one mantissa bit.
#[rustfmt::skip]
pub const E2M1: [f32; 16] = [
    0.0,  0.5,  1.0,  1.5,  2.0,  3.0,  4.0,  6.0,
   -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The number that an E8M0 scale byte stands for: 2^(scale − 127), NaN for 255.
pub fn e8m0(scale: u8) -> f32 {
    match scale {
        // 2^-127 is subnormal: its only bit is the mantissa's highest.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// The two numbers, unscaled, that a byte of codes holds, in their order.
pub fn pair(codes: u8) -> [f32; 2] {
    [codes & 0x0F, codes >> 4].map(|code| E2M1[usize::from(code)])
}

/// 32 numbers in MXFP4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// E8M0: 2^(scale − 127).
    pub scale: u8,
    /// Two E2M1 codes a byte, the first one in the low nibble.
    pub codes: [u8; BLOCK as usize / 2],
}

impl Block {
    /// The codes in their order.
    pub fn each_code(&self) -> [u8; BLOCK as usize] {
        std::array::from_fn(|at| self.codes[at / 2] >> (4 * (at % 2)) & 15)
    }
}

/// Blocks as they are stored: as many scales as there are codes of a block.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Blocks<'b> {
    pub scales: &'b [u8],
    pub codes: &'b [[u8; BLOCK as usize / 2]],
}

impl Blocks<'_> {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Block> {
        self.scales
            .iter()
            .zip(self.codes)
            .map(|(scale, codes)| Block { scale: *scale, codes: *codes })
    }

    /// At most so many at a time.
    pub fn chunks(&self, count: usize) -> impl Iterator<Item = Self> {
        let chunks = self.scales.chunks(count).zip(self.codes.chunks(count));
        chunks.map(|(scales, codes)| Self { scales, codes })
    }
}

/// The sum of the squares of a block's numbers.
pub fn sum_of_squares(block: &Block) -> f64 {
    /// Of the numbers of a byte, each twice itself: these are whole.
    const OF_PAIR: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let [first, second] = [2.0 * E2M1[byte & 15], 2.0 * E2M1[byte >> 4]];
            table[byte] = (first * first + second * second) as u16;
            byte += 1;
        }
        table
    };
    let squares: u32 = block.codes.iter().map(|byte| u32::from(OF_PAIR[usize::from(*byte)])).sum();
    f64::from(squares) / 4.0 * f64::from(e8m0(block.scale)).powi(2)
}

/// The numbers of a block.
pub fn dequantise(block: &Block) -> [f32; BLOCK as usize] {
    let (mut numbers, scale) = ([0f32; BLOCK as usize], e8m0(block.scale));
    for (numbers, codes) in numbers.as_chunks_mut().0.iter_mut().zip(block.codes) {
        *numbers = pair(codes).map(|number| number * scale);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The format's own words: sign · 2^(e−1) · (1 + m/2), or m/2 when e = 0.
    fn by_definition(code: u8, scale: u8) -> f64 {
        let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
        let exponent = f64::from((code >> 1) & 3);
        let mantissa = f64::from(code & 1);
        let magnitude = if exponent == 0.0 {
            mantissa / 2.0
        } else {
            2f64.powf(exponent - 1.0) * (1.0 + mantissa / 2.0)
        };
        sign * magnitude * 2f64.powi(i32::from(scale) - 127)
    }

    proptest! {
        #[test]
        fn a_byte_holds_what_the_format_defines(codes: u8, scale in 0u8..=252) { // above, 6 leaves f32
            for (place, value) in pair(codes).into_iter().enumerate() {
                let code = (codes >> (4 * place)) & 15;
                prop_assert_eq!(f64::from(value * e8m0(scale)), by_definition(code, scale));
                prop_assert_eq!(value.is_sign_negative(), code >= 8);
            }
        }
    }

    #[test]
    fn scale_255_is_nan() {
        assert!(e8m0(255).is_nan());
        assert_eq!(e8m0(127), 1.0);
        assert_eq!(f64::from(e8m0(0)), 2f64.powi(-127));
        assert_eq!(f64::from(e8m0(254)), 2f64.powi(127));
    }
}

//! MXFP4 (Open Compute Project, Microscaling Formats v1.0): blocks of 32
//! four-bit E2M1 numbers that share one power-of-two scale.
//!
//! `value = E2M1[code] · 2^(scale − 127)`; two codes share a byte, the first
//! one in the low nibble; scale 255 is NaN.

mod quantise;

pub use quantise::{Block, LARGEST_SCALE, exact, quantise};

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

/// The numbers of a block.
pub fn dequantise(block: &Block) -> [f32; BLOCK as usize] {
    let scale = e8m0(block.scale);
    std::array::from_fn(|at| pair(block.codes[at / 2])[at % 2] * scale)
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

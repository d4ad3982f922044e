//! MXFP4 (Open Compute Project, Microscaling Formats v1.0): blocks of 32
//! four-bit E2M1 numbers that share one power-of-two scale.
//!
//! `value = E2M1[code] · 2^(scale − 127)`; two codes share a byte, the first
//! one in the low nibble; scale 255 is NaN.

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

/// Decodes rows of blocks: `blocks` holds 16 bytes for each byte of `scales`,
/// `out` receives 32 numbers for it.
///
/// # Panics
/// When the lengths do not belong together.
pub fn decode(blocks: &[u8], scales: &[u8], out: &mut [f32]) {
    assert_eq!(blocks.len(), 16 * scales.len(), "16 bytes for each scale");
    assert_eq!(out.len(), 32 * scales.len(), "32 numbers for each scale");
    let groups = blocks.chunks_exact(16).zip(scales);
    for (out, (block, scale)) in out.chunks_exact_mut(32).zip(groups) {
        let scale = e8m0(*scale);
        for (out, codes) in out.chunks_exact_mut(2).zip(block) {
            out.copy_from_slice(&pair(*codes).map(|value| value * scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        fn decodes_what_the_format_defines(
            block in prop::collection::vec(any::<u8>(), 16),
            scale in 0u8..=252, // 6 · 2^126 and above leave f32
        ) {
            let mut out = [0f32; 32];
            decode(&block, &[scale], &mut out);
            for (index, value) in out.into_iter().enumerate() {
                let code = (block[index / 2] >> (4 * (index % 2))) & 15;
                prop_assert_eq!(f64::from(value), by_definition(code, scale));
                prop_assert_eq!(value.is_sign_negative(), code >= 8);
            }
        }

        #[test]
        fn a_block_never_touches_its_neighbours(
            blocks in prop::collection::vec(any::<u8>(), 48),
            scales in prop::collection::vec(any::<u8>(), 3),
        ) {
            let (mut all, mut middle) = ([0f32; 96], [0f32; 32]);
            decode(&blocks, &scales, &mut all);
            decode(&blocks[16..32], &scales[1..2], &mut middle);
            prop_assert_eq!(all[32..64].iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                            middle.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn scale_255_is_nan() {
        assert!(e8m0(255).is_nan());
        assert_eq!(e8m0(127), 1.0);
        assert_eq!(f64::from(e8m0(0)), 2f64.powi(-127));
    }
}

//! Numbers that are none: infinity and NaN, as each format has them.

use super::DType;

/// A scale under which the larger of E2M1's numbers, 4 and 6, are beyond f32: 2¹²⁶. The
/// largest byte is NaN.
const TOO_LARGE: u8 = 253;

/// How many of the numbers that these bytes hold, little-endian and whole, are infinity
/// or NaN, or as scales make it.
pub fn not_finite(dtype: DType, bytes: &[u8]) -> u64 {
    let count = match dtype {
        DType::F8E8M0 => bytes.iter().filter(|byte| **byte >= TOO_LARGE).count(),
        DType::F8E5M2 => bytes.iter().filter(|byte| **byte & 0x7c == 0x7c).count(),
        DType::F16 => all_ones(bytes, 0x7c00),
        DType::BF16 => all_ones(bytes, 0x7f80),
        DType::F32 => {
            let exponent = |bytes: &&[u8; 4]| u32::from_le_bytes(**bytes) & 0x7f80_0000;
            bytes.as_chunks().0.iter().filter(|it| exponent(it) == 0x7f80_0000).count()
        }
        DType::Bool | DType::U8 | DType::I8 | DType::I32 | DType::I64 => 0,
    };
    count as u64
}

/// How many numbers of two bytes have nothing but ones in their exponent.
fn all_ones(bytes: &[u8], exponent: u16) -> usize {
    let bits = |bytes: &&[u8; 2]| u16::from_le_bytes(**bytes) & exponent;
    bytes.as_chunks().0.iter().filter(|it| bits(it) == exponent).count()
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn each_format_has_its_own() {
        let numbers = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -0.0, 57344.0];
        let f32s: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let f16s: Vec<u8> = numbers.iter().flat_map(|n| f16::from_f32(*n).to_le_bytes()).collect();
        let bf16s = numbers.iter().flat_map(|n| bf16::from_f32(*n).to_le_bytes());
        // The upper byte of F16 is E5M2.
        let f8s: Vec<u8> = numbers.iter().map(|n| f16::from_f32(*n).to_le_bytes()[1]).collect();
        assert_eq!(not_finite(DType::F32, &f32s), 3);
        assert_eq!(not_finite(DType::F16, &f16s), 3);
        assert_eq!(not_finite(DType::BF16, &bf16s.collect::<Vec<u8>>()), 3);
        assert_eq!(not_finite(DType::F8E5M2, &f8s), 3);
        assert_eq!(not_finite(DType::F8E8M0, &[252, 253, 254, 255, 0, 255]), 4);
        assert_eq!([4.0, 6.0].map(|code| code * 2f32.powi(253 - 127)), [f32::INFINITY; 2]);
        assert!((6.0 * 2f32.powi(252 - 127)).is_finite());
        assert_eq!(not_finite(DType::U8, &[255; 9]), 0);
    }
}

//! Infinity and NaN in each dtype.

use super::DType;
use super::mxfp4::LARGEST_SCALE;

/// How many elements of a tensor's data are infinity or NaN, or are MXFP4 scales that can
/// make a value so.
pub fn not_finite(dtype: DType, bytes: &[u8]) -> u64 {
    let count = match dtype {
        DType::F8E8M0 => bytes.iter().filter(|byte| **byte > LARGEST_SCALE).count(),
        DType::F8E5M2 => count::<1>(bytes, 0x7c),
        DType::F16 => count::<2>(bytes, 0x7c00),
        DType::BF16 => count::<2>(bytes, 0x7f80),
        DType::F32 => count::<4>(bytes, 0x7f80_0000),
        DType::Bool | DType::U8 | DType::I8 | DType::I32 | DType::I64 => 0,
    };
    count as u64
}

/// How many elements have only ones in their exponent, which `mask` selects.
fn count<const N: usize>(bytes: &[u8], mask: u32) -> usize {
    let exponent = |element: &&[u8; N]| {
        let mut bits = [0; 4];
        bits[..N].copy_from_slice(&element[..]);
        u32::from_le_bytes(bits) & mask
    };
    bytes.as_chunks().0.iter().filter(|element| exponent(element) == mask).count()
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn counts_infinity_and_nan_in_each_dtype() {
        let values = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -0.0, 57344.0];
        let bytes = |encode: fn(f32) -> Vec<u8>| values.map(encode).concat();
        let f16 = |value| f16::from_f32(value).to_le_bytes().to_vec();
        for (dtype, bytes) in [
            (DType::F32, bytes(|value| value.to_le_bytes().to_vec())),
            (DType::F16, bytes(f16)),
            (DType::BF16, bytes(|value| bf16::from_f32(value).to_le_bytes().to_vec())),
            (DType::F8E5M2, bytes(|value| f16::from_f32(value).to_le_bytes()[1..].to_vec())),
        ] {
            assert_eq!(not_finite(dtype, &bytes), 3, "{dtype}");
        }
        assert_eq!(not_finite(DType::F8E8M0, &[252, 253, 254, 255, 0, 255]), 4);
        assert_eq!(not_finite(DType::U8, &[255; 9]), 0);
    }

    #[test]
    fn largest_scale_is_the_last_that_keeps_all_codes_finite() {
        let six = |scale: u8| 6.0 * 2f32.powi(i32::from(scale) - 127);
        assert!(six(LARGEST_SCALE).is_finite() && six(LARGEST_SCALE + 1).is_infinite());
    }
}

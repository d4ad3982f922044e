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

//! Infinity and NaN in each dtype.

use super::DType;
use super::mxfp4::LARGEST_SCALE;

/// How many elements of a tensor's data are infinity or NaN, or are MXFP4 scales that can
/// make a value so.
pub fn not_finite(dtype: DType, bytes: &[u8]) -> u64 {
    let count = match dtype {
        DType::F8E8M0 => bytes.iter().filter(|byte| **byte > LARGEST_SCALE).count(),
        DType::F8E4M3 => count::<1>(bytes, 0x7f, 0x7f),
        DType::F8E5M2 => count::<1>(bytes, 0x7c, 0x7c),
        DType::F16 => count::<2>(bytes, 0x7c00, 0x7c00),
        DType::BF16 => count::<2>(bytes, 0x7f80, 0x7f80),
        DType::F32 => count::<4>(bytes, 0x7f80_0000, 0x7f80_0000),
        _ => 0,
    };
    count as u64
}

/// How many elements of a tensor's data are -∞.
pub fn minus_infinite(dtype: DType, bytes: &[u8]) -> u64 {
    let count = match dtype {
        DType::F8E5M2 => count::<1>(bytes, u32::MAX, 0xfc),
        DType::F16 => count::<2>(bytes, u32::MAX, 0xfc00),
        DType::BF16 => count::<2>(bytes, u32::MAX, 0xff80),
        DType::F32 => count::<4>(bytes, u32::MAX, 0xff80_0000),
        _ => 0,
    };
    count as u64
}

/// How many elements have these bits in the places that `mask` selects.
fn count<const N: usize>(bytes: &[u8], mask: u32, wanted: u32) -> usize {
    let selected = |element: &&[u8; N]| {
        let mut bits = [0; 4];
        bits[..N].copy_from_slice(&element[..]);
        u32::from_le_bytes(bits) & mask
    };
    bytes.as_chunks().0.iter().filter(|element| selected(element) == wanted).count()
}

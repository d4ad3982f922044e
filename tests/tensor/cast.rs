//! Casts compared with IEEE 754.

use gpt_oss_export::tensor::{BLOCK, BLOCK_LENGTH, DType, Rounding, decode, encode, not_finite};
use proptest::prelude::*;

/// A format as IEEE 754 defines it: sign, exponent bits, mantissa bits.
#[derive(Clone, Copy, Debug)]
struct Format {
    dtype: DType,
    exponent_bits: u32,
    mantissa_bits: u32,
}

const BF16: Format = Format { dtype: DType::BF16, exponent_bits: 8, mantissa_bits: 7 };
const F16: Format = Format { dtype: DType::F16, exponent_bits: 5, mantissa_bits: 10 };
const F8E5M2: Format = Format { dtype: DType::F8E5M2, exponent_bits: 5, mantissa_bits: 2 };

impl Format {
    /// Exponent bits that are all ones.
    fn exponents(self) -> u32 {
        (1 << self.exponent_bits) - 1
    }

    /// The value of these bits. With only ones in the exponent it is what would follow
    /// the largest value: rounding comes before overflow.
    fn value(self, bits: u32) -> f64 {
        let fraction = bits & ((1 << self.mantissa_bits) - 1);
        let fraction = f64::from(fraction) / f64::from(1 << self.mantissa_bits);
        let exponent = bits >> self.mantissa_bits & self.exponents();
        let bias = (1 << (self.exponent_bits - 1)) - 1;
        let magnitude = match exponent as i32 {
            0 => fraction * 2f64.powi(1 - bias),
            exponent => (1.0 + fraction) * 2f64.powi(exponent - bias),
        };
        let is_negative = bits >> (self.mantissa_bits + self.exponent_bits) == 1;
        if is_negative { -magnitude } else { magnitude }
    }

    fn check_nearest(self, value: f32) {
        let (bytes, rounding) = encode_one(self.dtype, value);
        let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let error = |bits: u32| (self.value(bits) - f64::from(value)).abs();
        let infinity = self.exponents() << self.mantissa_bits;
        let overflowed = bits & infinity == infinity;
        let sign = 1 << (8 * self.dtype.size() - 1) & bits;
        let neighbors = [(bits - sign).checked_sub(1), (!overflowed).then(|| bits - sign + 1)];
        for neighbor in neighbors.into_iter().flatten().map(|magnitude| sign | magnitude) {
            let is_even = error(bits) == error(neighbor) && bits & 1 == 0;
            assert!(error(bits) < error(neighbor) || is_even, "{:?} {value:e}", self.dtype);
        }
        let error = if overflowed { 0.0 } else { error(bits) };
        let counts = [overflowed, error > 0.0].map(u64::from);
        assert_eq!([rounding.overflowed, rounding.changed], counts, "{value:e}");
        assert!((rounding.error.sqrt() - error).abs() <= error * 1e-9, "{value:e}");
    }
}

/// Encodes a value and zeros behind it.
fn encode_one(dtype: DType, value: f32) -> (Vec<u8>, Rounding) {
    let mut values = [0.0; BLOCK_LENGTH];
    values[0] = value;
    let mut bytes = vec![0; values.len() * dtype.size() as usize];
    let rounding = encode(dtype, &[values], &mut bytes);
    assert_eq!(rounding.values, BLOCK);
    (bytes, rounding)
}

#[test]
fn decodes_every_value_and_encodes_it_again() {
    for (format, all) in [(BF16, u16::MAX), (F16, u16::MAX), (F8E5M2, u8::MAX.into())] {
        let size = format.dtype.size() as usize;
        let bytes = (0..=all).flat_map(|bits| bits.to_le_bytes()[..size].to_vec());
        let bytes: Vec<u8> = bytes.collect();
        let values = decode(format.dtype, &bytes);
        assert_eq!(values.len(), bytes.len() / size);
        let infinity = format.value(format.exponents() << format.mantissa_bits);
        let mut finite = 0;
        for (bits, value) in (0..).zip(&values) {
            let expected = format.value(bits);
            if expected.abs() < infinity {
                assert_eq!(f64::from(*value).to_bits(), expected.to_bits(), "{bits:x}");
                finite += 1;
            } else if expected.abs() == infinity {
                assert_eq!(*value, f32::INFINITY.copysign(expected as f32), "{bits:x}");
            } else {
                assert!(value.is_nan(), "{bits:x}");
            }
        }
        assert_eq!(not_finite(format.dtype, &bytes), values.len() as u64 - finite);
        if size == 2 {
            let mut again = vec![0; bytes.len()];
            let rounding = encode(format.dtype, values.as_chunks().0, &mut again);
            assert_eq!((rounding.changed, rounding.overflowed), (0, 0));
            for (value, bytes) in values.iter().zip(bytes.chunks(2).zip(again.chunks(2))) {
                assert!(bytes.0 == bytes.1 || value.is_nan(), "{value}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "3 bytes are no whole number of elements in f16")]
fn decodes_whole_elements_alone() {
    decode(DType::F16, &[0; 3]);
}

proptest! {
    #[test]
    fn encodes_nearest_value(
        bits: u32, digits in prop_oneof![Just(0u32), Just(13), Just(16)], step in -1i32..=1,
    ) {
        // Half way between two values of F16 or BF16, and beside it.
        let tie = (bits >> digits << digits | 1 << digits >> 1).wrapping_add_signed(step);
        let value = f32::from_bits(tie);
        prop_assume!(value.is_finite());
        BF16.check_nearest(value);
        F16.check_nearest(value);
    }
}

#[test]
fn encodes_ends_of_the_range() {
    for value in [0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, f32::MIN] {
        BF16.check_nearest(value);
        F16.check_nearest(value);
        let (bytes, rounding) = encode_one(DType::F32, value);
        assert!(bytes[..4] == value.to_le_bytes() && rounding.is_lossless(), "{value:e}");
        assert_eq!(not_finite(DType::F32, &bytes), 0);
    }
    for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let (bytes, found) = encode_one(dtype, value);
            let expected = Rounding { values: BLOCK, not_finite: 1, ..Rounding::default() };
            assert_eq!((found, not_finite(dtype, &bytes)), (expected, 1), "{dtype}");
        }
    }
}

#[test]
fn integers_are_finite() {
    for dtype in [DType::Bool, DType::U8, DType::I8, DType::I32, DType::I64] {
        assert_eq!(not_finite(dtype, &[255; 16]), 0);
    }
}

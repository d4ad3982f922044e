//! Tensor data to f32 and back, little-endian as in SafeTensors.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{DType, Rounding};

/// Values that are converted at a time, so that each loop over them is vectorized.
const CHUNK: usize = Rounding::LENGTH;

/// Decodes BF16, F16, F32 or FP8 E5M2, whose bytes are the upper halves of F16 numbers.
/// Panics for other dtypes.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::BF16 => {
            decode_each(bytes, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
        }
        DType::F16 => decode_f16(bytes, u16::from_le_bytes),
        DType::F32 => decode_each(bytes, f32::from_le_bytes),
        DType::F8E5M2 => decode_f16(bytes, |[byte]| u16::from(byte) << 8),
        _ => panic!("{dtype} cannot be decoded as floats"),
    }
}

/// Decodes elements whose `bits` are F16, by the processor's own instructions.
fn decode_f16<const N: usize>(bytes: &[u8], bits: impl Fn([u8; N]) -> u16) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / N];
    let mut halves = [f16::ZERO; CHUNK];
    for (elements, values) in bytes.as_chunks().0.chunks(CHUNK).zip(values.chunks_mut(CHUNK)) {
        let halves = &mut halves[..elements.len()];
        for (half, element) in halves.iter_mut().zip(elements) {
            *half = f16::from_bits(bits(*element));
        }
        halves.convert_to_f32_slice(values);
    }
    values
}

fn decode_each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|element| decode(*element)).collect()
}

/// Encodes as BF16, F16 or F32, rounding to nearest even. Panics for other dtypes, and
/// unless `bytes` are as many elements as there are values.
pub fn encode(dtype: DType, values: &[[f32; CHUNK]], bytes: &mut [u8]) -> Rounding {
    match dtype {
        DType::BF16 => encode_chunks(values, bytes, |values| {
            let bits = values.map(|value| nearest_bf16(value.to_bits()));
            (bits.map(u16::to_le_bytes), bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
        }),
        DType::F16 => encode_chunks(values, bytes, |values| {
            let (mut halves, mut rounded) = ([f16::ZERO; CHUNK], [0f32; CHUNK]);
            halves.convert_from_f32_slice(values);
            halves.convert_to_f32_slice(&mut rounded);
            (halves.map(f16::to_le_bytes), rounded)
        }),
        DType::F32 => {
            encode_chunks(values, bytes, |values| (values.map(f32::to_le_bytes), *values))
        }
        _ => panic!("values cannot be encoded as {dtype}"),
    }
}

/// The bits of a finite f32, rounded to BF16.
fn nearest_bf16(bits: u32) -> u16 {
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// `encode` returns bytes, and the values that they stand for.
fn encode_chunks<const N: usize>(
    values: &[[f32; CHUNK]],
    bytes: &mut [u8],
    encode: impl Fn(&[f32; CHUNK]) -> ([[u8; N]; CHUNK], [f32; CHUNK]),
) -> Rounding {
    assert_eq!(bytes.len(), size_of_val(values) / size_of::<f32>() * N);
    let mut rounding = Rounding::default();
    for (values, encoded) in values.iter().zip(bytes.as_chunks_mut().0.as_chunks_mut().0) {
        let rounded;
        (*encoded, rounded) = encode(values);
        rounding += Rounding::of(values, &rounded);
    }
    rounding
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            let mut bytes = [[0; 2]; CHUNK];
            let rounding = encode(self.dtype, &[beside_zeros(value)], bytes.as_flattened_mut());
            let bits = u32::from(u16::from_le_bytes(bytes[0]));
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
            let counts = [rounding.values, rounding.overflowed, rounding.changed];
            assert_eq!(
                counts,
                [CHUNK as u64, overflowed.into(), (error > 0.0).into()],
                "{value:e}"
            );
            assert!((rounding.error.sqrt() - error).abs() <= error * 1e-9, "{value:e}");
        }
    }

    fn beside_zeros(value: f32) -> [f32; CHUNK] {
        std::array::from_fn(|at| if at == 0 { value } else { 0.0 })
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
            for (bits, value) in (0..).zip(&values) {
                let expected = format.value(bits);
                if expected.abs() < infinity {
                    assert_eq!(f64::from(*value).to_bits(), expected.to_bits(), "{bits:x}");
                } else if expected.abs() == infinity {
                    assert_eq!(*value, f32::INFINITY.copysign(expected as f32), "{bits:x}");
                } else {
                    assert!(value.is_nan(), "{bits:x}");
                }
            }
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
        }
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            for dtype in [DType::BF16, DType::F16, DType::F32] {
                let mut bytes = vec![0; CHUNK * dtype.size() as usize];
                let found = encode(dtype, &[beside_zeros(value)], &mut bytes);
                let expected = Rounding { not_finite: 1, squares: 0.0, ..found };
                assert!(found == expected && found.changed + found.overflowed == 0, "{dtype}");
            }
        }
    }
}

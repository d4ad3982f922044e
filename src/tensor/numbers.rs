//! Stored numbers to f32 and back, little-endian as in SafeTensors.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{DType, Rounding, e5m2};

/// Decodes the numbers in `bytes`, of which there are as many as `numbers` takes.
/// Nothing where the dtype is none of BF16, F16, F32 and FP8 E5M2.
pub fn decode(dtype: DType, bytes: &[u8], numbers: &mut [f32]) -> Option<()> {
    match dtype {
        DType::BF16 => {
            each(bytes, numbers, |pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16))
        }
        DType::F16 => {
            let halves: Vec<f16> =
                bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
            halves.convert_to_f32_slice(numbers);
        }
        DType::F32 => each(bytes, numbers, f32::from_le_bytes),
        DType::F8E5M2 => each(bytes, numbers, |[byte]| e5m2(byte)),
        _ => return None,
    }
    Some(())
}

fn each<const N: usize>(bytes: &[u8], numbers: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (chunks, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && chunks.len() == numbers.len(), "as many bytes as numbers");
    numbers.iter_mut().zip(chunks).for_each(|(number, bytes)| *number = decode(*bytes));
}

/// Numbers in BF16, the nearest even one of two. Those that are not finite, and
/// those that round to infinity, are counted as such and no further.
pub fn encode_bf16(numbers: &[f32], bytes: &mut [u8]) -> Rounding {
    let mut rounding = Rounding { numbers: numbers.len() as u64, ..Rounding::default() };
    for (number, bytes) in numbers.iter().zip(bytes.as_chunks_mut().0) {
        let nearest = bf16::from_f32(*number);
        *bytes = nearest.to_le_bytes();
        if !nearest.is_finite() {
            let counter = if number.is_finite() {
                &mut rounding.overflowed
            } else {
                &mut rounding.not_finite
            };
            *counter += 1;
            continue;
        }
        rounding.squares += f64::from(*number).powi(2);
        let back = nearest.to_f32();
        if back.to_bits() != number.to_bits() {
            rounding.changed += 1;
            rounding.error += (f64::from(*number) - f64::from(back)).powi(2);
        }
    }
    rounding
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let mut numbers = vec![f32::NAN; bytes.len() / dtype.size() as usize];
        decode(dtype, bytes, &mut numbers).unwrap();
        numbers
    }

    /// Of these bits. The sign of zero counts; where all exponent bits are set it
    /// is infinity, or NaN when a mantissa bit is.
    fn check(number: f32, bits: u32, exponent_bits: u32, mantissa_bits: u32) {
        let exponents = ((1 << exponent_bits) - 1) << mantissa_bits;
        match bits & exponents == exponents {
            true if bits & ((1 << mantissa_bits) - 1) != 0 => assert!(number.is_nan(), "{bits:x}"),
            true => assert!(number.is_infinite(), "{bits:x}"),
            false => {
                let expected = by_definition(bits, exponent_bits, mantissa_bits);
                assert_eq!(f64::from(number).to_bits(), expected.to_bits(), "{bits:x}");
            }
        }
        let negative = bits >> (mantissa_bits + exponent_bits) == 1;
        assert!(number.is_nan() || number.is_sign_negative() == negative, "{bits:x}");
    }

    /// IEEE 754: sign, exponent bits, mantissa bits, gradual underflow.
    fn by_definition(bits: u32, exponent_bits: u32, mantissa_bits: u32) -> f64 {
        let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
        let exponent = (bits >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
        let bias = (1 << (exponent_bits - 1)) - 1;
        let magnitude = match exponent {
            0 => mantissa * 2f64.powi(1 - bias),
            _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
        };
        if bits >> (mantissa_bits + exponent_bits) == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_number_is_what_its_format_defines() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            for (dtype, exponent, mantissa) in [(DType::BF16, 8, 7), (DType::F16, 5, 10)] {
                check(decoded(dtype, &bytes)[0], bits.into(), exponent, mantissa);
            }
        }
        for bits in 0..=u8::MAX {
            check(decoded(DType::F8E5M2, &[bits])[0], bits.into(), 5, 2);
        }
    }

    /// BF16's neighbours of a number, the lower one and the upper one in magnitude,
    /// as sign and bits: the upper half of an f32, and the next one.
    fn neighbours(number: f32) -> [u16; 2] {
        let lower = (number.to_bits() >> 16) as u16;
        [lower, lower + 1]
    }

    /// What BF16's bits stand for, with infinity as the number that would follow
    /// the largest: rounding decides before it overflows.
    fn value(bits: u16) -> f64 {
        match bits & 0x7fff {
            0x7f80 => f64::from(f32::from_bits(u32::from(bits - 1) << 16)) * (256.0 / 255.0),
            _ => f64::from(f32::from_bits(u32::from(bits) << 16)),
        }
    }

    fn check_bf16(number: f32) {
        let mut bytes = [0; 2];
        let rounding = encode_bf16(&[number], &mut bytes);
        let bits = u16::from_le_bytes(bytes);
        let off = |bits: u16| (value(bits) - f64::from(number)).abs();
        let [lower, upper] = neighbours(number);
        let nearest = match off(lower).total_cmp(&off(upper)) {
            Ordering::Less => lower,
            Ordering::Equal => lower + (lower & 1),
            Ordering::Greater => upper,
        };
        assert_eq!(bits, nearest, "{number:e}");
        let overflows = nearest & 0x7fff == 0x7f80;
        let changed = !overflows && off(bits) > 0.0;
        let (overflowed, changed) = (u64::from(overflows), u64::from(changed));
        assert_eq!((rounding.overflowed, rounding.changed), (overflowed, changed), "{number:e}");
        assert_eq!((rounding.numbers, rounding.not_finite), (1, 0));
        if changed == 1 {
            assert!((rounding.error.sqrt() - off(bits)).abs() <= off(bits) * 1e-9);
        }
    }

    proptest! {
        #[test]
        fn bf16_is_the_nearest(number in any::<u32>().prop_map(f32::from_bits)) {
            prop_assume!(number.is_finite());
            check_bf16(number);
        }

        /// Half way between two, and beside it: where the even one counts.
        #[test]
        fn bf16_of_a_tie_is_even(upper: u16, beside in -1i32..=1) {
            let number = f32::from_bits((u32::from(upper) << 16 | 0x8000).wrapping_add_signed(beside));
            prop_assume!(number.is_finite());
            check_bf16(number);
        }
    }

    #[test]
    fn bf16_at_the_ends() {
        let largest = f32::from_bits(0x7f7f_0000);
        for number in [0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE, largest, f32::MAX, f32::MIN]
        {
            check_bf16(number);
        }
        for number in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let rounding = encode_bf16(&[1.0, number], &mut [0; 4]);
            assert_eq!((rounding.not_finite, rounding.overflowed, rounding.changed), (1, 0, 0));
            assert_eq!(rounding.squares, 1.0);
        }
    }
}

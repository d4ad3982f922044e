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

/// Numbers in BF16, the nearest even one of two.
pub fn encode_bf16(numbers: &[f32], bytes: &mut [u8]) -> Rounding {
    let mut rounding = Rounding { numbers: numbers.len() as u64, ..Rounding::default() };
    for (number, bytes) in numbers.iter().zip(bytes.as_chunks_mut().0) {
        let nearest = bf16::from_f32(*number);
        *bytes = nearest.to_le_bytes();
        rounding.squares += f64::from(*number).powi(2);
        rounding.not_finite += u64::from(!nearest.is_finite());
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
    use proptest::prelude::*;

    use super::*;

    fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let mut numbers = vec![f32::NAN; bytes.len() / dtype.size() as usize];
        decode(dtype, bytes, &mut numbers).unwrap();
        numbers
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
    fn every_finite_number_is_what_its_format_defines() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            for (dtype, exponent, mantissa) in [(DType::BF16, 8, 7), (DType::F16, 5, 10)] {
                let number = decoded(dtype, &bytes)[0];
                if number.is_finite() {
                    assert_eq!(f64::from(number), by_definition(bits.into(), exponent, mantissa));
                }
            }
        }
        for bits in (0..=u8::MAX).filter(|bits| bits & 0x7c != 0x7c) {
            let number = decoded(DType::F8E5M2, &[bits])[0];
            assert_eq!(f64::from(number), by_definition(bits.into(), 5, 2));
        }
    }

    proptest! {
        #[test]
        fn bf16_is_the_nearest(number in -1e30f32..1e30) {
            let mut bytes = [0; 2];
            let rounding = encode_bf16(&[number], &mut bytes);
            let off = |bits: u16| {
                let stored = f32::from_bits(u32::from(bits) << 16);
                (f64::from(stored) - f64::from(number)).abs()
            };
            let bits = u16::from_le_bytes(bytes);
            prop_assert!([bits - 1, bits + 1].into_iter().all(|other| off(bits) <= off(other)));
            prop_assert_eq!(rounding.changed == 1, off(bits) > 0.0);
            prop_assert!((rounding.error.sqrt() - off(bits)).abs() <= off(bits) * 1e-9);
        }
    }
}

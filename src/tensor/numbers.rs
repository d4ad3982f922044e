//! Stored numbers to f32 and back, little-endian as in SafeTensors.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{DType, Rounding};

/// Numbers that are handled at once, between two loops over them.
const CHUNK: usize = Rounding::AT_ONCE;

/// Decodes the numbers in `bytes`, of which there are as many as `numbers` takes.
/// Nothing where the dtype is none of BF16, F16, F32 and FP8 E5M2.
pub fn decode(dtype: DType, bytes: &[u8], numbers: &mut [f32]) -> Option<()> {
    match dtype {
        DType::BF16 => {
            each(bytes, numbers, |pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16))
        }
        DType::F16 => halves(bytes, numbers, u16::from_le_bytes),
        DType::F32 => each(bytes, numbers, f32::from_le_bytes),
        // The upper half of a number in F16.
        DType::F8E5M2 => halves(bytes, numbers, |[byte]| u16::from(byte) << 8),
        _ => return None,
    }
    Some(())
}

/// Numbers that are in F16, or made of bytes as `bits` says: the processor converts
/// many at once.
fn halves<const N: usize>(bytes: &[u8], numbers: &mut [f32], bits: impl Fn([u8; N]) -> u16) {
    let (stored, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && stored.len() == numbers.len(), "as many bytes as numbers");
    let mut halves = [f16::ZERO; CHUNK];
    for (stored, numbers) in stored.chunks(CHUNK).zip(numbers.chunks_mut(CHUNK)) {
        let halves = &mut halves[..stored.len()];
        halves
            .iter_mut()
            .zip(stored)
            .for_each(|(half, bytes)| *half = f16::from_bits(bits(*bytes)));
        halves.convert_to_f32_slice(numbers);
    }
}

fn each<const N: usize>(bytes: &[u8], numbers: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (chunks, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && chunks.len() == numbers.len(), "as many bytes as numbers");
    numbers.iter_mut().zip(chunks).for_each(|(number, bytes)| *number = decode(*bytes));
}

/// Numbers in BF16, F16 or F32, the nearest even one of two. Those that are not
/// finite, and those that round to infinity, are counted as such and no further.
/// Panics where the dtype is another one.
pub fn encode(dtype: DType, numbers: &[f32], bytes: &mut [u8]) -> Rounding {
    match dtype {
        DType::BF16 => by_chunks(numbers, bytes, |numbers| {
            let bits = numbers.map(|number| nearest_bf16(number.to_bits()));
            let back = bits.map(|bits| f32::from_bits(u32::from(bits) << 16));
            (bits.map(u16::to_le_bytes), back)
        }),
        DType::F16 => by_chunks(numbers, bytes, |numbers| {
            let (mut halves, mut back) = ([f16::ZERO; CHUNK], [0f32; CHUNK]);
            halves.convert_from_f32_slice(numbers);
            halves.convert_to_f32_slice(&mut back);
            (halves.map(f16::to_le_bytes), back)
        }),
        DType::F32 => {
            by_chunks(numbers, bytes, |numbers| (numbers.map(f32::to_le_bytes), *numbers))
        }
        _ => panic!("{dtype} is no format to write numbers in"),
    }
}

/// The upper half of a finite f32, rounded to the nearest, of two the even one.
fn nearest_bf16(bits: u32) -> u16 {
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Stores what `nearest` makes of numbers, and compares them with what it says that
/// they are then.
fn by_chunks<const N: usize>(
    numbers: &[f32],
    bytes: &mut [u8],
    nearest: impl Fn(&[f32; CHUNK]) -> ([[u8; N]; CHUNK], [f32; CHUNK]),
) -> Rounding {
    let mut rounding = Rounding::default();
    let (chunks, rest) = numbers.as_chunks::<CHUNK>();
    let (stored, rest_stored) = bytes.as_chunks_mut::<N>().0.as_chunks_mut::<CHUNK>();
    for (numbers, stored) in chunks.iter().zip(stored) {
        let back;
        (*stored, back) = nearest(numbers);
        rounding += Rounding::of(numbers, &back);
    }
    if !rest.is_empty() {
        // Zeros fill it up, and add nothing.
        let mut last = [0f32; CHUNK];
        last[..rest.len()].copy_from_slice(rest);
        let (stored, back) = nearest(&last);
        rest_stored.copy_from_slice(&stored[..rest.len()]);
        rounding += Rounding::of(&last, &back);
    }
    Rounding { numbers: numbers.len() as u64, ..rounding }
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
        let rounding = encode(DType::BF16, &[number], &mut bytes);
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

    /// Together as one by one, whether or not there is something to round.
    #[test]
    fn bf16_of_many_is_bf16_of_each() {
        for lower in [0, 0x8001] {
            let numbers: Vec<f32> =
                (0..77u32).map(|n| f32::from_bits((0x3f00 + 7 * n) << 16 | lower)).collect();
            let mut bytes = vec![0; 2 * numbers.len()];
            let all = encode(DType::BF16, &numbers, &mut bytes);
            let (mut sum, mut squares) = (0, 0.0);
            for (number, expected) in numbers.iter().zip(bytes.as_chunks::<2>().0) {
                let mut one = [0; 2];
                sum += encode(DType::BF16, &[*number], &mut one).changed;
                squares += f64::from(*number).powi(2);
                assert_eq!(one, *expected);
            }
            assert_eq!((all.numbers, all.changed), (77, sum));
            assert!((all.squares - squares).abs() <= 1e-12 * squares);
        }
    }

    #[test]
    fn f16_and_f32_of_a_number_of_theirs_are_that_number() {
        for bits in 0..=u16::MAX {
            let number = decoded(DType::F16, &bits.to_le_bytes())[0];
            for (dtype, expected) in [
                (DType::F16, bits.to_le_bytes().to_vec()),
                (DType::F32, number.to_le_bytes().to_vec()),
            ] {
                let mut bytes = vec![0; dtype.size() as usize];
                let rounding = encode(dtype, &[number], &mut bytes);
                let finite = number.is_finite();
                assert!(bytes == expected || number.is_nan(), "{bits:x}");
                assert_eq!((rounding.not_finite, rounding.changed), (u64::from(!finite), 0));
            }
        }
    }

    proptest! {
            /// No other of F16's numbers is nearer, and of two as near it is the even one.
            #[test]
            fn f16_is_the_nearest(number in any::<u32>().prop_map(f32::from_bits)) {
                prop_assume!(number.is_finite());
                let mut bytes = [0; 2];
                let rounding = encode(DType::F16, &[number], &mut bytes);
                let bits = u16::from_le_bytes(bytes);
                // Half a step beyond the largest number, 65,504, infinity is as near.
                prop_assert_eq!(rounding.overflowed, u64::from(number.abs() >= 65_520.0));
                prop_assume!(rounding.overflowed == 0);
                let off = |bits: u16| (by_definition(bits.into(), 5, 10) - f64::from(number)).abs();
                for other in [bits.wrapping_sub(1), bits.wrapping_add(1)] {
                    if other & 0x7c00 != 0x7c00 && bits & 0x7fff != 0 {
                        prop_assert!(off(bits) < off(other) || (off(bits) == off(other) && bits & 1 == 0));
                    }
                }
    prop_assert_eq!(rounding.changed, u64::from(off(bits) > 0.0));
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
            let rounding = encode(DType::BF16, &[1.0, number], &mut [0; 4]);
            assert_eq!((rounding.not_finite, rounding.overflowed, rounding.changed), (1, 0, 0));
            assert_eq!(rounding.squares, 1.0);
        }
    }
}

//! Integers compared with their definition, and with the best of many scales.

use gpt_oss_export::tensor::ints::{Bits, dequantize, from_mxfp4, quantize, to_digits};
use gpt_oss_export::tensor::mxfp4::{self, Block, Blocks};
use gpt_oss_export::tensor::{BLOCK_LENGTH, BlockValues, Rounding};
use proptest::prelude::*;

#[test]
fn values_are_as_specified() {
    let bytes: Vec<u8> = (0..=255).collect();
    for bits in Bits::ALL {
        let codes: Vec<u8> = match bits {
            Bits::Four => bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect(),
            Bits::Eight => bytes.clone(),
        };
        let zero = 2f32.powi(bits.count() as i32 - 1);
        let values = bytes.chunks(bits.block_bytes() as usize);
        let values = values.flat_map(|block| dequantize(bits, block, 0.75));
        assert!(values.eq(codes.into_iter().map(|code| (f32::from(code) - zero) * 0.75)), "{bits}");
    }
}

/// The squared error of the nearest 4-bit integers under a scale.
fn int4_error(scale: f64, values: &BlockValues) -> f64 {
    let error = |value: &f32| {
        let int = (f64::from(*value) / scale).round().clamp(-8.0, 7.0);
        (f64::from(*value) - int * scale).powi(2)
    };
    values.iter().map(error).sum()
}

/// The value of largest magnitude.
fn largest(values: &BlockValues) -> f64 {
    let largest = values.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a });
    f64::from(largest.unwrap_or(0.0))
}

/// What other tools do: the value of largest magnitude becomes -8.
fn usual_int4_error(values: &BlockValues) -> f64 {
    int4_error(largest(values) / -8.0, values)
}

/// The least of a thousand scales, from far too small to far too large.
fn least_int4_error(values: &BlockValues) -> f64 {
    let scales = (400..=1000).flat_map(|target| [target, -target]);
    let errors =
        scales.map(|target| int4_error(largest(values) * 100.0 / f64::from(target), values));
    errors.fold(f64::INFINITY, f64::min)
}

fn squared_error(values: &BlockValues, converted: &BlockValues) -> f64 {
    let error = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    values.iter().zip(converted).map(error).sum()
}

/// What values become as integers.
fn convert(bits: Bits, values: &BlockValues) -> (BlockValues, Rounding) {
    let mut codes = vec![0; bits.block_bytes() as usize];
    let (scale, rounding) = quantize(bits, values, &mut codes);
    (dequantize(bits, &codes, scale), rounding)
}

fn scaled_values() -> impl Strategy<Value = BlockValues> {
    (prop::array::uniform32(-1f32..1f32), -100i32..100).prop_map(|(values, exponent)| {
        values.map(|value| (f64::from(value) * 2f64.powi(exponent)) as f32)
    })
}

/// The digits of a row, and its scale.
fn digits(row: &[BlockValues]) -> (Vec<[i8; 2]>, f32, Rounding) {
    let mut digits = [vec![0; row.len() * BLOCK_LENGTH], vec![0; row.len() * BLOCK_LENGTH]];
    let [high, low] = &mut digits;
    let (scale, rounding) = to_digits(row, high, low);
    let pairs = digits[0].iter().zip(&digits[1]).map(|(high, low)| [*high as i8, *low as i8]);
    (pairs.collect(), scale, rounding)
}

proptest! {
    /// The nearest numbers of 16 bits under the least power of two in which the largest fits.
    #[test]
    fn two_digits_are_the_nearest_number(row in prop::collection::vec(scaled_values(), 1..4)) {
        let (digits, scale, rounding) = digits(&row);
        let largest = row.iter().map(|it| largest(it).abs()).fold(0.0, f64::max);
        let scale = f64::from(scale);
        prop_assert!(scale.log2().fract() == 0.0 && largest / scale <= 32639.0);
        prop_assert!(largest / scale > 16319.0 || scale == f64::from(f32::MIN_POSITIVE));
        let mut error = 0.0;
        for (value, [high, low]) in row.as_flattened().iter().zip(&digits) {
            let number = 256 * i32::from(*high) + i32::from(*low);
            prop_assert_eq!(f64::from(number), (f64::from(*value) / scale).round_ties_even());
            error += (f64::from(*value) - f64::from(number) * scale).powi(2);
        }
        prop_assert!((rounding.error - error).abs() <= error * 1e-6);
        prop_assert_eq!(rounding.values, row.len() as u64 * 32);
    }

    /// The best of a thousand scales may be better for one block; over many, it hardly is.
    #[test]
    fn is_near_its_values_and_better_than_usual(values in scaled_values()) {
        for bits in Bits::ALL {
            let (result, rounding) = convert(bits, &values);
            let error = squared_error(&values, &result);
            prop_assert!((rounding.error - error).abs() <= error * 1e-9);
            if bits == Bits::Four {
                prop_assert!(error <= 3.0 * least_int4_error(&values));
                prop_assert!(error <= 1.0001 * usual_int4_error(&values));
                continue;
            }
            let half = largest(&values).abs() / 127.0 * 0.5001;
            for (value, result) in values.iter().zip(&result) {
                prop_assert!(f64::from(value - result).abs() <= half, "{value:e} {result:e}");
            }
        }
    }

    #[test]
    fn counts_non_finite_values(values in prop::array::uniform32(any::<u32>())) {
        let values = values.map(f32::from_bits);
        let not_finite =
            |values: &BlockValues| values.iter().filter(|value| !value.is_finite()).count();
        for (result, rounding) in Bits::ALL.map(|bits| convert(bits, &values)) {
            prop_assert_eq!(rounding.not_finite, not_finite(&values) as u64);
            prop_assert_eq!(rounding.overflowed, not_finite(&result) as u64);
        }
    }

    /// Whichever way values come, as MXFP4 or decoded.
    #[test]
    fn mxfp4_blocks_become_what_their_values_become(
        blocks in prop::collection::vec((any::<u8>(), any::<[u8; 16]>()), 0..100),
        largest_scale in prop::sample::select(vec![mxfp4::LARGEST_SCALE, 255]),
        bits in prop::sample::select(&Bits::ALL[..]),
    ) {
        let limited = |(scale, codes): (u8, _)| (scale.min(largest_scale), codes);
        let (scales, codes): (Vec<_>, Vec<_>) = blocks.into_iter().map(limited).unzip();
        let blocks = Blocks { scales: &scales, codes: &codes };
        let block_bytes = bits.block_bytes() as usize;
        let (mut made, mut made_scales) =
            (vec![0; scales.len() * block_bytes], vec![0.0; scales.len()]);
        let rounding = from_mxfp4(bits, blocks, &mut made, &mut made_scales);
        let mut expected = Rounding::default();
        let made = made.chunks(block_bytes).zip(made_scales);
        for (block, (codes, scale)) in blocks.iter().zip(made) {
            let values = mxfp4::dequantize(&block);
            let (result, of_block) = convert(bits, &values);
            expected += of_block;
            if of_block.not_finite > 0 {
                continue;
            }
            prop_assert_eq!(dequantize(bits, codes, scale), result);
            let changed = values.iter().zip(&result).filter(|(value, result)| value != result);
            prop_assert_eq!(of_block.changed, changed.count() as u64);
            prop_assert!(bits == Bits::Four || of_block.is_lossless() && of_block.error == 0.0);
            let squares = squared_error(&values, &[0.0; BLOCK_LENGTH]);
            prop_assert!((of_block.squares - squares).abs() <= 1e-9 * squares);
            // Results are rounded to f32 when they are decoded.
            let error = squared_error(&values, &result);
            prop_assert!((of_block.error - error).abs() <= 1e-7 * squares);
        }
        if expected.not_finite == 0 {
            prop_assert!((rounding.squares - expected.squares).abs() <= 1e-12 * expected.squares);
            prop_assert!((rounding.error - expected.error).abs() <= 1e-12 * expected.error);
            prop_assert_eq!(rounding.changed, expected.changed);
        }
        prop_assert_eq!(rounding.not_finite, expected.not_finite);
    }
}

/// Normally distributed values, or as good as.
fn normal_blocks() -> Vec<BlockValues> {
    let mut random = 1u32;
    let mut uniform = move || {
        // Numerical Recipes' generator.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(random) / f64::from(u32::MAX) - 0.5
    };
    let mut normal = move || (0..12).map(|_| uniform()).sum::<f64>() as f32;
    (0..500).map(|_| std::array::from_fn(|_| normal())).collect()
}

#[test]
fn int4_is_near_the_least_error_over_many_blocks() {
    let normal = normal_blocks();
    let in_mxfp4 = normal.iter().map(|values| mxfp4::dequantize(&mxfp4::quantize(values).0));
    let random_codes = normal.iter().map(|values| {
        let codes = std::array::from_fn(|at| values[at].to_bits() as u8);
        mxfp4::dequantize(&Block { scale: 120, codes })
    });
    let sets =
        [(1.001, in_mxfp4.collect()), (1.001, random_codes.collect()), (1.02, normal.clone())];
    for (factor, blocks) in sets {
        let error: f64 = blocks.iter().map(|values| convert(Bits::Four, values).1.error).sum();
        let least: f64 = blocks.iter().map(least_int4_error).sum();
        let usual: f64 = blocks.iter().map(usual_int4_error).sum();
        assert!(error <= factor * least, "{error} against {least}");
        assert!(error <= 0.9 * usual, "{error} against {usual}");
    }
}

#[test]
fn converts_smallest_and_largest_values() {
    for bits in Bits::ALL {
        let mut values = [0f32; BLOCK_LENGTH];
        let (result, rounding) = convert(bits, &values);
        assert_eq!((result, rounding.changed), (values, 0));
        values[3] = f32::from_bits(5);
        assert!(convert(bits, &values).0.iter().all(|value| value.is_finite()));
        (values[3], values[4]) = (f32::MAX, 1.1);
        assert!(convert(bits, &values).0[3] >= 0.9 * f32::MAX);
    }
}

#[test]
fn two_digits_hold_bf16_within_64_times_of_the_largest() {
    // All magnitudes of eight bits, at all exponents that fit, and zeros.
    for exponent in [-120, -20, 0, 100] {
        let value = |at: usize| match at {
            0 | 1 => 0.0,
            at => {
                let magnitude =
                    (128 + at % 128) as f64 * 2f64.powi(exponent - (at / 128 % 7) as i32);
                (if at % 3 == 0 { -magnitude } else { magnitude }) as f32
            }
        };
        let row: Vec<BlockValues> =
            (0..32).map(|block| std::array::from_fn(|at| value(32 * block + at))).collect();
        assert!(digits(&row).2.is_lossless(), "{exponent}");
    }
    let mut row = vec![[1.0; BLOCK_LENGTH]];
    row[0][7] = f32::NAN;
    let (zeros, scale, rounding) = digits(&row);
    assert!(zeros.iter().all(|it| *it == [0, 0]) && scale == 1.0 && rounding.not_finite == 1);
}

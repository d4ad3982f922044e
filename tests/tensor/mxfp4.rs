//! MXFP4 compared with its specification, and with the best of all scales and codes.

use std::array;

use gpt_oss_export::tensor::mxfp4::{
    self, Block, Blocks, LARGEST_SCALE, dequantize, e8m0, quantize,
};
use gpt_oss_export::tensor::{BLOCK_LENGTH, BlockValues, DType, encode, not_finite};
use proptest::prelude::*;

/// The specification: sign · 2^(e−1) · (1 + m/2), or sign · m/2 where e = 0.
fn by_definition(code: u8, scale: u8) -> f64 {
    let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
    let mantissa = f64::from(code & 1) / 2.0;
    let magnitude = match code >> 1 & 3 {
        0 => mantissa,
        exponent => 2f64.powi(i32::from(exponent) - 1) * (1.0 + mantissa),
    };
    sign * magnitude * 2f64.powi(i32::from(scale) - 127)
}

#[test]
fn values_are_as_specified() {
    for scale in 0..=254 {
        assert_eq!(f64::from(e8m0(scale)), by_definition(2, scale));
        let largest_is_finite = by_definition(7, scale) <= f64::from(f32::MAX);
        assert_eq!(largest_is_finite, scale <= LARGEST_SCALE);
        for first in if largest_is_finite { vec![0, 240] } else { Vec::new() } {
            let block = Block { scale, codes: array::from_fn(|at| first + at as u8) };
            for (value, code) in dequantize(&block).into_iter().zip(block.each_code()) {
                assert_eq!(f64::from(value).to_bits(), by_definition(code, scale).to_bits());
            }
        }
    }
    assert!(e8m0(255).is_nan());
    assert_eq!(not_finite(DType::F8E8M0, &[0, 252, 253, 254, 255, 255]), 4);
}

#[test]
fn encodes_blocks_as_their_values() {
    // Every byte of codes under every scale.
    let scales: Vec<u8> = (0..=255).flat_map(|scale| [scale; 16]).collect();
    let codes: Vec<[u8; 16]> =
        (0..scales.len()).map(|n| array::from_fn(|at| (16 * n + at) as u8)).collect();
    let blocks = Blocks { scales: &scales, codes: &codes };
    let values: Vec<_> = blocks.iter().map(|block| dequantize(&block)).collect();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let bytes = || vec![0; values.len() * BLOCK_LENGTH * dtype.size() as usize];
        let (mut expected_bytes, mut bytes) = (bytes(), bytes());
        let expected = encode(dtype, &values, &mut expected_bytes);
        assert_eq!(mxfp4::encode(dtype, blocks, &mut bytes), expected);
        assert_eq!(bytes, expected_bytes);
    }
}

/// The least squared error under a scale, by trying every code.
fn least_error(values: &BlockValues, scale: u8) -> f64 {
    let codes = (0..16).map(|code| by_definition(code, scale));
    let finite: Vec<f64> = codes.filter(|code| code.abs() <= f64::from(f32::MAX)).collect();
    let error = |value: &f32| {
        let errors = finite.iter().map(|code| (f64::from(*value) - code).powi(2));
        errors.fold(f64::INFINITY, f64::min)
    };
    values.iter().map(error).sum()
}

/// Values below 1 times 2^exponent. Where some are much smaller, smaller scales pay.
fn scale(values: BlockValues, exponent: i32, sparse: u32) -> BlockValues {
    let factor = |at: usize| if sparse >> at & 1 == 1 { 0.05 } else { 1.0 };
    let scaled = |at: usize| f64::from(values[at] * factor(at)) * 2f64.powi(exponent);
    array::from_fn(|at| scaled(at) as f32)
}

proptest! {
    #[test]
    fn keeps_values_of_mxfp4(codes: [u8; 16], scale in 0..=LARGEST_SCALE) {
        let values = dequantize(&Block { scale, codes });
        let (block, rounding) = quantize(&values);
        prop_assert_eq!(dequantize(&block).map(f32::to_bits), values.map(f32::to_bits));
        prop_assert!(rounding.values == 32 && rounding.is_lossless() && rounding.error == 0.0);
    }

    /// Also where scales end: subnormal values, and beyond the largest scale.
    #[test]
    fn finds_best_scale_and_codes(
        values in prop::array::uniform32(-1f32..1f32),
        exponent in prop_oneof![-148i32..=-118, -100i32..100, 122i32..=128],
        sparse: u32,
    ) {
        let values = scale(values, exponent, sparse);
        let (block, rounding) = quantize(&values);
        let least = (0..=254).map(|scale| least_error(&values, scale)).fold(f64::INFINITY, f64::min);
        let sum = |error: fn((f32, f32)) -> f64| -> f64 {
            values.into_iter().zip(dequantize(&block)).map(error).sum()
        };
        let error = sum(|(value, back)| (f64::from(value) - f64::from(back)).powi(2));
        let squares = sum(|(value, _)| f64::from(value).powi(2));
        prop_assert!(error <= least * 1.0001, "{error:e} against {least:e}");
        prop_assert!((rounding.error - error).abs() <= error * 1e-4);
        prop_assert!((rounding.squares - squares).abs() <= squares * 1e-5);
    }

    #[test]
    fn makes_finite_blocks_of_any_bits(bits in prop::array::uniform32(any::<u32>())) {
        let values = bits.map(f32::from_bits);
        let (block, rounding) = quantize(&values);
        let not_finite = values.iter().filter(|value| !value.is_finite()).count() as u64;
        prop_assert_eq!((rounding.not_finite, rounding.overflowed), (not_finite, 0));
        prop_assert!(dequantize(&block).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn rounds_ties_to_even_codes() {
    let mut values = [0f32; BLOCK_LENGTH];
    values[..8].copy_from_slice(&[6.0, 0.25, 0.75, -1.25, 1.75, 2.5, -3.5, 5.0]);
    let back = dequantize(&quantize(&values).0);
    assert_eq!(back[..8], [6.0, 0.0, 1.0, -1.0, 2.0, 2.0, -4.0, 4.0]);
}

#[test]
fn reports_errors_far_below_the_scale() {
    let mut values = [0f32; BLOCK_LENGTH];
    values[..2].copy_from_slice(&[6.0 * 2f32.powi(100), f32::from_bits(1)]);
    let (_, rounding) = quantize(&values);
    assert_eq!((rounding.changed, rounding.error), (1, 2f64.powi(-298)));
    assert!(rounding.relative_error() > 0.0);
}

#[test]
fn keeps_signs_of_zeros() {
    let values: BlockValues = array::from_fn(|at| if at % 3 == 0 { -0.0 } else { 0.0 });
    let (block, rounding) = quantize(&values);
    assert_eq!(dequantize(&block).map(f32::to_bits), values.map(f32::to_bits));
    assert_eq!((block.scale, rounding.changed), (127, 0));
}

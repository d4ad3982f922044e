//! NVFP4 compared with its definition, and MXFP4 in it with its values.

use gpt_oss_export::tensor::mxfp4::{self, Block, Blocks, LARGEST_SCALE};
use gpt_oss_export::tensor::{DType, decode, not_finite, nvfp4};

/// E4M3 without infinity (OCP 8-bit floating point): four exponent bits with bias 7, three of a
/// mantissa, and NaN for all ones.
fn e4m3(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7) / 8.0);
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-6),
        15 if byte & 7 == 7 => f64::NAN,
        _ => (1.0 + mantissa) * 2f64.powi(exponent - 7),
    };
    if byte < 128 { magnitude } else { -magnitude }
}

#[test]
fn decodes_every_byte_of_e4m3() {
    let bytes: Vec<u8> = (0..=255).collect();
    for (byte, found) in bytes.iter().zip(decode(DType::F8E4M3, &bytes)) {
        let expected = e4m3(*byte);
        assert!(f64::from(found).to_bits() == expected.to_bits() || expected.is_nan(), "{byte}");
        assert_eq!(found.is_nan(), expected.is_nan(), "{byte}");
    }
    assert_eq!(not_finite(DType::F8E4M3, &bytes), 2);
}

/// Blocks with these scales, which hold all codes, or zeros alone.
fn blocks(scales: &[(u8, bool)]) -> (Vec<u8>, Vec<[u8; 16]>) {
    let all = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe].repeat(2).try_into().unwrap();
    // Zeros of both signs.
    let codes = |used: bool| if used { all } else { [0x80; 16] };
    scales.iter().map(|(scale, used)| (*scale, codes(*used))).unzip()
}

/// The values that a matrix has in NVFP4, by the definition, and what was rounded.
fn converted(scales: &[u8], codes: &[[u8; 16]]) -> (Vec<f64>, gpt_oss_export::tensor::Rounding) {
    let mut made = vec![[0xff; 2]; scales.len()];
    let (global, rounding) = nvfp4::from_mxfp4(Blocks { scales, codes }, &mut made);
    let values = codes.iter().zip(&made).flat_map(|(codes, made)| {
        let value = move |at: usize| {
            let code = codes[at / 2] >> (4 * (at % 2)) & 15;
            let e2m1 = f64::from(mxfp4::E2M1[usize::from(code)]);
            e2m1 * e4m3(made[at / 16]) * f64::from(global)
        };
        let by_program = nvfp4::dequantize(codes, *made, global);
        (0..32).map(value).zip(by_program).map(|(value, ours)| {
            assert_eq!(value.to_bits(), f64::from(ours).to_bits());
            value
        })
    });
    (values.collect(), rounding)
}

#[test]
fn scales_within_17_octaves_are_exact() {
    for largest in [17, 18, 100, 127, 135, LARGEST_SCALE] {
        let mut scales: Vec<_> = (0..=17).map(|below| (largest - below, true)).collect();
        // Blocks of zeros have any scale.
        scales.extend([(0, false), (254, false), (largest, true)]);
        let (scales, codes) = blocks(&scales);
        let (found, rounding) = converted(&scales, &codes);
        let expected = Blocks { scales: &scales, codes: &codes };
        let expected = expected.iter().map(|Block { scale, codes }| {
            let scale = if codes == [0x80; 16] { 0 } else { scale };
            mxfp4::dequantize(&Block { scale, codes })
        });
        let expected: Vec<f64> = expected.flatten().map(f64::from).collect();
        assert!(found.iter().map(|it| it.to_bits()).eq(expected.iter().map(|it| it.to_bits())));
        assert!(rounding.is_lossless() && rounding.error == 0.0);
    }
}

/// Smaller blocks become zeros, which are counted: 14 of 16 codes are other numbers.
#[test]
fn scales_18_octaves_apart_are_rounded_and_counted() {
    let (scales, codes) = blocks(&[(120, true), (103, true), (102, true), (60, true)]);
    let (found, rounding) = converted(&scales, &codes);
    let kept = Blocks { scales: &scales[..2], codes: &codes[..2] };
    let kept = kept.iter().flat_map(|block| mxfp4::dequantize(&block)).map(f64::from);
    assert!(found[..64].iter().copied().eq(kept));
    assert!(found[64..].iter().all(|value| *value == 0.0));
    let lost = Blocks { scales: &scales[2..], codes: &codes[2..] };
    let lost = lost.iter().flat_map(|block| mxfp4::dequantize(&block));
    let error: f64 = lost.map(|value| f64::from(value).powi(2)).sum();
    assert_eq!((rounding.changed, rounding.error), (2 * 28, error));
}

#[test]
fn matrices_of_zeros_have_a_scale() {
    let (scales, codes) = blocks(&[(3, false), (200, false)]);
    let (found, rounding) = converted(&scales, &codes);
    assert!(found.iter().all(|value| *value == 0.0) && rounding.is_lossless());
}

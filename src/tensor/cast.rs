//! Tensor data to f32 and back, little-endian as in SafeTensors.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{BLOCK_LENGTH, BlockValues, DType, Rounding};

/// Decodes BF16, F16, F32, FP8 E4M3 (without infinity), or FP8 E5M2, whose bytes are the upper
/// halves of F16 numbers.
/// Panics for other dtypes, and if the last element is not whole.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let length = bytes.len();
    let is_whole = length.is_multiple_of(dtype.size() as usize);
    assert!(is_whole, "{length} bytes are no whole number of elements in {dtype}");
    match dtype {
        DType::BF16 => {
            decode_each(bytes, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
        }
        DType::F16 => decode_f16(bytes, u16::from_le_bytes),
        DType::F32 => decode_each(bytes, f32::from_le_bytes),
        DType::F8E4M3 => decode_each(bytes, |[byte]| e4m3(byte)),
        DType::F8E5M2 => decode_f16(bytes, |[byte]| u16::from(byte) << 8),
        _ => panic!("{dtype} cannot be decoded as floats"),
    }
}

/// Decodes elements whose `bits` are F16, by the processor's own instructions.
fn decode_f16<const N: usize>(bytes: &[u8], bits: impl Fn([u8; N]) -> u16) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / N];
    let mut halves = [f16::ZERO; BLOCK_LENGTH];
    let blocks = bytes.as_chunks().0.chunks(BLOCK_LENGTH);
    for (elements, values) in blocks.zip(values.chunks_mut(BLOCK_LENGTH)) {
        let halves = &mut halves[..elements.len()];
        for (half, element) in halves.iter_mut().zip(elements) {
            *half = f16::from_bits(bits(*element));
        }
        halves.convert_to_f32_slice(values);
    }
    values
}

/// Its exponent and mantissa are the upper ones of an f32 whose exponent is 120 smaller.
fn e4m3(byte: u8) -> f32 {
    if byte & 0x7f == 0x7f {
        return f32::NAN;
    }
    let magnitude = f32::from_bits(u32::from(byte & 0x7f) << 20) * 2f32.powi(120);
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

fn decode_each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|element| decode(*element)).collect()
}

/// Encodes as BF16, F16 or F32, rounding to nearest even. Panics for other dtypes, and
/// unless `bytes` are as many elements as there are values.
pub fn encode(dtype: DType, values: &[BlockValues], bytes: &mut [u8]) -> Rounding {
    match dtype {
        DType::BF16 => encode_chunks(values, bytes, |values| {
            let bits = values.map(|value| nearest_bf16(value.to_bits()));
            (bits.map(u16::to_le_bytes), bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
        }),
        DType::F16 => encode_chunks(values, bytes, |values| {
            let (mut halves, mut rounded) = ([f16::ZERO; BLOCK_LENGTH], [0f32; BLOCK_LENGTH]);
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
    values: &[BlockValues],
    bytes: &mut [u8],
    encode: impl Fn(&BlockValues) -> ([[u8; N]; BLOCK_LENGTH], BlockValues),
) -> Rounding {
    assert_eq!(bytes.len(), values.as_flattened().len() * N);
    let mut rounding = Rounding::default();
    for (values, encoded) in values.iter().zip(bytes.as_chunks_mut().0.as_chunks_mut().0) {
        let rounded;
        (*encoded, rounded) = encode(values);
        rounding += Rounding::of(values, &rounded);
    }
    rounding
}

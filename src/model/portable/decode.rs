//! Stored numbers as floats, in standard operators.
//!
//! Integers have a scale for each block of 32: `(code − zero) · scale`, and digits are two such
//! integers, which are added. FP8 and E2M1 are looked up in tables.

use crate::error::Result;
use crate::graph::{Dim, Scope, Value};
use crate::model::{in_dtype, stored};
use crate::tensor::ints::{BASE, Bits};
use crate::tensor::{self, BLOCK, DType};
use crate::weights::{Matrix, MatrixFormat, Weight};

/// One expert's part of a weight, as stored.
pub fn gather_expert(g: &mut Scope, name: &str, weight: &Weight, expert: Value) -> Result<Value> {
    let all = stored(g, weight)?;
    g.gather(&format!("{name}.chosen"), all, expert, 0)
}

/// A matrix of floats or integers, or the part of it that `read` selects from each of its
/// weights, in a dtype. `read` takes a name for its nodes.
pub fn decoded(
    g: &mut Scope,
    matrix: &Matrix,
    dtype: DType,
    read: impl Fn(&mut Scope, &str, &Weight) -> Result<Value>,
) -> Result<Value> {
    let numbers = match matrix.format {
        MatrixFormat::Float(DType::F8E5M2) | MatrixFormat::FloatTransposed(DType::F8E5M2) => {
            let bytes = read(g, "weight", matrix.whole())?;
            fp8(g, "weight", DType::F8E5M2, bytes)?
        }
        MatrixFormat::Float(_) | MatrixFormat::FloatTransposed(_) => {
            read(g, "weight", matrix.whole())?
        }
        MatrixFormat::Int(bits) => {
            let [codes, scales] = matrix.codes_and_scales();
            let (codes, scales) = (read(g, "codes", codes)?, read(g, "scales", scales)?);
            from_integers(g, bits, codes, scales)?
        }
        MatrixFormat::Int4x2 => {
            let [codes, scales] = matrix.codes_and_scales();
            let (codes, scales) = (read(g, "codes", codes)?, read(g, "scales", scales)?);
            from_int4x2(g, codes, scales)?
        }
        MatrixFormat::Int8x2 => {
            let [high, low, scales] = matrix.digits_and_scales();
            let digits = [read(g, "high", high)?, read(g, "low", low)?];
            let (whole, scales) = (from_int8x2(g, digits)?, read(g, "scales", scales)?);
            let scales = g.unsqueeze("scales.rows", scales, 1)?;
            g.mul("numbers", whole, scales)?
        }
        MatrixFormat::Mxfp4 | MatrixFormat::Nvfp4 => {
            unreachable!("fp4::linear decodes 4-bit floats")
        }
    };
    in_dtype(g, "weight", numbers, dtype)
}

/// FP8 as f32, by a table: no runtime casts it on a CPU.
pub fn fp8(g: &mut Scope, name: &str, dtype: DType, bytes: Value) -> Result<Value> {
    let values = tensor::decode(dtype, &(0..=255).collect::<Vec<u8>>());
    look_up(&mut g.child(name), &dtype.to_string()[2..], &values, bytes, "f32")
}

/// Dequantizes codes u8 `[out, groups, 32 or 16]` with scales f32 `[out, groups]` to f32
/// `[out, groups · 32]`, by Cast, Sub and Mul: onnxruntime fuses DequantizeLinear with a
/// product into one with 8-bit activations.
fn from_integers(g: &mut Scope, bits: Bits, codes: Value, scales: Value) -> Result<Value> {
    let (block, shape) = (Dim::from(BLOCK), g.fact(codes)?.shape);
    let [out, groups] = [&shape[0], &shape[1]];
    let codes = match bits {
        Bits::Eight => codes,
        Bits::Four => {
            let [low, high] = nibbles(g, codes)?;
            let low = g.unsqueeze("low.pairs", low, 3)?;
            let high = g.unsqueeze("high.pairs", high, 3)?;
            let pairs = g.concat("codes.pairs", &[low, high], 3)?;
            g.reshape("codes.each", pairs, [out, groups, &block])?
        }
    };
    let whole = g.cast("codes.f32", codes, DType::F32)?;
    let zero = g.constant(f32::from(bits.zero()))?;
    let whole = g.sub("whole", whole, zero)?;
    let scales = g.unsqueeze("scales.blocks", scales, 2)?;
    let numbers = g.mul("numbers", whole, scales)?;
    g.reshape("matrix", numbers, [out, &(groups * &block)])
}

/// Dequantizes digits u8 `[out, 2, groups, 16]` with scales f32 `[out, 2, groups]` to f32
/// `[out, groups · 32]`.
fn from_int4x2(g: &mut Scope, codes: Value, scales: Value) -> Result<Value> {
    let shape = g.fact(codes)?.shape;
    let [out, two, groups, bytes] = &shape[..] else { unreachable!("digits have rank 4") };
    let rows = out * two;
    let codes = g.reshape("codes.rows", codes, [&rows, groups, bytes])?;
    let scales = g.reshape("scales.rows", scales, [&rows, groups])?;
    let terms = from_integers(g, Bits::Four, codes, scales)?;
    let terms = g.reshape("terms", terms, [out, two, &(groups * &BLOCK.into())])?;
    g.reduce_sum("sum", terms, 1, false)
}

/// `256·high + low`, i8 each, in f32. onnxruntime folds no DequantizeLinear when it loads a model.
fn from_int8x2(g: &mut Scope, [high, low]: [Value; 2]) -> Result<Value> {
    let high = g.cast("high.f32", high, DType::F32)?;
    let base = g.constant(BASE)?;
    let high = g.mul("high.scaled", high, base)?;
    let low = g.cast("low.f32", low, DType::F32)?;
    g.add("digits.f32", high, low)
}

/// The low and the high four bits of bytes.
pub fn nibbles(g: &mut Scope, bytes: Value) -> Result<[Value; 2]> {
    let (low, high) = (g.constant(0x0Fu8)?, g.constant(0xF0u8)?);
    let low = g.bitwise_and("low", bytes, low)?;
    // Masked before the shift: OpenVINO's shift rounds.
    let high = g.bitwise_and("high.in_place", bytes, high)?;
    Ok([low, g.shift_right("high", high, 4)?])
}

/// `values[bits]`, by a table of this name; the last node is called `name`. A flat
/// GatherElements runs several times faster than Gather in onnxruntime.
pub fn look_up(
    g: &mut Scope,
    table: &str,
    values: &[f32],
    bits: Value,
    name: &str,
) -> Result<Value> {
    let table = g.table(table, values)?;
    let shape = g.fact(bits)?.shape;
    let bits = g.cast("index", bits, DType::I32)?;
    let bits = g.reshape("flat", bits, [Dim::product(&shape)])?;
    let found = g.gather_elements("values", table, bits, 0)?;
    g.reshape(name, found, shape)
}

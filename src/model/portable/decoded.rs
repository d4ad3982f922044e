//! An expert's dense layer on floats or integers: its matrix is gathered, decoded to f32 and
//! cast to the compute dtype.

use super::gather_expert;
use crate::error::Result;
use crate::graph::{Dim, Scope, Value};
use crate::model::in_dtype;
use crate::model::portable::from_integers;
use crate::tensor::{self, DType};
use crate::weights::{Matrix, MatrixFormat, Weight};

/// `x [n, in]` to `[n, out]`, in the dtype of `x`, with the matrix and bias of `expert`.
pub fn linear(
    g: &mut Scope,
    x: Value,
    matrix: &Matrix,
    bias: &Weight,
    expert: Value,
) -> Result<Value> {
    let dtype = g.fact(x)?.dtype;
    let weight = match matrix.format {
        MatrixFormat::Float(_) | MatrixFormat::FloatTransposed(_) => {
            numbers(g, matrix.whole(), expert, dtype)?
        }
        MatrixFormat::Int(bits) => {
            let [codes, scales] = matrix.codes_and_scales();
            let codes = gather_expert(g, "codes", codes, expert)?;
            let scales = gather_expert(g, "scales", scales, expert)?;
            let numbers = from_integers(g, bits, codes, scales)?;
            in_dtype(g, "weight", numbers, dtype)?
        }
        MatrixFormat::Mxfp4 | MatrixFormat::Mxfp4ColMajor => {
            unreachable!("MXFP4 is decoded by mxfp4::linear")
        }
    };
    let bias = gather_expert(g, "bias", bias, expert)?;
    let bias = in_dtype(g, "bias", bias, dtype)?;
    match matrix.format {
        MatrixFormat::FloatTransposed(_) => g.gemm_input_major("", x, weight, Some(bias)),
        _ => g.gemm("", x, weight, Some(bias)),
    }
}

/// One expert's matrix of floats, cast to a dtype.
fn numbers(g: &mut Scope, weight: &Weight, expert: Value, dtype: DType) -> Result<Value> {
    let chosen = gather_expert(g, "weight", weight, expert)?;
    let numbers = match weight.dtype {
        DType::F8E5M2 => from_e5m2(g, chosen)?,
        _ => chosen,
    };
    in_dtype(g, "weight", numbers, dtype)
}

/// The values of FP8 bytes, by a table: no runtime casts FP8 on a CPU.
fn from_e5m2(g: &mut Scope, bytes: Value) -> Result<Value> {
    let numbers = tensor::decode(DType::F8E5M2, &(0..=255).collect::<Vec<u8>>());
    let table = g.table("e5m2", &numbers[..])?;
    let shape = g.fact(bytes)?.shape;
    let index = g.cast("weight.index", bytes, DType::I32)?;
    let index = g.reshape("weight.flat", index, [Dim::product(&shape)])?;
    let found = g.gather_elements("weight.values", table, index, 0)?;
    g.reshape("weight.f32", found, shape)
}

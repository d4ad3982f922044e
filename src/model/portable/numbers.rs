//! An expert's dense layer on weights that are stored as numbers.

use crate::graph::{Result, Scope, Value};
use crate::model::{in_f32, stored};
use crate::tensor::{DType, e5m2};
use crate::weights::Weight;

/// `x [n, in]` to `[n, out]` by one of the matrices `[experts, out, in]`, or
/// `[experts, in, out]` when they are input-major, and its bias.
pub fn linear(
    g: &mut Scope,
    x: Value,
    [weight, bias]: [&Weight; 2],
    input_major: bool,
    expert: Value,
) -> Result<Value> {
    let (all, biases) = (stored(g, weight)?, stored(g, bias)?);
    let chosen = g.gather("weight.chosen", all, expert, 0)?;
    let matrix = match weight.dtype {
        DType::F8E5M2 => from_e5m2(g, chosen)?,
        _ => in_f32(g, "weight.f32", chosen)?,
    };
    let bias = g.gather("bias.chosen", biases, expert, 0)?;
    let bias = in_f32(g, "bias.f32", bias)?;
    if input_major {
        g.gemm_input_major("", x, matrix, Some(bias))
    } else {
        g.gemm("", x, matrix, Some(bias))
    }
}

/// The numbers that bytes stand for in FP8: no runtime casts them on a CPU.
fn from_e5m2(g: &mut Scope, bytes: Value) -> Result<Value> {
    let numbers: Vec<f32> = (0..=255).map(e5m2).collect();
    let table = g.table("e5m2", &numbers[..])?;
    let shape = g.fact(bytes)?.shape;
    let index = g.cast("weight.index", bytes, DType::I32)?;
    let index = g.reshape("weight.flat", index, [crate::graph::Dim::product(&shape)])?;
    let found = g.gather_elements("weight.values", table, index, 0)?;
    g.reshape("weight.f32", found, shape)
}

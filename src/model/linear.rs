//! Dense layers: `x · Wᵀ + b`, with `W [out, in]` as checkpoints store it.

use std::ops::Range;

use super::{float, in_f32};
use crate::checkpoint::Linear;
use crate::graph::{Fact, Result, Scope, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// Largest f32 form of a matrix, in bytes, that is cast as a whole. onnxruntime
/// folds a cast only if its result is at most 1 GiB; above, it runs on every
/// step. Splitting costs a second copy of the product.
const LARGEST_WHOLE: u64 = 512 << 20;

/// Largest f32 form of a part of a matrix that must be split: onnxruntime holds
/// two of each result while it folds, so small parts keep the peak at loading
/// low, and run as fast.
const LARGEST_PART: u64 = 128 << 20;

/// `x [n, in]` to `[n, out]`.
pub fn linear(g: &mut Scope, name: &str, x: Value, layer: &Linear) -> Result<Value> {
    let g = &mut g.child(name);
    let weight = float(g, "weight", &layer.weight)?;
    let bias = layer.bias.as_ref().map(|bias| float(g, "bias", bias)).transpose()?;
    g.gemm("", x, weight, bias)
}

/// `x [n, in]` to `[n, out]` without a bias, for a matrix of any size: whole,
/// or in chunks of rows, which are byte ranges of the same weight.
pub fn projection(g: &mut Scope, name: &str, x: Value, weight: &Weight) -> Result<Value> {
    let g = &mut g.child(name);
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    let row = columns * DType::F32.size();
    if rows.saturating_mul(row) <= LARGEST_WHOLE {
        let weight = float(g, "weight", weight)?;
        return g.gemm("", x, weight, None);
    }
    let most = (LARGEST_PART / row).max(1);
    let step = rows.div_ceil(rows.div_ceil(most));
    let parts = (0..rows).step_by(step as usize).map(|first| {
        let g = &mut g.child(&format!("rows_{first}"));
        let part = row_range(g, weight, first..rows.min(first + step))?;
        g.gemm("", x, part, None)
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    g.concat("", &parts, 1)
}

/// Some rows of a matrix, in f32.
fn row_range(g: &mut Scope, weight: &Weight, rows: Range<u64>) -> Result<Value> {
    let row = weight.shape[1] * weight.dtype.size();
    let fact = Fact::new(weight.dtype, [rows.end - rows.start, weight.shape[1]]);
    let name = format!("{}.rows_{}", weight.name, rows.start);
    let part = g.weight(&name, fact, &weight.name, rows.start * row..rows.end * row)?;
    in_f32(g, "weight.f32", part)
}

//! Dense layers: `x · Wᵀ + b`, with `W [out, in]` as checkpoints store it.

use super::float;
use crate::checkpoint::Linear;
use crate::graph::{Fact, Result, Scope, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// onnxruntime folds a node on constants, such as a weight's cast to f32, only
/// if the result is at most 1 GiB; above, it would run on every step.
const LARGEST_FOLDED: u64 = 1 << 30;

/// `x [n, in]` to `[n, out]`.
pub fn linear(g: &mut Scope, name: &str, x: Value, layer: &Linear) -> Result<Value> {
    let g = &mut g.child(name);
    let weight = float(g, "weight", &layer.weight)?;
    let bias = float(g, "bias", &layer.bias)?;
    g.gemm("", x, weight, Some(bias))
}

/// `x [n, in]` to `[n, out]` without a bias, for a matrix of any size: in
/// chunks of rows (byte ranges of the same weight) that can each be folded.
pub fn projection(g: &mut Scope, name: &str, x: Value, weight: &Weight) -> Result<Value> {
    let g = &mut g.child(name);
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    let chunks = (rows * columns * DType::F32.size()).div_ceil(LARGEST_FOLDED);
    if chunks == 1 {
        let weight = float(g, "weight", weight)?;
        return g.gemm("", x, weight, None);
    }
    let step = rows.div_ceil(chunks);
    let row_bytes = columns * weight.dtype.size();
    let mut parts = Vec::new();
    for first in (0..rows).step_by(step as usize) {
        let end = rows.min(first + step);
        let g = &mut g.child(&format!("rows_{first}"));
        let fact = Fact::new(weight.dtype, [end - first, columns]);
        let name = format!("{}.rows_{first}", weight.name);
        let part = g.weight(&name, fact, &weight.name, first * row_bytes..end * row_bytes)?;
        let part =
            if weight.dtype == DType::F32 { part } else { g.cast("weight.f32", part, DType::F32)? };
        parts.push(g.gemm("", x, part, None)?);
    }
    g.concat("", &parts, 1)
}

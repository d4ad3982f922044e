//! Dense layers: `x · Wᵀ + b`, with `W [out, in]` as checkpoints store it.

use std::ops::Range;

use super::changes::change_product;
use super::context::Context;
use super::options::Target;
use super::{float, ort, portable, row_ranges, stored_rows};
use crate::checkpoint::Linear;
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;
use crate::weights::{Matrix, MatrixFormat, Weight};

/// Largest matrix, in bytes of f32, that is cast as a whole. onnxruntime folds a cast of at
/// most 1 GiB; a larger one runs in every step. Splitting copies the product once more.
const LARGEST_WHOLE: u64 = 512 << 20;

/// Largest part of a split matrix, in bytes of f32. onnxruntime holds each result twice while
/// it folds, so small parts keep the peak memory of loading low, at the same speed.
const LARGEST_PART: u64 = 128 << 20;

/// `x [n, in]` to `[n, out]`, in the dtype of `x`.
pub fn linear(
    g: &mut Scope,
    name: &str,
    x: Value,
    layer: &Linear,
    context: &Context,
) -> Result<Value> {
    let g = &mut g.child(name);
    let y = product(g, x, layer, context)?;
    change_product(g, y, x, &layer.changes, None)
}

/// Several layers with one input, their outputs one after the other: `x [n, in]` to `[n, Σ out]`.
pub fn linears(
    g: &mut Scope,
    name: &str,
    x: Value,
    layers: [(&str, &Linear); 3],
    context: &Context,
) -> Result<Value> {
    let has_bias = layers[0].1.bias.is_some();
    let share_digits = layers.iter().all(|(_, layer)| {
        context.options.multiplies_digits(layer.matrix.format)
            && layer.changes.is_empty()
            && layer.bias.is_some() == has_bias
    });
    if !share_digits {
        let parts = layers.map(|(name, layer)| linear(g, name, x, layer, context));
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        return g.concat(name, &parts, 1);
    }
    let g = &mut g.child(name);
    let dtype = g.fact(x)?.dtype;
    let y = ort::digits::linear(g, x, &layers.map(|(_, layer)| &layer.matrix))?;
    let mut biases = Vec::new();
    for (name, layer) in layers {
        if let Some(bias) = &layer.bias {
            biases.push(float(g, &format!("{name}.bias"), bias, dtype)?);
        }
    }
    if biases.is_empty() {
        return Ok(y);
    }
    let bias = g.concat("bias", &biases, 0)?;
    g.add("", y, bias)
}

/// The product with the stored matrix. A large one is multiplied in parts of its rows, which are
/// byte ranges of the same weights.
fn product(g: &mut Scope, x: Value, layer: &Linear, context: &Context) -> Result<Value> {
    let dtype = g.fact(x)?.dtype;
    let bias = layer.bias.as_ref().map(|bias| float(g, "bias", bias, dtype)).transpose()?;
    let (matrix, options) = (&layer.matrix, &context.options);
    if let (Target::Ort, MatrixFormat::Int(bits)) = (options.target, matrix.format)
        && ort::multiplies_integers(bits, options)
    {
        return ort::integers(g, x, matrix, bits, bias, options);
    }
    if options.multiplies_digits(matrix.format) {
        let y = ort::digits::linear(g, x, &[matrix])?;
        return bias.map_or(Ok(y), |bias| g.add("", y, bias));
    }
    let Matrix { out, inn, format, .. } = *matrix;
    let is_transposed = matches!(format, MatrixFormat::FloatTransposed(_));
    assert!(!is_transposed, "dense layers are not transposed: their rows are byte ranges");
    let part = |g: &mut Scope, rows: Range<u64>, bias| {
        let read = |g: &mut Scope, _: &str, weight: &Weight| stored_rows(g, weight, rows.clone());
        let weight = portable::decoded(g, matrix, dtype, read)?;
        g.gemm("", [x, weight], bias, true)
    };
    let row = inn * DType::F32.size();
    if out.saturating_mul(row) <= LARGEST_WHOLE {
        return part(g, 0..out, bias);
    }
    let parts = row_ranges(out, LARGEST_PART / row)
        .map(|rows| part(&mut g.child(&format!("rows_{}", rows.start)), rows, None));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let Some(bias) = bias else { return g.concat("", &parts, 1) };
    let whole = g.concat("unbiased", &parts, 1)?;
    g.add("", whole, bias)
}

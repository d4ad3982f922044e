//! Dense layers: `x · Wᵀ + b`, with `W [out, in]` as checkpoints store it.

use std::ops::Range;

use super::context::{Backend, Context};
use super::{float, in_dtype, ort, portable, stored_rows};
use crate::checkpoint::Linear;
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;
use crate::weights::{Matrix, MatrixFormat};

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
    let dtype = g.fact(x)?.dtype;
    let g = &mut g.child(name);
    let bias = layer.bias.as_ref().map(|bias| float(g, "bias", bias, dtype)).transpose()?;
    product(g, x, &layer.matrix, bias, context)
}

/// `x [n, in]` to `[n, out]` without a bias.
pub fn projection(
    g: &mut Scope,
    name: &str,
    x: Value,
    matrix: &Matrix,
    context: &Context,
) -> Result<Value> {
    product(&mut g.child(name), x, matrix, None, context)
}

/// The product with a matrix of any size: whole, or by chunks of its rows, which are byte
/// ranges of the same weights.
fn product(
    g: &mut Scope,
    x: Value,
    matrix: &Matrix,
    bias: Option<Value>,
    context: &Context,
) -> Result<Value> {
    if let (Backend::Ort(_), MatrixFormat::Int(bits)) = (&context.backend, matrix.format)
        && ort::multiplies_integers(bits, context)
    {
        return ort::integers(g, x, bits, matrix.codes_and_scales(), bias, context);
    }
    let Matrix { out, inn, .. } = *matrix;
    let row = inn * DType::F32.size();
    if out.saturating_mul(row) <= LARGEST_WHOLE {
        let weight = rows(g, x, matrix, 0..out)?;
        return g.gemm("", x, weight, bias);
    }
    let most = (LARGEST_PART / row).max(1);
    let step = out.div_ceil(out.div_ceil(most));
    let parts = (0..out).step_by(step as usize).map(|first| {
        let g = &mut g.child(&format!("rows_{first}"));
        let part = rows(g, x, matrix, first..out.min(first + step))?;
        g.gemm("", x, part, None)
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    match bias {
        None => g.concat("", &parts, 1),
        Some(bias) => {
            let whole = g.concat("unbiased", &parts, 1)?;
            g.add("", whole, bias)
        }
    }
}

/// Some rows of a matrix as floats, in the dtype of `x`.
fn rows(g: &mut Scope, x: Value, matrix: &Matrix, rows: Range<u64>) -> Result<Value> {
    let dtype = g.fact(x)?.dtype;
    match matrix.format {
        MatrixFormat::Float(_) => {
            let part = stored_rows(g, matrix.whole(), rows)?;
            in_dtype(g, "weight", part, dtype)
        }
        MatrixFormat::Int(bits) => {
            let [codes, scales] = matrix.codes_and_scales();
            let codes = stored_rows(g, codes, rows.clone())?;
            let scales = stored_rows(g, scales, rows)?;
            let numbers = portable::from_integers(g, bits, codes, scales)?;
            in_dtype(g, "weight", numbers, dtype)
        }
        format => unreachable!("dense layers are not stored in {format}"),
    }
}

//! GPT-OSS as functions over a graph scope: one file for each part of the model, each
//! beginning with its formula. The source of all formulas is OpenAI's own implementation,
//! `gpt_oss/torch/model.py` in openai/gpt-oss.
//!
//! `portable` has standard operators, `ort` those of ONNX Runtime. The graph asks for
//! weights by their canonical names; where their bytes are is not known here.

mod changes;
mod context;
mod decoder;
mod layer;
mod linear;
mod mask;
mod norm;
mod options;
mod ort;
mod packing;
mod part;
mod portable;
mod rope;
mod rules;
mod sequence;
mod window;

use std::ops::Range;

pub use decoder::{RESIDUALS, ROUTERS, decoder};
pub use layer::layers_slowed_by_adapters;
pub use options::{BatchSymbol, GraphOptions, Provider, SlidingCache, Target};
pub use part::{ModelPart, StageNumber, cut, hidden_states, part_of};
pub use rules::{check_options, exact_settings};
pub use window::{LimitedCaches, SLACK, limited_caches};

use crate::error::Result;
pub use crate::graph::Style;
use crate::graph::{Fact, Scope, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// Slope of SwiGLU's sigmoid.
const SWIGLU_ALPHA: f32 = 1.702;

/// A weight as stored, under a dtype of the same size that the operators know: the codes
/// and scales of MXFP4 and NVFP4, and FP8, are bytes.
fn stored(g: &mut Scope, weight: &Weight) -> Result<Value> {
    stored_rows(g, weight, 0..weight.shape[0])
}

/// Some rows of a weight: a byte range of it.
fn stored_rows(g: &mut Scope, weight: &Weight, rows: Range<u64>) -> Result<Value> {
    let dtype = match weight.dtype {
        DType::F8E8M0 | DType::F8E4M3 | DType::F8E5M2 => DType::U8,
        dtype => dtype,
    };
    let all = 0..weight.shape[0];
    let name = if rows == all {
        weight.name.clone()
    } else {
        format!("{}.rows_{}", weight.name, rows.start)
    };
    let row = weight.bytes() / all.end;
    let shape = [&[rows.end - rows.start], &weight.shape[1..]].concat();
    g.weight(&name, Fact::new(dtype, shape), &weight.name, rows.start * row..rows.end * row)
}

/// Ranges of rows, as few as have at most `most` rows each, and one row at least.
fn row_ranges(rows: u64, most: u64) -> impl Iterator<Item = Range<u64>> {
    let step = rows.div_ceil(rows.div_ceil(most.max(1)));
    (0..rows).step_by(step as usize).map(move |first| first..rows.min(first + step))
}

/// A weight cast to a dtype. onnxruntime folds the cast when it loads the model.
fn float(g: &mut Scope, name: &str, weight: &Weight, dtype: DType) -> Result<Value> {
    let value = stored(g, weight)?;
    in_dtype(g, name, value, dtype)
}

/// A value cast to a dtype, unless it has it.
fn in_dtype(g: &mut Scope, name: &str, value: Value, dtype: DType) -> Result<Value> {
    if g.fact(value)?.dtype == dtype {
        return Ok(value);
    }
    g.cast(&format!("{name}.{dtype}"), value, dtype)
}

/// Sinks `[heads]` in a dtype, clipped to finite values: a sink of −∞ (a head without one) or
/// beyond the dtype's range would give NaN in a product with 0.
fn finite_sinks(g: &mut Scope, sinks: &Weight, dtype: DType) -> Result<Value> {
    let sinks = float(g, "sinks", sinks, DType::F32)?;
    let largest = dtype.largest();
    let sinks = g.clip("sinks.finite", sinks, -largest, largest)?;
    in_dtype(g, "sinks", sinks, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_each_row_once_and_fit() {
        for (rows, most) in [(1, 9), (201_089, 23_301), (201_088, 23_301), (700_001, 9), (3, 0)] {
            let ranges: Vec<_> = row_ranges(rows, most).collect();
            assert!(ranges.windows(2).all(|it| it[0].end == it[1].start), "{ranges:?}");
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, rows));
            let fits = |it: &Range<u64>| (1..=most.max(1)).contains(&(it.end - it.start));
            assert!(ranges.iter().all(fits), "{rows} {most}: {ranges:?}");
        }
    }
}

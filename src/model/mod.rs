//! GPT-OSS as functions over a graph scope: one file for each part of the
//! model, each beginning with its formula. The source of all formulas is
//! OpenAI's own implementation, `gpt_oss/torch/model.py` in openai/gpt-oss.
//!
//! Where ONNX Runtime has operators of its own, `portable` and `ort` hold the
//! two ways. The graph asks for weights by their canonical names; where their
//! bytes are is not known here.

mod attention;
mod decoder;
mod linear;
mod moe;
mod norm;
mod options;
mod ort;
mod portable;
mod rope;
mod rules;
mod sequence;

pub use decoder::{RESIDUALS, ROUTERS, decoder};
pub use options::{KEPT, Options, Target};
pub use rules::check_options;

pub use crate::graph::Style;
pub use crate::runtime::Provider;

use std::ops::Range;

use crate::graph::{self, Fact, Result, Scope, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// Why there is no graph of a model.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("the graph could not be wired (please report this)")]
    Graph(#[from] graph::Error),
    #[error(
        "--functions does not go with --target ort and experts in MXFP4: onnxruntime takes no MXFP4 scales as a function's input"
    )]
    FunctionsForOrt,
    #[error("--ep {provider} does not go with {what}: {instead}")]
    NotForProvider { provider: Provider, what: String, instead: String },
    #[error("--compute takes no {0}")]
    Compute(DType),
    #[error("--ep {0} is for --target ort: standard operators are the same for all providers")]
    ProviderForOnnx(Provider),
    #[error(
        "experts that were laid out for CUDA run with --target ort --ep cuda alone: export the checkpoint itself"
    )]
    LaidOutForCuda,
    #[error(
        "--target ort does not go with a head_dim of {found}: onnxruntime's GroupQueryAttention takes multiples of 8; use --target onnx --kv-cache"
    )]
    HeadDimForOrt { found: u64 },
}

/// A weight as it is stored, under a dtype of the same size that the graph's
/// operators know: MXFP4's blocks and scales are bytes, and so is FP8.
fn stored(g: &mut Scope, weight: &Weight) -> Result<Value> {
    stored_rows(g, weight, 0..weight.shape[0])
}

/// Some of a weight's rows likewise: a byte range of the same weight.
fn stored_rows(g: &mut Scope, weight: &Weight, rows: Range<u64>) -> Result<Value> {
    let dtype = match weight.dtype {
        DType::F8E8M0 | DType::F8E5M2 => DType::U8,
        dtype => dtype,
    };
    let all = 0..weight.shape[0];
    let name = match rows == all {
        true => weight.name.clone(),
        false => format!("{}.rows_{}", weight.name, rows.start),
    };
    let row = weight.bytes() / all.end;
    let shape = [&[rows.end - rows.start], &weight.shape[1..]].concat();
    g.weight(&name, Fact::new(dtype, shape), &weight.name, rows.start * row..rows.end * row)
}

/// A weight in a dtype. onnxruntime folds the cast when it loads the model.
fn number(g: &mut Scope, name: &str, weight: &Weight, dtype: DType) -> Result<Value> {
    let value = stored(g, weight)?;
    in_dtype(g, name, value, dtype)
}

/// A value in a dtype: cast, unless it is.
fn in_dtype(g: &mut Scope, name: &str, value: Value, dtype: DType) -> Result<Value> {
    match g.fact(value)?.dtype == dtype {
        true => Ok(value),
        false => g.cast(&format!("{name}.{dtype}"), value, dtype),
    }
}

/// A number in a dtype.
fn constant(g: &mut Scope, number: f32, dtype: DType) -> Result<Value> {
    let constant = g.constant(number)?;
    match dtype {
        DType::F32 => Ok(constant),
        dtype => g.shared(&format!("constant.{number}.{dtype}"), |g| {
            g.cast(&format!("constant.{number}.{dtype}"), constant, dtype)
        }),
    }
}

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
mod sequence;

pub use decoder::{RESIDUALS, ROUTERS, decoder};
pub use options::{Options, Target};

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
    #[error(
        "--target ort does not go with a head_dim of {found}: onnxruntime's GroupQueryAttention takes multiples of 8; use --target onnx --kv-cache"
    )]
    HeadDimForOrt { found: u64 },
}

/// A weight as it is stored, under a dtype of the same size that the graph's
/// operators know: MXFP4's blocks and scales are bytes, and so is FP8.
fn stored(g: &mut Scope, weight: &Weight) -> Result<Value> {
    let dtype = match weight.dtype {
        DType::F8E8M0 | DType::F8E5M2 => DType::U8,
        dtype => dtype,
    };
    let fact = Fact::new(dtype, weight.shape.iter().copied());
    g.weight(&weight.name, fact, &weight.name, 0..weight.bytes())
}

/// A weight in f32. onnxruntime folds the cast when it loads the model.
fn float(g: &mut Scope, name: &str, weight: &Weight) -> Result<Value> {
    let value = stored(g, weight)?;
    in_f32(g, &format!("{name}.f32"), value)
}

/// A value in f32: cast, unless it is.
fn in_f32(g: &mut Scope, name: &str, value: Value) -> Result<Value> {
    match g.fact(value)?.dtype {
        DType::F32 => Ok(value),
        _ => g.cast(name, value, DType::F32),
    }
}

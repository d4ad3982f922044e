//! Attention and experts in ONNX Runtime's own operators.

mod attention;
mod experts;
mod linear;
mod packing;

pub use attention::attention;
pub use experts::{experts, has_experts};
pub use linear::integers;
pub use packing::Packing;

use super::{Error, Options};
use crate::checkpoint::{Config, LayerWeights, ModelWeights};
use crate::graph::Style;
use crate::weights::Matrix;

/// GroupQueryAttention takes heads of a width that is a multiple of this.
const HEAD_DIM_MULTIPLE: u64 = 8;

/// Whether the operators take such a graph of a model of these sizes.
pub fn check(config: &Config, weights: &ModelWeights, options: &Options) -> Result<(), Error> {
    if !config.head_dim.is_multiple_of(HEAD_DIM_MULTIPLE) {
        return Err(Error::HeadDimForOrt { found: config.head_dim });
    }
    let has_scales = |layer: &LayerWeights| {
        let mut matrices = [&layer.mlp.gate_up.matrix, &layer.mlp.down.matrix].into_iter();
        matrices.any(|matrix| matches!(matrix, Matrix::Mxfp4 { .. }))
    };
    match options.style {
        Style::Functions if weights.layers.iter().any(has_scales) => Err(Error::FunctionsForOrt),
        _ => Ok(()),
    }
}

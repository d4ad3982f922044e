//! Attention and experts in ONNX Runtime's own operators.

mod attention;
mod experts;
mod packing;

pub use attention::attention;
pub use experts::experts;
pub use packing::Packing;

use super::{Error, Options};
use crate::checkpoint::Config;
use crate::graph::Style;

/// GroupQueryAttention takes heads of a width that is a multiple of this.
const HEAD_DIM_MULTIPLE: u64 = 8;

/// Whether the operators take such a graph of a model of these sizes.
pub fn check(config: &Config, options: &Options) -> Result<(), Error> {
    if !config.head_dim.is_multiple_of(HEAD_DIM_MULTIPLE) {
        return Err(Error::HeadDimForOrt { found: config.head_dim });
    }
    match options.style {
        Style::Flat => Ok(()),
        Style::Functions => Err(Error::FunctionsForOrt),
    }
}

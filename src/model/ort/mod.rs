//! Attention and experts in ONNX Runtime's own operators.

mod attention;
mod experts;
mod lengths;

pub use attention::attention;
pub use experts::experts;
pub use lengths::Lengths;

use super::Error;
use crate::checkpoint::Config;

/// Whether the operators take a model of these sizes.
pub fn check(config: &Config) -> Result<(), Error> {
    if config.head_dim.is_multiple_of(HEAD_DIM) {
        return Ok(());
    }
    Err(Error::HeadDimForOrt { found: config.head_dim })
}

/// GroupQueryAttention takes heads of a multiple of this width.
const HEAD_DIM: u64 = 8;

//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod experts;
mod mask;
mod mxfp4;
mod numbers;

pub use attention::attention;
pub use experts::experts;
pub use mask::Mask;

//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod experts;
mod ints;
mod mask;
mod mxfp4;
mod numbers;

pub use attention::attention;
pub use experts::experts;
pub use ints::from_integers;
pub use mask::Mask;

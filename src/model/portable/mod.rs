//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod decoded;
mod experts;
mod ints;
mod mask;
mod mxfp4;

pub use attention::attention;
pub use experts::experts;
pub use ints::from_integers;
pub use mask::Mask;

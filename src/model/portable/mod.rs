//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod decode;
mod experts;
mod fp4;

pub use attention::attention;
pub use decode::decoded;
pub use experts::experts;

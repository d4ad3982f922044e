//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod decode;
mod digits;
mod experts;
mod fp4;

pub use attention::attention;
pub use decode::decoded;
pub use digits::product_with_digits;
pub use experts::experts;

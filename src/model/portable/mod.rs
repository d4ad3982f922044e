//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod decode;
mod experts;
mod fp4;

pub use attention::attention;
pub use decode::{decoded, from_int8x2, product_with_digits};
pub use experts::experts;

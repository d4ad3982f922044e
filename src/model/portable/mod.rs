//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod decode;
mod experts;
mod mxfp4;

pub use attention::attention;
pub use decode::{decoded, from_digits, product_with_digits};
pub use experts::experts;

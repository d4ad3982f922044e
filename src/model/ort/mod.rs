//! Attention and experts in ONNX Runtime's own operators.

mod attention;
mod experts;
mod linear;

pub use attention::attention;
pub use experts::{experts, reads_experts};
pub use linear::{integers, multiplies_integers, product_with_digits};

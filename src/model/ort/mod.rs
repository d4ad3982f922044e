//! Attention and experts in ONNX Runtime's own operators.

mod attention;
pub mod digits;
mod experts;
mod linear;

pub use attention::attention;
pub use experts::{experts, reads_experts};
pub use linear::{integers, multiplies_integers};

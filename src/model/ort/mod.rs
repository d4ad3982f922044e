//! Attention and experts in ONNX Runtime's own operators.

mod attention;
mod experts;
mod lengths;

pub use attention::attention;
pub use experts::experts;
pub use lengths::Lengths;

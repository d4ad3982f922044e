//! Integers of 4 or 8 bits in blocks of 32 that share an f32 scale, as ONNX Runtime's
//! QMoE and MatMulNBits read them: `value = (code − zero) · scale`.

mod block;
mod codebook;
mod digits;
mod from_mxfp4;
mod quantize;

pub use block::{Bits, dequantize};
pub use digits::{Digit, digits, join};
pub use from_mxfp4::from_mxfp4;
pub use quantize::quantize;

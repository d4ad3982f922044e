//! Integers. Of 4 or 8 bits in blocks of 32 that share an f32 scale, as ONNX Runtime's QMoE and
//! MatMulNBits read them: `value = (code − zero) · scale`. Of two int8 digits in rows that share a
//! power of two: `value = scale · (256·high + low)`.

mod block;
mod codebook;
mod from_mxfp4;
mod int4x2;
mod int8x2;
mod quantize;

pub use block::{Bits, dequantize};
pub use from_mxfp4::from_mxfp4;
pub use int4x2::{Digit, digits, join};
pub use int8x2::{BASE, from_digits, to_digits};
pub use quantize::quantize;

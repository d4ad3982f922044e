//! Number formats, as pure functions on slices. Knows no files and no graphs.

mod dtype;
mod finite;
pub mod ints;
pub mod mxfp4;
mod numbers;
mod rounding;

pub use dtype::DType;
pub use finite::not_finite;
pub use numbers::{decode, encode};
pub use rounding::Rounding;

/// The number that a byte in FP8 E5M2 stands for: it is the upper half of a
/// half-precision one.
pub fn e5m2(byte: u8) -> f32 {
    half::f16::from_bits(u16::from(byte) << 8).to_f32()
}

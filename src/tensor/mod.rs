//! Element types and quantized formats: pure functions on slices.

mod cast;
mod dtype;
pub mod ints;
pub mod mxfp4;
mod non_finite;
mod rounding;

pub use cast::{decode, encode};
pub use dtype::DType;
pub use non_finite::not_finite;
pub use rounding::Rounding;

//! Element types and quantized formats: pure functions on slices.

mod cast;
mod dtype;
mod exact;
pub mod ints;
pub mod mxfp4;
mod non_finite;
pub mod nvfp4;
mod rounding;

pub use cast::{decode, encode};
pub use dtype::DType;
pub use exact::{nearest, to_odd};
pub use non_finite::{minus_infinite, not_finite};
pub use rounding::Rounding;

/// Values that share a scale in quantized formats. Casts convert as many at a time, so that
/// each loop over them is vectorized.
pub const BLOCK: u64 = 32;

/// The same, as the length of an array.
pub const BLOCK_LENGTH: usize = BLOCK as usize;

/// The values of a block.
pub type BlockValues = [f32; BLOCK_LENGTH];

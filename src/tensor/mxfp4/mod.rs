//! MXFP4 (Open Compute Project, Microscaling Formats v1.0): blocks of 32 4-bit E2M1
//! values that share a power-of-two scale.

mod block;
mod cast;
mod quantize;

pub use super::BLOCK;
pub use block::{Block, Blocks, E2M1, LARGEST_SCALE, dequantize, e8m0, pair, sum_of_squares};
pub use cast::encode;
pub use quantize::{exact, quantize};

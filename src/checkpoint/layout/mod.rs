//! Checkpoint layouts: under which names a layout stores the canonical weights, and how its
//! tensors become them.

mod assemble;
mod definition;
pub mod hugging_face;
pub mod original;

pub use assemble::Assembly;
pub use definition::{Layout, PLAIN, Sources, TRANSPOSED};

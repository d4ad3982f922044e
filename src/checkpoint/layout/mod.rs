//! Checkpoint layouts: under which names a layout stores the canonical weights, and how its
//! tensors become them.

mod assemble;
mod definition;
mod hugging_face;
mod original;

use super::config::Dialect;
use super::shards::Tensors;
use crate::error::Result;

pub use assemble::Assembly;
pub use definition::{Layout, PLAIN, Sources, TRANSPOSED};

pub fn detect(dialect: Dialect, tensors: &Tensors) -> Result<Layout> {
    if dialect == Dialect::OpenAi {
        return Ok(original::LAYOUT);
    }
    let mut known = hugging_face::LAYOUTS.into_iter();
    let found = known.find(|layout| tensors.shape(layout.marker_tensor).is_some());
    found.ok_or_else(|| tensors.unknown_experts())
}

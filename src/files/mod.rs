//! Files and paths: byte ranges, positional reads and writes, bounded JSON, digests.

pub mod digest;
pub mod json;
mod path;
pub mod positional;
mod range;

pub use path::{canonicalize_existing, parent_dir};
pub use range::FileRange;

//! Number formats, as pure functions on slices. Knows no files and no graphs.

mod dtype;
pub mod mxfp4;

pub use dtype::DType;

//! The formats of `tensor`, compared with their definitions.

mod cast;
mod digits;
mod ints;
mod mxfp4;
mod nvfp4;

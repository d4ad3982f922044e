//! The formats of `tensor`, compared with their definitions.

mod cast;
mod ints;
mod mxfp4;

//! Tests on real parts: the binary, real files, onnxruntime and onnx.

mod architecture;
mod cached;
mod cli;
mod conversions;
mod derived;
mod documents;
mod endings;
mod genai;
mod graph;
mod layouts;
mod numerics;
mod provenance;
mod refusals;
mod sizes;
mod staging;
mod support;

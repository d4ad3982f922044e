//! Tests on real parts: the binary, real files, onnxruntime and onnx.

mod architecture;
mod cached;
mod cli;
mod combinations;
#[cfg(target_os = "linux")]
mod comparison;
mod conversions;
mod derived;
mod documents;
mod double;
mod endings;
mod faults;
mod genai;
mod graph;
mod hub;
mod hub_faults;
mod hub_folders;
mod hub_refusals;
mod inspect;
mod layouts;
mod numerics;
mod provenance;
mod reference;
mod refusals;
mod sizes;
mod staging;
mod support;
mod verify;

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
mod endings;
mod fake_hub;
mod faults;
mod genai;
mod graph;
#[cfg(unix)]
mod hostile;
mod hub_download;
mod hub_export;
mod hub_folder;
mod hub_refusals;
mod inspect;
#[cfg(unix)]
mod killed;
mod layouts;
mod mutations;
mod numerics;
mod packages;
mod provenance;
mod reference;
mod refusals;
mod sizes;
mod staging;
mod suggest;
mod support;
mod transformers_js;
mod trust;
mod verify;
mod verify_refusals;

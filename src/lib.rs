//! GPT-OSS checkpoints as ONNX models, by addressing bytes instead of
//! converting them.

pub mod checkpoint;
pub mod container;
pub mod digest;
pub mod export;
pub mod genai;
pub mod graph;
pub mod hub;
pub mod inspect;
pub mod json;
pub mod model;
pub mod onnx;
pub mod paths;
pub mod progress;
pub mod publish;
pub mod reference;
pub mod runtime;
pub mod tensor;
pub mod transformers_js;
pub mod verify;
pub mod weights;
pub mod words;

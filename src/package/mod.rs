//! Packages: the files that a runtime needs beside a model.

mod files;
pub mod genai;
mod generation;
pub mod tokenizer;
pub mod transformers_js;

pub use files::{Package, PackagedModel};
pub use genai::GenaiSummary;
pub use transformers_js::TransformersJsSummary;

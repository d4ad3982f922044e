//! Packages: the files that a runtime needs beside a model.

mod files;
pub mod genai;
mod generation;
mod planned;
pub mod tokenizer;
pub mod transformers_js;

pub use files::PackagedModel;
pub use planned::{GenaiSummary, Package, TransformersJsSummary};

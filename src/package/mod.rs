//! Packages: the files that a runtime needs beside a model.

pub mod genai;
mod generation;
mod planned;
pub mod tokenizer;
pub mod transformers_js;

pub use planned::{GenaiSummary, Package, PackagedModel, TransformersJsSummary};

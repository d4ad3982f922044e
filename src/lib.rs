//! Export of GPT-OSS checkpoints to ONNX by addressing their bytes, not converting them.
//!
//! [`export::export`] writes a model, [`verify::verify`] compares a model with its
//! checkpoint, [`inspect::inspect`] describes either, [`generate::generate`] continues a text with
//! a model. Each reports to a [`progress::Progress`], returns a summary that serde can write, and
//! fails with an [`error::Error`], which is a sentence.
//!
//! ```
//! use gpt_oss_export::export::{Request, Source, Spec, export};
//! use gpt_oss_export::progress::Silent;
//!
//! let folder = tempfile::tempdir()?;
//! let output = folder.path().join("model.onnx");
//! let mut request = Request::new(Source::Checkpoint("tests/fixtures/tiny".into()));
//! request.output = Some(output.clone());
//! let summary = export(&Spec::resolve(request)?, &Silent)?;
//! assert_eq!(summary.model.expect("a model was requested").path, output);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules that are not listed here are for this package's own binary, tests and benches.

pub mod evaluate;
pub mod export;
pub mod generate;
mod hub;
pub mod inspect;
pub mod model;
pub mod progress;
pub use gpt_oss_tensor as tensor;
pub mod verify;

#[doc(hidden)]
pub mod adapter;
mod background;
#[doc(hidden)]
pub mod checkpoint;
#[doc(hidden)]
pub mod container;
#[doc(hidden)]
pub mod display;
pub mod error;
mod exported;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod graph;
mod memory;
mod onnx;
mod package;
mod publish;
#[doc(hidden)]
pub mod reference;
mod runtime;
mod statistics;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod weights;

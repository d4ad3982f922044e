//! GPT-OSS checkpoints as ONNX models, by addressing bytes instead of
//! converting them.
//!
//! [`export::export`] writes a model, [`verify::verify`] compares one with its checkpoint,
//! and [`inspect::inspect`] looks at either. The first two take a request and a
//! [`progress::Progress`] to report to, the last a path, which tensors to list, which
//! names to overlook, and a `Progress` where all bytes are to be scanned. Each gives a
//! summary that serde can write, and fails with a sentence.
//!
//! ```
//! use gpt_oss_export::export::{Origin, Request, export};
//! use gpt_oss_export::progress::Silent;
//!
//! let folder = tempfile::tempdir()?;
//! let output = folder.path().join("model.onnx");
//! let checkpoint = Origin::Checkpoint("tests/fixtures/tiny".into());
//! let summary = export(&Request::new(checkpoint, output.clone()), &Silent)?;
//! assert_eq!(summary.model.expect("one was asked for").path, output);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules that are not listed here are open to this package's own binary, tests and
//! benches, and no promise to anybody else.

pub mod checkpoint;
pub mod export;
pub mod hub;
pub mod inspect;
pub mod model;
pub mod progress;
pub mod tensor;
pub mod verify;

#[doc(hidden)]
pub mod background;
#[doc(hidden)]
pub mod container;
#[doc(hidden)]
pub mod display;
pub mod error;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod graph;
#[doc(hidden)]
pub mod metadata;
#[doc(hidden)]
pub mod onnx;
mod package;
#[doc(hidden)]
pub mod publish;
#[doc(hidden)]
pub mod reference;
#[doc(hidden)]
pub mod runtime;
#[doc(hidden)]
pub mod weights;

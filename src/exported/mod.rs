//! A model that an export wrote: one ONNX file, or several stages that run one after the other.
//! What its metadata says, what it takes and gives, where its weights are, and how it runs.

mod file;
pub mod metadata;
mod model;
mod paths;
mod running;
mod signature;
mod stages;

pub use file::{ExternalTensor, ModelFile};
pub use metadata::ModelMetadata;
pub use model::{ExportedModel, InnerValue};
pub use paths::{StageName, by_model, in_folder};
pub use running::{RunningModel, StepValues, library_for};
pub use signature::Signature;

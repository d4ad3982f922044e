//! The ONNX file: a graph becomes protobuf, and any model can be read. No other module
//! knows the messages. Values of a model's optional inputs have a file format of their own.

mod adapter_file;
mod data_digest;
mod data_files;
mod encode;
#[rustfmt::skip] // generated
#[allow(missing_docs, clippy::doc_markdown)]
#[path = "../../proto/onnx.rs"]
mod proto;
mod read;

pub use adapter_file::{ADAPTER_EXTENSION, AdapterHead, Parameter, adapter_head, read_adapter};
pub use data_digest::data_digests;
pub use data_files::{data_change, data_problem, require_data};
pub use encode::{OPSET, encode, graph_ranges, ir_version, with_outputs};
pub use read::{OnnxFile, StoredInitializer, ValueInfo, dtype_name, has_extension, read};

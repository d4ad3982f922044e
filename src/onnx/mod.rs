//! The ONNX file: a graph becomes protobuf. No other module knows its messages.

mod contents;
mod interface;
mod lower;
#[rustfmt::skip] // generated
#[allow(missing_docs, clippy::doc_markdown)]
mod proto;
mod read;

pub use contents::{contents, is_changed};
pub use interface::{Interface, Size};
pub use read::{Description, External, Initializer, ReadError, describe, read};

use prost::Message;

use crate::files::FileRange;
use crate::graph::Model;
use crate::tensor::DType;
use proto::tensor_proto::DataType;

/// The opset of ai.onnx that graphs are written in.
pub const OPSET: i64 = 23;
/// The IR version that came with this opset; newer ones shut out older runtimes.
const IR_VERSION: i64 = 11;
/// The IR version that brought FLOAT8E8M0.
const IR_VERSION_OF_F8E8M0: i64 = 12;
/// Protobuf cannot hold more than this.
const LARGEST: usize = i32::MAX as usize;

/// What the file says of itself besides the graph.
pub struct Metadata<'m> {
    /// One line for people.
    pub description: &'m str,
    /// Keys and values for programs.
    pub properties: &'m [(&'m str, String)],
}

/// Why a graph cannot be an ONNX file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("no bytes were placed for weight `{0}`")]
    Unplaced(String),
    #[error("the graph takes {0} bytes, more than an ONNX file can hold")]
    TooLarge(usize),
}

/// The bytes of the ONNX file. `locate` says where a weight's bytes are.
pub fn encode(
    model: &Model,
    metadata: &Metadata,
    locate: &dyn Fn(&str) -> Option<FileRange>,
) -> Result<Vec<u8>, Error> {
    let message = lower::model(model, metadata, locate)?;
    match message.encoded_len() {
        size if size > LARGEST => Err(Error::TooLarge(size)),
        _ => Ok(message.encode_to_vec()),
    }
}

/// An ONNX file that gives some values of its main graph, f32 all, besides its
/// outputs. Protobuf merges what is appended into what is there, so the file stays
/// as it is, whoever made it.
pub fn with_outputs(mut file: Vec<u8>, names: &[String]) -> Vec<u8> {
    file.extend(lower::outputs(names).encode_to_vec());
    file
}

/// An ONNX file that says one thing more of itself, in the same way.
pub fn with_property(mut file: Vec<u8>, key: &str, value: String) -> Vec<u8> {
    file.extend(lower::property(key, value).encode_to_vec());
    file
}

/// The oldest IR version that has all that a model uses.
pub fn ir_version(model: &Model) -> i64 {
    let mut facts = model.main.values.iter().map(|(_, fact)| fact);
    let newer = facts.any(|fact| fact.dtype == DType::F8E8M0);
    if newer { IR_VERSION_OF_F8E8M0 } else { IR_VERSION }
}

/// Pairs of ONNX's element types and ours.
const DTYPES: [(DataType, DType); 10] = [
    (DataType::Bool, DType::Bool),
    (DataType::Uint8, DType::U8),
    (DataType::Int8, DType::I8),
    (DataType::Int32, DType::I32),
    (DataType::Int64, DType::I64),
    (DataType::Float8e5m2, DType::F8E5M2),
    (DataType::Float8e8m0, DType::F8E8M0),
    (DataType::Float16, DType::F16),
    (DataType::Bfloat16, DType::BF16),
    (DataType::Float, DType::F32),
];

fn data_type(dtype: DType) -> i32 {
    DTYPES.iter().find(|(_, ours)| *ours == dtype).expect("every dtype is listed").0.into()
}

fn from_data_type(theirs: DataType) -> Option<DType> {
    DTYPES.iter().find(|(listed, _)| *listed == theirs).map(|(_, ours)| *ours)
}

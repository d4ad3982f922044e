//! The ONNX file: a graph becomes protobuf. No other module knows its messages.

mod lower;

use prost::Message;

use crate::container::Location;
use crate::graph::Model;
use crate::tensor::DType;

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
    locate: &dyn Fn(&str) -> Option<Location>,
) -> Result<Vec<u8>, Error> {
    let message = lower::model(model, metadata, locate)?;
    match message.encoded_len() {
        size if size > LARGEST => Err(Error::TooLarge(size)),
        _ => Ok(message.encode_to_vec()),
    }
}

/// What an ONNX file says of itself for programs, keys and values; nothing where it
/// is none.
pub fn properties(file: &[u8]) -> Option<Vec<(String, String)>> {
    let message = proto::ModelProto::decode(file).ok().filter(|model| model.graph.is_some())?;
    Some(message.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect())
}

/// An ONNX file that gives some values of its main graph, f32 all, besides its
/// outputs. Protobuf merges what is appended into what is there, so the file stays
/// as it is, whoever made it.
pub fn with_outputs(mut file: Vec<u8>, names: &[String]) -> Vec<u8> {
    file.extend(lower::outputs(names).encode_to_vec());
    file
}

/// The oldest IR version that has all that a model uses.
pub fn ir_version(model: &Model) -> i64 {
    let mut facts = model.main.values.iter().map(|(_, fact)| fact);
    let newer = facts.any(|fact| fact.dtype == DType::F8E8M0);
    if newer { IR_VERSION_OF_F8E8M0 } else { IR_VERSION }
}

/// The messages of `proto/onnx.proto`.
#[allow(missing_docs, clippy::doc_markdown)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

//! The ONNX file: a graph becomes protobuf. No other module knows its messages.

mod lower;

use prost::Message;

use crate::container::Location;
use crate::graph::Model;

/// The opset of ai.onnx that graphs are written in.
pub const OPSET: i64 = 23;
/// The IR version that came with this opset; newer ones shut out older runtimes.
pub const IR_VERSION: i64 = 11;
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

/// The messages of `proto/onnx.proto`.
#[allow(missing_docs, clippy::doc_markdown)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

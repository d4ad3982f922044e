//! What every layer reads: sizes, options, inputs and what is computed once.

use super::mask::Mask;
use super::options::GraphOptions;
use super::packing::Packing;
use super::rope::Rotation;
use super::sequence::Sequence;
use crate::checkpoint::Config;

/// What all layers share.
pub struct Context<'m> {
    pub config: &'m Config,
    pub options: GraphOptions,
    pub sequence: Sequence,
    pub rotation: Rotation,
    pub backend: Backend,
}

/// The operators of attention, with what they need to know of the sequence in all layers.
pub enum Backend {
    /// ai.onnx alone.
    Portable(Mask),
    /// ONNX Runtime's own besides.
    Ort(Packing),
}

/// Inputs of a layer: the residual stream `[B·T, hidden]`, and with a cache the keys and values
/// of earlier steps. It returns the stream, and the keys and values with those of this step.
pub const STREAM: [&str; 3] = ["x", "past.key", "past.value"];

//! What every layer reads: sizes, options, inputs and what is computed once.

use super::mask::Mask;
use super::options::GraphOptions;
use super::packing::Packing;
use super::rope::Rotation;
use super::sequence::Sequence;
use crate::checkpoint::Config;

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

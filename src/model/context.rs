//! What every layer reads: sizes, options, inputs and what is computed once.

use super::mask::Mask;
use super::options::GraphOptions;
use super::packing::Packing;
use super::rope::Rotation;
use super::sequence::Sequence;
use crate::checkpoint::Config;
use crate::graph::Value;

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

impl Backend {
    /// The places of keys and values `[B, kv, S, D]` that stay in a cache that is limited to a
    /// window, i64 `[B, kv, L, 1]`; `None` if all do.
    pub fn kept(&self, limit: Option<u64>) -> Option<Value> {
        match self {
            Self::Portable(mask) => mask.kept(limit),
            Self::Ort(packing) => packing.caches[&limit].kept,
        }
    }
}

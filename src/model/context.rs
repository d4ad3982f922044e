//! What every layer reads: sizes, options, inputs and what is computed once.

use super::mask::Mask;
use super::options::Provider;
use super::packing::Packing;
use super::rope::Rotation;
use super::sequence::{KeyValue, Sequence};
use crate::checkpoint::Config;
use crate::graph::{Bundle, Value};
use crate::tensor::DType;

/// What all layers share.
pub struct Context<'m> {
    pub config: &'m Config,
    /// Dtype of attention and matrix products.
    pub compute: DType,
    pub provider: Provider,
    /// Keep activations in float beside integer weights.
    pub keep_activations: bool,
    pub sequence: Sequence,
    pub rotation: Rotation,
    pub backend: Backend,
}

/// The operators of attention and experts, with what attention in all layers needs to know
/// of the sequence.
pub enum Backend {
    /// ai.onnx alone.
    Portable(Mask),
    /// ONNX Runtime's own besides.
    Ort(Packing),
}

/// Input and output of a layer.
#[derive(Clone, Copy)]
pub struct Stream {
    /// The residual stream, `[B·T, hidden]`.
    pub x: Value,
    /// Keys and values, with a cache: as input those of earlier steps, as output with those
    /// of this step.
    pub cache: Option<KeyValue>,
}

impl Stream {
    /// Names inside a layer.
    pub const NAMES: [&str; 3] = ["x", "past.key", "past.value"];
}

impl Bundle for Stream {
    fn into_values(self) -> Vec<Value> {
        [self.x].into_iter().chain(self.cache.into_iter().flatten()).collect()
    }

    fn from_values(values: Vec<Value>) -> Self {
        Self { x: values[0], cache: values[1..].try_into().ok() }
    }
}

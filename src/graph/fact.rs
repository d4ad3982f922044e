//! What is known of a value while the graph is wired: dtype and symbolic shape.

use std::fmt;

use super::{Dim, IntoShape};
use crate::tensor::DType;

/// A value of a graph: a small copyable handle. Its dtype, shape and name are looked up
/// in the scope that produced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The graph or function that the value belongs to.
    pub(super) frame: u32,
    pub(super) id: ValueId,
}

/// Index into `Graph::values`.
pub type ValueId = usize;

/// The dtype and shape of a value; the rank is always known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub dtype: DType,
    pub shape: Vec<Dim>,
}

impl Fact {
    pub fn new(dtype: DType, shape: impl IntoShape) -> Self {
        Self { dtype, shape: shape.into_shape() }
    }

    pub fn scalar(dtype: DType) -> Self {
        Self { dtype, shape: Vec::new() }
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, shape: self.shape.clone() }
    }

    pub fn with_shape(&self, shape: impl IntoShape) -> Self {
        Self::new(self.dtype, shape)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}

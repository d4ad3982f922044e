//! What is known of a value while the graph is wired: dtype and symbolic shape.

use std::fmt;

use super::Dim;
use crate::tensor::DType;

/// A value of a graph: a small handle that costs nothing to copy. Its dtype,
/// shape and name are asked of the scope that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The graph or function that the value belongs to.
    pub(super) frame: u32,
    pub(super) id: ValueId,
}

/// A value's place in the table of its graph or function.
pub type ValueId = usize;

/// The dtype and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// One entry for each axis; the rank is always known.
    pub shape: Vec<Dim>,
}

impl Fact {
    /// A fact of a dtype and dimensions.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        let shape = shape.into_iter().map(Into::into).collect();
        Self { dtype, shape }
    }

    /// A single number, of rank 0.
    pub fn scalar(dtype: DType) -> Self {
        Self::new(dtype, [] as [Dim; 0])
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self::new(dtype, &self.shape)
    }

    /// The same element type with another shape.
    pub fn with_shape(&self, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        Self::new(self.dtype, shape)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}

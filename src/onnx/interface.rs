//! What a model takes and gives, as an ONNX file says it.

use std::fmt;

use serde::Serialize;

use crate::graph::{Dim, Fact};

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// One entry for each axis.
    pub shape: Vec<Size>,
}

/// The size of an axis: a number, or a symbol's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Size {
    Known(u64),
    Symbol(String),
}

impl Interface {
    /// A value of a graph.
    pub fn new((name, fact): &(String, Fact)) -> Self {
        Self {
            name: name.clone(),
            dtype: fact.dtype.to_string(),
            shape: fact.shape.iter().map(Size::from).collect(),
        }
    }

    /// Whether another one is of the same kind: all layers' keys and values are.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.dtype, &self.shape) == (&other.dtype, &other.shape)
    }

    /// A line for each kind of these.
    pub fn lines(interfaces: &[Self]) -> impl Iterator<Item = String> {
        interfaces.chunk_by(Self::is_like).map(|alike| {
            let Self { name, dtype, shape } = &alike[0];
            let shape: Vec<String> = shape.iter().map(Size::to_string).collect();
            let more = match alike {
                [_] => String::new(),
                [_, second] => format!(", {}", second.name),
                [.., last] => format!(" … {}", last.name),
                [] => unreachable!("chunks are not empty"),
            };
            format!("{name}{more} {dtype} [{}]", shape.join(", "))
        })
    }
}

impl From<&Dim> for Size {
    fn from(dim: &Dim) -> Self {
        dim.known().map_or_else(|| Self::Symbol(dim.to_string()), Self::Known)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(size) => write!(f, "{size}"),
            Self::Symbol(name) => f.write_str(name),
        }
    }
}

//! Inputs and outputs of a model.

use std::fmt;

use serde::Serialize;

use crate::graph::{Dim, Fact};

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValueInfo {
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// One entry for each axis.
    pub shape: Vec<Size>,
}

/// The size of an axis: a number, or the name of a symbol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Size {
    Known(u64),
    Symbol(String),
}

impl ValueInfo {
    pub fn new(name: &str, fact: &Fact) -> Self {
        let size =
            |dim: &Dim| dim.known().map_or_else(|| Size::Symbol(dim.to_string()), Size::Known);
        let shape = fact.shape.iter().map(size).collect();
        Self { name: name.to_owned(), dtype: fact.dtype.to_string(), shape }
    }

    /// One line for each run of values that differ in their names only, such as the keys
    /// and values of all layers.
    pub fn lines(values: &[Self]) -> impl Iterator<Item = String> {
        let is_like = |a: &Self, b: &Self| (&a.dtype, &a.shape) == (&b.dtype, &b.shape);
        values.chunk_by(is_like).map(|alike| {
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

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(size) => write!(f, "{size}"),
            Self::Symbol(name) => f.write_str(name),
        }
    }
}

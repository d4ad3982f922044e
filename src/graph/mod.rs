//! A graph as it is wired: values with dtypes and symbolic shapes, nodes with
//! paths for names, parts that stand in the graph or become functions.
//!
//! Names are for people and never connect anything. What cannot be (a rank, a
//! dtype, a name used twice, a value that is not visible) fails at the line
//! that wires it. Nothing here knows GPT-OSS, files or protobuf.

mod builder;
mod dim;
mod dump;
mod error;
mod fact;
mod node;
mod node_builder;
mod ops;
mod scope;

pub use builder::{Builder, Style};
pub use dim::Dim;
pub use error::{Error, Result};
pub use fact::{Fact, Value, ValueId};
pub use node::{
    Attribute, Body, Constant, Data, FUNCTIONS, Function, Graph, Initializer, MICROSOFT, Model,
    Node, ONNX,
};
pub use node_builder::NodeBuilder;
pub use scope::{Bundle, Scope};

//! A graph under construction: values with dtypes and symbolic shapes, nodes named by
//! paths, and blocks that are inlined or become functions.
//!
//! Names are for people and never connect anything. A wrong rank or dtype, a duplicate
//! name or an invisible value fails at the line that wires it. Nothing here knows
//! GPT-OSS, files or protobuf.

mod builder;
mod fact;
mod node;
mod ops;
mod scope;

pub use builder::{Builder, Style};
pub use fact::{Dim, Fact, IntoShape, Value, ValueId, joined};
pub use node::{
    Attribute, Body, Constant, Data, FUNCTIONS, Function, Graph, Initializer, MICROSOFT, Model,
    Node, ONNX,
};
pub use scope::{NodeBuilder, Scope};

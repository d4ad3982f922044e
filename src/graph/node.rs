//! The finished graph: nodes over numbered values.

use std::ops::Range;

use super::{Fact, ValueId};
use crate::tensor::DType;

/// The domain of ONNX's standard operators.
pub const ONNX: &str = "";
/// The domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";
/// The domain of the functions that [`Style::Functions`](super::Style) makes.
pub const FUNCTIONS: &str = "gpt_oss";

/// A model: the main graph and the functions it calls.
#[derive(Clone, Debug)]
pub struct Model {
    /// The main graph.
    pub main: Graph,
    /// Callees come before their callers.
    pub functions: Vec<Function>,
    /// Values of the main graph that a look inside shows, each with its kind, in
    /// the order of the graph.
    pub probes: Vec<(&'static str, ValueId)>,
}

/// Values, constants and nodes of the main graph or of one function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Every value, by id, with its unique name.
    pub values: Vec<(String, Fact)>,
    /// Values that are there before any node runs.
    pub initializers: Vec<Initializer>,
    /// Inputs, nodes and outputs.
    pub body: Body,
}

/// A function: a graph whose inputs and attributes each call supplies.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Unique among the model's functions.
    pub name: String,
    /// Names of the attributes that a call must set.
    pub attributes: Vec<&'static str>,
    /// What the function computes.
    pub graph: Graph,
}

impl Function {
    /// Whether the two are equal in all that a file holds: shapes of values
    /// between nodes are for us alone.
    pub(super) fn is_written_like(&self, other: &Self) -> bool {
        let names =
            |f: &Self| f.graph.values.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let stored = |f: &Self| -> Vec<(Initializer, Fact)> {
            let with_fact =
                |init: &Initializer| (init.clone(), f.graph.values[init.value].1.clone());
            f.graph.initializers.iter().map(with_fact).collect()
        };
        self.attributes == other.attributes
            && self.graph.body == other.graph.body
            && names(self) == names(other)
            && stored(self) == stored(other)
    }
}

/// A list of nodes in topological order: the main graph's, a function's, a
/// Loop's or a branch's. Nested bodies see the values around them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// Values given from outside.
    pub inputs: Vec<ValueId>,
    /// In an order in which they can run.
    pub nodes: Vec<Node>,
    /// Values handed to the outside.
    pub outputs: Vec<ValueId>,
}

/// One application of an operator or function.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// A path such as `layers.3.attn.softmax`.
    pub name: String,
    /// The operator set: [`ONNX`], [`MICROSOFT`] or [`FUNCTIONS`].
    pub domain: &'static str,
    /// Operator or function.
    pub op: String,
    /// `None` where an optional input is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// At least one.
    pub outputs: Vec<ValueId>,
    /// In the order in which they were set.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    Text(&'static str),
    Ints(Vec<i64>),
    Dtype(DType),
    Body(Body),
    /// Inside a function: an integer attribute of the call.
    CallersInt(&'static str),
    /// Inside a function: a float attribute of the call.
    CallersFloat(&'static str),
}

/// A value that is known before the graph runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer {
    /// The value it defines.
    pub value: ValueId,
    /// Where its bytes are.
    pub data: Data,
}

/// Where an initializer's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// In the graph, little-endian.
    Inline(Vec<u8>),
    /// A byte range of a weight that is stored outside the graph.
    External {
        /// The weight's name.
        weight: String,
        /// Relative to the weight's first byte.
        range: Range<u64>,
    },
}

/// A small tensor that the graph itself carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Dtype and (known) shape.
    pub fact: Fact,
    /// Elements, little-endian.
    pub bytes: Vec<u8>,
}

macro_rules! constant_from {
    ($number:ty, $dtype:expr) => {
        impl From<$number> for Constant {
            fn from(number: $number) -> Self {
                Self { fact: Fact::scalar($dtype), bytes: number.to_le_bytes().to_vec() }
            }
        }

        impl From<&[$number]> for Constant {
            fn from(numbers: &[$number]) -> Self {
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self { fact: Fact::new($dtype, [numbers.len() as u64]), bytes }
            }
        }
    };
}

constant_from!(f32, DType::F32);
constant_from!(i64, DType::I64);
constant_from!(u8, DType::U8);

impl From<bool> for Constant {
    fn from(truth: bool) -> Self {
        Self { fact: Fact::scalar(DType::Bool), bytes: vec![truth.into()] }
    }
}

impl Constant {
    /// The same elements under another shape of the same size.
    pub fn shaped(mut self, shape: impl IntoIterator<Item = u64>) -> Self {
        self.fact = self.fact.with_shape(shape);
        self
    }

    /// A name that shows a small constant's value, `None` for a table.
    pub(super) fn label(&self) -> Option<String> {
        let size = self.fact.dtype.size() as usize;
        if self.bytes.len() > 8 * size {
            return None;
        }
        let elements: Vec<String> =
            self.bytes.chunks(size).map(|bytes| number(self.fact.dtype, bytes)).collect();
        let shape: Vec<String> = self.fact.shape.iter().map(|dim| dim.to_string()).collect();
        let shape = if shape.is_empty() { String::new() } else { format!("[{}]", shape.join("x")) };
        Some(format!("{}{shape}:{}", self.fact.dtype, elements.join(",")))
    }
}

/// Spells one little-endian element of a small constant.
fn number(dtype: DType, bytes: &[u8]) -> String {
    match (dtype, bytes) {
        (DType::Bool, [truth]) => (*truth != 0).to_string(),
        (DType::F32, &[a, b, c, d]) => match f32::from_le_bytes([a, b, c, d]) {
            large if large.abs() >= 1e6 => format!("{large:e}"),
            ordinary => ordinary.to_string(),
        },
        _ => {
            let mut wide = [0u8; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            i64::from_le_bytes(wide).to_string()
        }
    }
}

impl From<i64> for Attribute {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<f32> for Attribute {
    fn from(number: f32) -> Self {
        Self::Float(number)
    }
}

impl From<&'static str> for Attribute {
    fn from(text: &'static str) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<i64>> for Attribute {
    fn from(numbers: Vec<i64>) -> Self {
        Self::Ints(numbers)
    }
}

impl From<Body> for Attribute {
    fn from(body: Body) -> Self {
        Self::Body(body)
    }
}

impl From<DType> for Attribute {
    fn from(dtype: DType) -> Self {
        Self::Dtype(dtype)
    }
}

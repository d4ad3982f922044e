//! The finished graph: nodes over numbered values, and constants that it carries.

use std::collections::BTreeSet;
use std::ops::Range;

use super::fact::joined;
use super::{Fact, ValueId};
use crate::tensor::DType;

/// The domain of ONNX's standard operators.
pub const ONNX: &str = "";
/// The domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";
/// The domain of the functions that `Style::Functions` makes.
pub const FUNCTIONS: &str = "gpt_oss";

#[derive(Clone, Debug)]
pub struct Model {
    pub main: Graph,
    /// Callees come before their callers.
    pub functions: Vec<Function>,
    /// Inner values of the main graph that can be exposed as outputs, each with its kind,
    /// in the order of the graph.
    pub probes: Vec<(&'static str, ValueId)>,
}

/// The main graph or the body of a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Every value by id, with its unique name.
    pub values: Vec<(String, Fact)>,
    pub initializers: Vec<Initializer>,
    /// Those of all nodes, in nested bodies too.
    pub domains: BTreeSet<&'static str>,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Unique among the model's functions.
    pub name: String,
    /// Names of the attributes that every call sets.
    pub attributes: Vec<&'static str>,
    pub graph: Graph,
}

impl Function {
    /// What an ONNX file stores of a function; facts of values between nodes are not stored.
    pub(super) fn stored(&self) -> impl PartialEq {
        let Graph { values, initializers, body, .. } = &self.graph;
        let names: Vec<&str> = values.iter().map(|(name, _)| &**name).collect();
        let constants: Vec<_> =
            initializers.iter().map(|init| (init, &values[init.value].1)).collect();
        (&self.attributes, names, constants, body)
    }
}

/// Nodes in topological order: of the main graph, a function, a Loop or a branch.
/// A nested body sees the values around it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    pub inputs: Vec<ValueId>,
    pub nodes: Vec<Node>,
    pub outputs: Vec<ValueId>,
}

/// One application of an operator or function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// A path such as `layers.3.attn.softmax`.
    pub name: String,
    /// [`ONNX`], [`MICROSOFT`] or [`FUNCTIONS`].
    pub domain: &'static str,
    pub op: String,
    /// `None` for an omitted optional input.
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<ValueId>,
    pub attributes: Vec<(&'static str, Attribute)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    Text(&'static str),
    Ints(Vec<i64>),
    Dtype(DType),
    Body(Body),
    /// Inside a function: the attribute of this name that the call sets.
    IntRef(&'static str),
    FloatRef(&'static str),
}

impl Attribute {
    /// A reference to the call's attribute `name`, of the same type as this one.
    pub(super) fn reference(&self, name: &'static str) -> Self {
        match self {
            Self::Float(_) | Self::FloatRef(_) => Self::FloatRef(name),
            _ => Self::IntRef(name),
        }
    }
}

macro_rules! attribute_from {
    ($($variant:ident($value:ty)),+) => {$(
        impl From<$value> for Attribute {
            fn from(value: $value) -> Self {
                Self::$variant(value)
            }
        }
    )+};
}

attribute_from!(Int(i64), Float(f32), Text(&'static str), Ints(Vec<i64>), Dtype(DType), Body(Body));

/// A value with stored bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer {
    pub value: ValueId,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Little-endian bytes in the graph.
    Inline(Vec<u8>),
    /// A byte range of a weight, from the weight's first byte.
    External { weight: String, range: Range<u64> },
    /// The default of an optional input of the model: no elements, with 0 for symbolic sizes.
    Empty,
}

/// A small tensor of known shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    pub(super) fact: Fact,
    /// Little-endian.
    pub(super) bytes: Vec<u8>,
}

macro_rules! constant_from {
    ($($number:ty: $dtype:ident),+) => {$(
        impl From<$number> for Constant {
            fn from(number: $number) -> Self {
                Self { fact: Fact::scalar(DType::$dtype), bytes: number.to_le_bytes().to_vec() }
            }
        }

        impl From<&[$number]> for Constant {
            fn from(numbers: &[$number]) -> Self {
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self { fact: Fact::new(DType::$dtype, [numbers.len() as u64]), bytes }
            }
        }
    )+};
}

constant_from!(f32: F32, i64: I64, u8: U8, i8: I8);

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Self { fact: Fact::scalar(DType::Bool), bytes: vec![value.into()] }
    }
}

impl Constant {
    /// The same elements in another shape of the same size.
    pub fn shaped(mut self, shape: impl IntoIterator<Item = u64>) -> Self {
        self.fact = self.fact.with_shape(shape);
        self
    }

    /// A name that shows dtype, shape and value.
    pub(super) fn label(&self) -> String {
        let Fact { dtype, shape } = &self.fact;
        let elements = self.bytes.chunks(dtype.size() as usize).map(|bytes| number(*dtype, bytes));
        let elements = elements.collect::<Vec<_>>().join(",");
        let shape =
            if shape.is_empty() { String::new() } else { format!("[{}]", joined(shape, "x")) };
        format!("{dtype}{shape}:{elements}")
    }
}

/// One little-endian element as text.
fn number(dtype: DType, bytes: &[u8]) -> String {
    match (dtype, bytes) {
        (DType::Bool, [value]) => (*value != 0).to_string(),
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

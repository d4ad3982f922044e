//! One node while it is wired, and checks of its operands.

use super::dim::broadcast;
use super::error::wiring_error;
use super::{Attribute, Builder, Constant, Dim, Fact, Node, ONNX, Value, ValueId};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Collects a node's inputs and attributes.
#[must_use = "a node is wired by `output` or `outputs`"]
pub struct NodeBuilder<'b> {
    builder: &'b mut Builder,
    name: String,
    domain: &'static str,
    op: String,
    inputs: Vec<Option<Value>>,
    attributes: Vec<(&'static str, Attribute)>,
}

impl<'b> NodeBuilder<'b> {
    pub(super) fn new(builder: &'b mut Builder, name: String, op: &str) -> Self {
        let (op, domain) = (op.to_owned(), ONNX);
        Self { builder, name, domain, op, inputs: Vec::new(), attributes: Vec::new() }
    }

    pub fn domain(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }

    /// The next input; `None` omits an optional one.
    pub fn input(mut self, value: impl Into<Option<Value>>) -> Self {
        self.inputs.push(value.into());
        self
    }

    pub fn inputs(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.inputs.extend(values.into_iter().map(Some));
        self
    }

    /// Omits the next `count` optional inputs.
    pub fn absent(mut self, count: usize) -> Self {
        self.inputs.extend(std::iter::repeat_n(None, count));
        self
    }

    /// A constant as the next input.
    pub fn constant(self, constant: impl Into<Constant>) -> Result<Self> {
        let value = self.builder.frame().constant(None, constant.into())?;
        Ok(self.input(value))
    }

    pub fn attr(mut self, name: &'static str, value: impl Into<Attribute>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// Wires the node; its output has the node's name.
    pub fn output(self, fact: Fact) -> Result<Value> {
        let [value] = self.outputs([("", fact)])?;
        Ok(value)
    }

    /// Wires the node; several outputs are named below it.
    pub fn outputs<const N: usize>(self, outputs: [(&str, Fact); N]) -> Result<[Value; N]> {
        Ok(self.wire(outputs)?.try_into().expect("as many as outputs"))
    }

    /// [`NodeBuilder::outputs`] for any number of them.
    pub(super) fn wire<Name: AsRef<str>>(
        self,
        outputs: impl IntoIterator<Item = (Name, Fact), IntoIter: ExactSizeIterator>,
    ) -> Result<Vec<Value>> {
        let Self { builder, name, domain, op, mut inputs, attributes } = self;
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let mut resolve =
            |input: Option<Value>| input.map(|value| builder.resolve(value, &name)).transpose();
        let inputs = inputs.into_iter().map(&mut resolve).collect::<Result<_>>()?;
        let (frame, outputs) = (builder.frame(), outputs.into_iter());
        let is_single = outputs.len() == 1;
        let outputs = outputs.map(|(output, fact)| {
            let output = output.as_ref();
            frame.declare(if is_single { name.clone() } else { format!("{name}.{output}") }, fact)
        });
        let outputs: Vec<ValueId> = outputs.collect::<Result<_>>()?;
        let values = outputs.iter().map(|id| frame.handle(*id)).collect();
        frame.body().nodes.push(Node { name, domain, op, inputs, outputs, attributes });
        Ok(values)
    }

    pub(super) fn fact(&self, operand: Value) -> Result<Fact> {
        self.builder.fact(operand, &self.name)
    }

    pub(super) fn ranked(&self, operand: Value, rank: usize) -> Result<Fact> {
        let found = self.fact(operand)?;
        if found.rank() == rank {
            return Ok(found);
        }
        Err(self.error(format_args!("expects rank {rank}, found {found}")))
    }

    pub(super) fn typed(&self, operand: Value, dtype: DType) -> Result<Fact> {
        let found = self.fact(operand)?;
        if found.dtype == dtype {
            return Ok(found);
        }
        Err(self.error(format_args!("expects dtype {dtype}, found {found}")))
    }

    /// The fact of an operand that must have this axis.
    pub(super) fn with_axis(&self, operand: Value, axis: usize) -> Result<Fact> {
        let fact = self.fact(operand)?;
        self.axis(&fact, axis)?;
        Ok(fact)
    }

    pub(super) fn axis<'f>(&self, fact: &'f Fact, axis: usize) -> Result<&'f Dim> {
        let dim = fact.shape.get(axis);
        dim.ok_or_else(|| self.error(format_args!("has no axis {axis} in {fact}")))
    }

    /// That two operands fit together.
    pub(super) fn check(&self, fits: bool, left: &Fact, right: &Fact) -> Result<()> {
        if fits {
            return Ok(());
        }
        Err(self.error(format_args!("cannot combine {left} with {right}")))
    }

    /// The dtype and shape of elementwise results.
    pub(super) fn broadcast(&self, left: &Fact, right: &Fact) -> Result<Fact> {
        let shape = broadcast(&left.shape, &right.shape);
        self.check(shape.is_some() && left.dtype == right.dtype, left, right)?;
        Ok(left.with_shape(shape.unwrap_or_default()))
    }

    pub(super) fn error(&self, problem: std::fmt::Arguments) -> Error {
        wiring_error(format_args!("node `{}` ({}) {problem}", self.name, self.op))
    }
}

//! One node while it is wired, and checks of its operands.

use std::fmt::Display;

use super::builder::wiring_error;
use super::fact::broadcast;
use super::{Attribute, Builder, Constant, Fact, Node, Value};
use crate::error::Result;
use crate::tensor::DType;

/// Collects a node's inputs and attributes.
#[must_use = "a node is wired by `output` or `outputs`"]
pub struct NodeBuilder<'b> {
    pub(super) builder: &'b mut Builder,
    pub(super) node: Node,
    pub(super) inputs: Vec<Option<Value>>,
}

impl NodeBuilder<'_> {
    pub fn domain(mut self, domain: &'static str) -> Self {
        self.node.domain = domain;
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
        let value = self.builder.frame().constant(constant.into())?;
        Ok(self.input(value))
    }

    pub fn attr(mut self, name: &'static str, value: impl Into<Attribute>) -> Self {
        self.node.attributes.push((name, value.into()));
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
        let Self { builder, mut node, mut inputs } = self;
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        for input in inputs {
            let id = input.map(|value| builder.resolve(value, &node.name)).transpose()?;
            node.inputs.push(id);
        }
        let (frame, outputs) = (builder.frame(), outputs.into_iter());
        let is_single = outputs.len() == 1;
        for (output, fact) in outputs {
            let mut name = node.name.clone();
            if !is_single {
                name = format!("{name}.{}", output.as_ref());
            }
            node.outputs.push(frame.declare(name, fact)?);
        }
        let values = node.outputs.iter().map(|id| frame.handle(*id)).collect();
        frame.body().nodes.push(node);
        Ok(values)
    }

    pub(super) fn fact(&self, operand: Value) -> Result<Fact> {
        self.builder.fact(operand, &self.node.name)
    }

    pub(super) fn ranked(&self, operand: Value, rank: usize) -> Result<Fact> {
        let found = self.fact(operand)?;
        self.ensure(found.rank() == rank, format_args!("expects rank {rank}, found {found}"))?;
        Ok(found)
    }

    pub(super) fn typed(&self, operand: Value, dtype: DType) -> Result<Fact> {
        let found = self.fact(operand)?;
        self.ensure(found.dtype == dtype, format_args!("expects dtype {dtype}, found {found}"))?;
        Ok(found)
    }

    /// The fact of an operand that must have this axis.
    pub(super) fn with_axis(&self, operand: Value, axis: usize) -> Result<Fact> {
        let found = self.fact(operand)?;
        self.ensure(axis < found.rank(), format_args!("has no axis {axis} in {found}"))?;
        Ok(found)
    }

    /// That two operands fit together.
    pub(super) fn check(&self, fits: bool, left: &Fact, right: &Fact) -> Result<()> {
        self.ensure(fits, format_args!("cannot combine {left} with {right}"))
    }

    /// The dtype and shape of elementwise results.
    pub(super) fn broadcast(&self, left: &Fact, right: &Fact) -> Result<Fact> {
        let shape = broadcast(&left.shape, &right.shape);
        self.check(shape.is_some() && left.dtype == right.dtype, left, right)?;
        Ok(left.with_shape(shape.unwrap_or_default()))
    }

    fn ensure(&self, holds: bool, problem: impl Display) -> Result<()> {
        let Node { name, op, .. } = &self.node;
        let error = || wiring_error(format_args!("node `{name}` ({op}) {problem}"));
        if holds { Ok(()) } else { Err(error()) }
    }
}

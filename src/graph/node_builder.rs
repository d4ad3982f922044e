//! One node while it is wired.

use super::{Attribute, Error, Fact, Node, Result, Scope, Value};

/// A node whose inputs and attributes are being collected.
#[must_use = "a node is wired by `output` or `outputs`"]
pub struct NodeBuilder<'s, 'b> {
    scope: &'s mut Scope<'b>,
    name: String,
    domain: &'static str,
    op: String,
    inputs: Vec<Option<Value>>,
    attributes: Vec<(&'static str, Attribute)>,
}

impl<'s, 'b> NodeBuilder<'s, 'b> {
    pub(super) fn new(
        scope: &'s mut Scope<'b>,
        name: &str,
        op: &str,
        domain: &'static str,
    ) -> Self {
        let name = scope.path_of(name);
        Self { scope, name, domain, op: op.to_owned(), inputs: Vec::new(), attributes: Vec::new() }
    }

    /// The operator set, when it is not the standard one.
    pub fn domain(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }

    /// The next input.
    pub fn input(self, value: Value) -> Self {
        self.optional(Some(value))
    }

    /// The next input, which may be left out.
    pub fn optional(mut self, value: Option<Value>) -> Self {
        self.inputs.push(value);
        self
    }

    /// The next inputs, so many, are left out.
    pub fn absent(mut self, count: usize) -> Self {
        self.inputs.extend(std::iter::repeat_n(None, count));
        self
    }

    /// The next inputs.
    pub fn inputs(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.inputs.extend(values.into_iter().map(Some));
        self
    }

    /// One attribute.
    pub fn attr(mut self, name: &'static str, value: impl Into<Attribute>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// Wires the node; its one output has the node's name.
    pub fn output(self, fact: Fact) -> Result<Value> {
        let [value] = self.outputs([("", fact)])?;
        Ok(value)
    }

    /// Wires the node; outputs are named under it, unless there is only one.
    pub fn outputs<const N: usize>(self, outputs: [(&str, Fact); N]) -> Result<[Value; N]> {
        Ok(self.wire(outputs)?.try_into().expect("as many as outputs"))
    }

    /// [`NodeBuilder::outputs`] for any number of them.
    pub(super) fn wire<'o>(
        mut self,
        outputs: impl IntoIterator<Item = (&'o str, Fact), IntoIter: ExactSizeIterator>,
    ) -> Result<Vec<Value>> {
        while self.inputs.last() == Some(&None) {
            self.inputs.pop();
        }
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for value in self.inputs {
            inputs.push(match value {
                Some(value) => {
                    let id = self.scope.builder.resolve(value);
                    Some(id.ok_or_else(|| Error::Invisible(self.name.clone()))?)
                }
                None => None,
            });
        }
        let frame = self.scope.builder.frame();
        let (outputs, mut ids) = (outputs.into_iter(), Vec::new());
        let alone = outputs.len() == 1;
        for (output, fact) in outputs {
            let name = if alone { self.name.clone() } else { format!("{}.{output}", self.name) };
            ids.push(frame.declare(name, fact)?);
        }
        let values = ids.iter().map(|id| frame.handle(*id)).collect();
        frame.push(Node {
            name: self.name,
            domain: self.domain,
            op: self.op,
            inputs,
            outputs: ids,
            attributes: self.attributes,
        });
        Ok(values)
    }
}

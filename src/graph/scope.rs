//! A position in a model under construction: it wires nodes, and names them by its path.

use std::fmt::Display;
use std::ops::Range;

use super::builder::{Frame, wiring_error};
use super::fact::{broadcast, joined};
use super::{
    Attribute, Builder, Constant, Data, Dim, FUNCTIONS, Fact, Function, IntoShape, Node, Style,
    Value,
};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Wires nodes under a path; names of nodes and values begin with it.
pub struct Scope<'b> {
    pub(super) builder: &'b mut Builder,
    path: String,
}

impl Builder {
    /// The root of the main graph or of the innermost function.
    pub fn scope(&mut self) -> Scope<'_> {
        Scope { builder: self, path: String::new() }
    }
}

impl Scope<'_> {
    /// The same graph one path component further down.
    pub fn child(&mut self, name: &str) -> Scope<'_> {
        let path = self.path_of(name);
        Scope { builder: self.builder, path }
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        match (self.path.as_str(), name) {
            ("", name) => name.to_owned(),
            (path, "") => path.to_owned(),
            (path, name) => format!("{path}.{name}"),
        }
    }

    /// Begins a node. Nothing checks the operands of operators without a method here.
    pub fn node(&mut self, name: &str, op: &str) -> NodeBuilder<'_> {
        let node = Node { name: self.path_of(name), op: op.to_owned(), ..Node::default() };
        NodeBuilder { builder: self.builder, node, inputs: Vec::new() }
    }

    pub fn fact(&self, value: Value) -> Result<Fact> {
        self.builder.fact(value, &self.path)
    }

    /// An input of the main graph, without the path in its name.
    pub fn input(&mut self, name: &str, fact: Fact) -> Result<Value> {
        self.builder.frames[0].input(name, fact)
    }

    /// An input of the main graph that callers may leave out, without the path in its name: then
    /// its symbolic sizes are 0. Equal ones are the same.
    pub fn optional_input(&mut self, name: String, fact: Fact) -> Result<Value> {
        self.builder.frames[0].initialize(name, fact, Data::Empty)
    }

    /// Makes a value an output of the main graph and renames it.
    pub fn output(&mut self, name: &str, value: Value) -> Result<()> {
        let id = self.builder.resolve_in_main(value, name)?;
        let main = self.builder.frame();
        main.rename(id, name)?;
        main.body().outputs.push(id);
        Ok(())
    }

    /// Lists a value of the main graph under [`Model::probes`](super::Model::probes).
    pub fn probe(&mut self, kind: &'static str, value: Value) -> Result<()> {
        let id = self.builder.resolve_in_main(value, &self.path)?;
        self.builder.probes.push((kind, id));
        Ok(())
    }

    /// A byte range of a stored weight. `name` is the initializer's full name.
    pub fn weight(
        &mut self,
        name: &str,
        fact: Fact,
        weight: &str,
        range: Range<u64>,
    ) -> Result<Value> {
        let data = Data::External { weight: weight.to_owned(), range };
        self.builder.frames[0].initialize(name.to_owned(), fact, data)
    }

    /// A constant named after its value; equal constants share an initializer.
    pub fn constant(&mut self, constant: impl Into<Constant>) -> Result<Value> {
        self.builder.frame().constant(constant.into())
    }

    /// [`Scope::constant`] with a name of its own.
    pub fn table(&mut self, name: &str, constant: impl Into<Constant>) -> Result<Value> {
        let Constant { fact, bytes } = constant.into();
        self.builder.frame().initialize(name.to_owned(), fact, Data::Inline(bytes))
    }

    /// A parameter of the model: in a flat graph the value itself, in a function an
    /// attribute that every call sets.
    pub fn parameter(&mut self, name: &'static str, value: impl Into<Attribute>) -> Attribute {
        let value = value.into();
        if !self.builder.in_function() {
            return value;
        }
        for frame in &mut self.builder.frames[1..] {
            if !frame.attributes.iter().any(|(known, _)| *known == name) {
                frame.attributes.push((name, value.clone()));
            }
        }
        value.reference(name)
    }

    /// Wires a value once for the whole graph or function, outside nested bodies; later
    /// calls with the same key return it.
    pub fn shared(
        &mut self,
        key: &str,
        wire: impl FnOnce(&mut Scope) -> Result<Value>,
    ) -> Result<Value> {
        let frame = self.builder.frame();
        if let Some(id) = frame.shared.get(key) {
            return Ok(frame.handle(*id));
        }
        let value = self.outside_bodies(|g| wire(&mut g.builder.scope()))?;
        let id = self.builder.resolve(value, key)?;
        let frame = self.builder.frame();
        frame.shared.insert(key.to_owned(), id);
        Ok(frame.handle(id))
    }

    /// Wires values outside nested bodies, where runtimes compute constants when they load a model.
    pub fn outside_bodies<T>(&mut self, wire: impl FnOnce(&mut Scope) -> Result<T>) -> Result<T> {
        let nested = std::mem::take(&mut self.builder.frame().nested);
        let values = wire(self);
        self.builder.frame().nested = nested;
        values
    }

    /// A shape as an i64 vector: a constant if all dimensions are known, otherwise read
    /// off the inputs of the main graph, once for all functions.
    pub fn shape_tensor(&mut self, shape: impl IntoShape) -> Result<Value> {
        let dims = shape.into_shape();
        let known = dims.iter().map(|dim| dim.known().map(|size| size as i64));
        if let Some(known) = known.collect::<Option<Vec<_>>>() {
            return self.constant(&known[..]);
        }
        let name = format!("shape.{}", joined(&dims, "x"));
        let functions = self.builder.frames.split_off(1);
        let value = self.shared(&name, |g| {
            let [dim] = &dims[..] else {
                let parts = dims.iter().map(|dim| g.shape_tensor([dim]));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                return g.concat(&name, &parts, 0);
            };
            let Some((input, axis)) = g.builder.frame().input_with(dim) else {
                let problem = format_args!("dimension `{dim}` is not an axis of any graph input");
                return Err(wiring_error(problem));
            };
            let (start, end) = (axis as i64, axis as i64 + 1);
            let node = g.node(&name, "Shape").input(input).attr("start", start).attr("end", end);
            node.output(Fact::new(DType::I64, [1]))
        });
        self.builder.frames.extend(functions);
        value
    }

    /// A dimension whose size a value of the main graph has, i64 `[1]`: [`Scope::shape_tensor`]
    /// returns that value, as no input has such an axis.
    pub fn dimension(&mut self, name: &str, size: Value) -> Result<Dim> {
        self.shared(&format!("shape.{name}"), |_| Ok(size))?;
        Ok(Dim::symbol(name))
    }

    /// A part of the model: its nodes are inlined under `name`, or stand in a function
    /// that all equal blocks share. Outer values that the block uses become inputs of the
    /// function. `names` are those of the inputs inside.
    pub fn block(
        &mut self,
        name: &str,
        function: &str,
        names: &[&str],
        inputs: &[Value],
        wire: impl FnOnce(&mut Scope, &[Value]) -> Result<Vec<Value>>,
    ) -> Result<Vec<Value>> {
        if self.builder.style == Style::Flat {
            return wire(&mut self.child(name), inputs);
        }
        let inputs = self.builder.open_function(self.path_of(name), inputs, names)?;
        let results = wire(&mut self.builder.scope(), &inputs)?;
        self.call(name, function, &results)
    }

    /// Closes the function that returns these values, and calls it.
    fn call(&mut self, name: &str, function: &str, results: &[Value]) -> Result<Vec<Value>> {
        let mut scope = self.builder.scope();
        results.iter().try_for_each(|value| scope.body_output("output", *value))?;
        let Frame { graph, imports, attributes, .. } =
            self.builder.frames.pop().expect("a function is open");
        let outputs: Vec<_> =
            graph.body.outputs.iter().map(|id| graph.values[*id].clone()).collect();
        let names = attributes.iter().map(|(name, _)| *name).collect();
        let function = Function { name: function.to_owned(), attributes: names, graph };
        let function = self.builder.add_function(function);
        let is_nested = self.builder.in_function();
        let mut node = self.node(name, &function).domain(FUNCTIONS).inputs(imports);
        for (name, value) in attributes {
            node = node.attr(name, if is_nested { value.reference(name) } else { value });
        }
        node.wire(outputs)
    }

    /// Makes a value an output of the innermost body. ONNX demands that one of the body's nodes
    /// produces it; other values go through an Identity.
    pub(super) fn body_output(&mut self, name: &str, value: Value) -> Result<()> {
        let mut id = self.builder.resolve(value, name)?;
        if !self.builder.frame().body().nodes.iter().any(|node| node.outputs.contains(&id)) {
            let fact = self.fact(value)?;
            id = self.node(name, "Identity").input(value).output(fact)?.id;
        }
        self.builder.frame().body().outputs.push(id);
        Ok(())
    }
}

/// Collects a node's inputs and attributes.
#[must_use = "a node is wired by `output` or `outputs`"]
pub struct NodeBuilder<'b> {
    builder: &'b mut Builder,
    node: Node,
    inputs: Vec<Option<Value>>,
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
        frame.graph.domains.insert(node.domain);
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
        if fits { Ok(()) } else { Err(self.misfit(left, right)) }
    }

    pub(super) fn misfit(&self, left: &Fact, right: &Fact) -> Error {
        self.error(format_args!("cannot combine {left} with {right}"))
    }

    /// The dtype and shape of elementwise results.
    pub(super) fn broadcast(&self, left: &Fact, right: &Fact) -> Result<Fact> {
        let shape = broadcast(&left.shape, &right.shape).filter(|_| left.dtype == right.dtype);
        Ok(left.with_shape(shape.ok_or_else(|| self.misfit(left, right))?))
    }

    fn ensure(&self, holds: bool, problem: impl Display) -> Result<()> {
        if holds { Ok(()) } else { Err(self.error(problem)) }
    }

    fn error(&self, problem: impl Display) -> Error {
        let Node { name, op, .. } = &self.node;
        wiring_error(format_args!("node `{name}` ({op}) {problem}"))
    }
}

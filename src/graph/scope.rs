//! A position in a model under construction: it wires nodes, and names them by its path.

use std::ops::Range;

use super::error::wiring_error;
use super::{
    Attribute, Builder, Constant, Data, Dim, FUNCTIONS, Fact, IntoShape, NodeBuilder, Style, Value,
    ValueId,
};
use crate::error::Result;
use crate::tensor::DType;

/// Values that a block takes or returns together.
pub trait Bundle {
    fn into_values(self) -> Vec<Value>;
    fn from_values(values: Vec<Value>) -> Self;
}

impl<const N: usize> Bundle for [Value; N] {
    fn into_values(self) -> Vec<Value> {
        self.to_vec()
    }

    fn from_values(values: Vec<Value>) -> Self {
        values.try_into().expect("as many as there are")
    }
}

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
        let name = self.path_of(name);
        NodeBuilder::new(self.builder, name, op)
    }

    pub fn fact(&self, value: Value) -> Result<Fact> {
        self.builder.fact(value, &self.path)
    }

    /// A new dimension whose size is known only when the graph runs.
    pub fn unknown_dim(&self, name: &str) -> Dim {
        Dim::symbol(self.path_of(name))
    }

    /// An input of the main graph, without the path in its name.
    pub fn input(&mut self, name: &str, fact: Fact) -> Result<Value> {
        let main = &mut self.builder.frames[0];
        let id = main.input(name, fact)?;
        Ok(main.handle(id))
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

    /// A byte range of a stored weight. `name` is the initializer's full name; the same
    /// name again is the same initializer.
    pub fn weight(
        &mut self,
        name: &str,
        fact: Fact,
        weight: &str,
        range: Range<u64>,
    ) -> Result<Value> {
        let main = &mut self.builder.frames[0];
        let key = format!("weight {name}");
        if let Some(id) = main.shared.get(&key) {
            return Ok(main.handle(*id));
        }
        let data = Data::External { weight: weight.to_owned(), range };
        let id = main.initialize(name.to_owned(), fact, data)?;
        main.shared.insert(key, id);
        Ok(main.handle(id))
    }

    /// A constant named after its value; equal constants share an initializer.
    pub fn constant(&mut self, constant: impl Into<Constant>) -> Result<Value> {
        self.builder.frame().constant(None, constant.into())
    }

    /// [`Scope::constant`] with a name of its own.
    pub fn table(&mut self, name: &str, constant: impl Into<Constant>) -> Result<Value> {
        self.builder.frame().constant(Some(name), constant.into())
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

    /// An integer parameter as a value of rank 0.
    pub fn integer(&mut self, name: &'static str, value: i64) -> Result<Value> {
        match self.parameter(name, value) {
            Attribute::Int(value) => self.constant(value),
            reference => self.shared(name, |g| {
                let node = g.node(name, "Constant").attr("value_int", reference);
                node.output(Fact::scalar(DType::I64))
            }),
        }
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
        let nested = frame.bodies.split_off(1);
        let value = wire(&mut self.builder.scope());
        self.builder.frame().bodies.extend(nested);
        let id = self.builder.resolve(value?, key)?;
        let frame = self.builder.frame();
        frame.shared.insert(key.to_owned(), id);
        Ok(frame.handle(id))
    }

    /// A shape as an i64 vector: a constant if all dimensions are known, otherwise read
    /// off the inputs of the main graph, once for all functions.
    pub fn shape_tensor(&mut self, shape: impl IntoShape) -> Result<Value> {
        let dims = shape.into_shape();
        let known = dims.iter().map(|dim| dim.known().map(|size| size as i64));
        if let Some(known) = known.collect::<Option<Vec<_>>>() {
            return self.constant(&known[..]);
        }
        let label: Vec<String> = dims.iter().map(Dim::to_string).collect();
        let name = format!("shape.{}", label.join("x"));
        let functions = self.builder.frames.split_off(1);
        let value = self.shared(&name, |g| {
            if let [dim] = &dims[..] {
                return g.axis_size(&name, dim);
            }
            let parts = dims.iter().map(|dim| g.shape_tensor([dim]));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            g.concat(&name, &parts, 0)
        });
        self.builder.frames.extend(functions);
        value
    }

    /// A symbolic dimension read off the shape of a graph input: i64 `[1]`.
    fn axis_size(&mut self, name: &str, dim: &Dim) -> Result<Value> {
        let Some((input, axis)) = self.builder.frame().input_with(dim) else {
            let problem = format_args!("dimension `{dim}` is not an axis of any graph input");
            return Err(wiring_error(problem));
        };
        let node = self.node(name, "Shape").input(input);
        let node = node.attr("start", axis as i64).attr("end", axis as i64 + 1);
        node.output(Fact::new(DType::I64, [1]))
    }

    /// A part of the model: its nodes are inlined under `name`, or stand in a function
    /// that all equal blocks share. Outer values that the block uses become inputs of the
    /// function. `names` are those of the inputs inside.
    pub fn block<I: Bundle, O: Bundle>(
        &mut self,
        name: &str,
        function: &str,
        names: &[&str],
        inputs: I,
        wire: impl FnOnce(&mut Scope, I) -> Result<O>,
    ) -> Result<O> {
        if self.builder.style == Style::Flat {
            return wire(&mut self.child(name), inputs);
        }
        let path = self.path_of(name);
        let inputs = self.builder.open_function(path, inputs.into_values(), names)?;
        let results = wire(&mut self.builder.scope(), I::from_values(inputs))?;
        Ok(O::from_values(self.call(name, function, results.into_values())?))
    }

    /// Closes the function that returns these values, and calls it.
    fn call(&mut self, name: &str, function: &str, results: Vec<Value>) -> Result<Vec<Value>> {
        let mut outputs = Vec::with_capacity(results.len());
        for value in results {
            let id = self.builder.scope().ensure_produced_here("output", value)?;
            let frame = self.builder.frame();
            frame.body().outputs.push(id);
            outputs.push(frame.values[id].clone());
        }
        let callee = self.builder.close_function(function);
        let is_nested = self.builder.in_function();
        let mut node = self.node(name, &callee.name).domain(FUNCTIONS).inputs(callee.inputs);
        for (name, value) in callee.attributes {
            node = node.attr(name, if is_nested { value.reference(name) } else { value });
        }
        node.wire(outputs)
    }

    /// The id of a value that a node of the innermost body produces, as ONNX demands of a
    /// body's outputs; other values go through an Identity.
    pub(super) fn ensure_produced_here(&mut self, name: &str, value: Value) -> Result<ValueId> {
        let id = self.builder.resolve(value, name)?;
        if self.builder.frame().body().nodes.iter().any(|node| node.outputs.contains(&id)) {
            return Ok(id);
        }
        let fact = self.fact(value)?;
        Ok(self.node(name, "Identity").input(value).output(fact)?.id)
    }
}

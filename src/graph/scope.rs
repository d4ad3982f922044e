//! The pen that wires a graph: a place in it, with a path for names.

use super::{
    Attribute, Builder, Constant, Data, Dim, Error, FUNCTIONS, Fact, NodeBuilder, ONNX, Result,
    Style, Value,
};
use crate::tensor::DType;

/// Values that a block takes or gives together.
pub trait Bundle {
    /// The values one by one.
    fn into_values(self) -> Vec<Value>;
    /// The same from as many values.
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

impl<'b> Scope<'b> {
    pub(super) fn new(builder: &'b mut Builder, path: String) -> Self {
        Self { builder, path }
    }

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

    /// Dtype and shape of a value.
    pub fn fact(&self, value: Value) -> Result<Fact> {
        let described = self.builder.describe(value);
        let (_, fact) = described.ok_or_else(|| Error::Invisible(self.path.clone()))?;
        Ok(fact.clone())
    }

    /// A new dimension that only running the graph tells, named by its path.
    pub fn unknown_dim(&self, name: &str) -> Dim {
        Dim::symbol(self.path_of(name))
    }

    /// An input of the main graph. Names are the interface: no path.
    pub fn input(&mut self, name: &str, fact: Fact) -> Result<Value> {
        let main = &mut self.builder.frames[0];
        let id = main.input(name.to_owned(), fact)?;
        Ok(main.handle(id))
    }

    /// Makes a value an output of the main graph, and gives it that name.
    pub fn output(&mut self, name: &str, value: Value) -> Result<()> {
        let id = self.builder.resolve(value).filter(|_| !self.builder.in_function());
        let id = id.ok_or_else(|| Error::Invisible(name.to_owned()))?;
        let main = self.builder.frame();
        main.rename(id, name)?;
        main.body().outputs.push(id);
        Ok(())
    }

    /// Makes a value of the main graph one that a look inside shows, among others
    /// of its kind.
    pub fn probe(&mut self, kind: &'static str, value: Value) -> Result<()> {
        let id = self.builder.resolve(value).filter(|_| !self.builder.in_function());
        let id = id.ok_or_else(|| Error::Invisible(self.path.clone()))?;
        self.builder.probes.push((kind, id));
        Ok(())
    }

    /// A byte range of a stored weight, under the initializer's own full name.
    /// Asked for twice, it is there once.
    pub fn weight(
        &mut self,
        name: &str,
        fact: Fact,
        weight: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Value> {
        let main = &mut self.builder.frames[0];
        let key = format!("weight {name}");
        let id = match main.shared(&key) {
            Some(id) => id,
            None => {
                let data = Data::External { weight: weight.to_owned(), range };
                let id = main.initialize(name.to_owned(), fact, data)?;
                main.share(key, id);
                id
            }
        };
        Ok(main.handle(id))
    }

    /// A small constant, named after its value and shared by all who need it.
    pub fn constant(&mut self, constant: impl Into<Constant>) -> Result<Value> {
        let frame = self.builder.frame();
        let id = frame.constant(None, &constant.into())?;
        Ok(frame.handle(id))
    }

    /// A constant with a name of its own, shared likewise.
    pub fn table(&mut self, name: &str, constant: impl Into<Constant>) -> Result<Value> {
        let frame = self.builder.frame();
        let id = frame.constant(Some(name), &constant.into())?;
        Ok(frame.handle(id))
    }

    /// A parameter of the model: the value itself in a flat graph, in a
    /// function an attribute that every call of it sets.
    pub fn parameter(&mut self, name: &'static str, value: impl Into<Attribute>) -> Attribute {
        let value = value.into();
        if !self.builder.in_function() {
            return value;
        }
        for frame in &mut self.builder.frames[1..] {
            frame.attribute(name, &value);
        }
        callers(name, value)
    }

    /// An integer parameter as a value of rank 0.
    pub fn integer(&mut self, name: &'static str, value: i64) -> Result<Value> {
        match self.parameter(name, value) {
            Attribute::Int(value) => self.constant(value),
            attribute => self.shared(name, |g| {
                g.node(name, "Constant")
                    .attr("value_int", attribute)
                    .output(Fact::scalar(DType::I64))
            }),
        }
    }

    /// Wires something once for the whole graph or function, whoever asks
    /// first and however deep; later calls with the same key get its value.
    pub fn shared(
        &mut self,
        key: &str,
        wire: impl FnOnce(&mut Scope) -> Result<Value>,
    ) -> Result<Value> {
        if let Some(id) = self.builder.frame().shared(key) {
            return Ok(self.builder.frame().handle(id));
        }
        let nested = self.builder.frame().suspend();
        let value = wire(&mut self.builder.scope());
        self.builder.frame().resume(nested);
        let value = value?;
        let id = self.builder.resolve(value).ok_or_else(|| Error::Invisible(key.to_owned()))?;
        self.builder.frame().share(key.to_owned(), id);
        Ok(value)
    }

    /// [`Scope::shared`] in the main graph: one for all functions too.
    fn shared_in_main(
        &mut self,
        key: &str,
        wire: impl FnOnce(&mut Scope) -> Result<Value>,
    ) -> Result<Value> {
        let functions = self.builder.frames.split_off(1);
        let value = self.shared(key, wire);
        self.builder.frames.extend(functions);
        value
    }

    /// The shape with these dimensions as an i64 vector, for the operators that
    /// take one: a constant as far as it is known, else read off the inputs.
    pub fn sizes(&mut self, dims: &[Dim]) -> Result<Value> {
        if let Some(known) =
            dims.iter().map(|dim| Some(dim.known()? as i64)).collect::<Option<Vec<_>>>()
        {
            return self.constant(&known[..]);
        }
        let label: Vec<String> = dims.iter().map(Dim::to_string).collect();
        self.shared_in_main(&format!("shape.{}", label.join("x")), |g| match dims {
            [dim] => g.size(dim),
            dims => {
                let parts = dims.iter().map(|dim| g.sizes(std::slice::from_ref(dim)));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                g.concat(&format!("shape.{}", label.join("x")), &parts, 0)
            }
        })
    }

    /// One symbolic dimension, read off the shape of a graph input: i64 `[1]`.
    fn size(&mut self, dim: &Dim) -> Result<Value> {
        let source = self.builder.frame().source(dim);
        let (input, axis) = source.ok_or_else(|| Error::Unbound(dim.clone()))?;
        self.node(&format!("shape.{dim}"), "Shape")
            .input(input)
            .attr("start", axis as i64)
            .attr("end", axis as i64 + 1)
            .output(Fact::new(DType::I64, [1]))
    }

    /// A part of the model with a name of its own. Its nodes stand in the graph
    /// under `name`, or in a function that all equal blocks share: then the
    /// values around it that the block uses become inputs of the function.
    /// `names` are those of the inputs inside.
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
        let mut actuals = Vec::new();
        for value in inputs.into_values() {
            let id = self.builder.resolve(value).ok_or_else(|| Error::Invisible(path.clone()))?;
            actuals.push((self.builder.frame().handle(id), self.fact(value)?));
        }
        self.builder.open_frame(path);
        let mut formals = Vec::new();
        for ((outer, fact), name) in actuals.into_iter().zip(names) {
            let frame = self.builder.frame();
            let id = frame.bind(outer, name, fact)?;
            formals.push(frame.handle(id));
        }
        let results = wire(&mut self.builder.scope(), I::from_values(formals))?;
        Ok(O::from_values(self.call(name, function, results.into_values())?))
    }

    /// Closes the function whose body is wired, and calls it.
    fn call(&mut self, name: &str, function: &str, results: Vec<Value>) -> Result<Vec<Value>> {
        let mut outputs = Vec::with_capacity(results.len());
        for value in results {
            let id = self.builder.scope().made_here("output", value)?;
            let frame = self.builder.frame();
            frame.body().outputs.push(id);
            outputs.push(frame.describe(id).clone());
        }
        let (function, inputs, attributes) = self.builder.close_frame(function);
        let nested = self.builder.in_function();
        let mut node = self.node(name, &function).domain(FUNCTIONS).inputs(inputs);
        for (name, value) in attributes {
            node = node.attr(name, if nested { callers(name, value) } else { value });
        }
        node.wire(outputs.iter().map(|(name, fact)| (name.as_str(), fact.clone())))
    }

    /// The value's id, by way of an Identity when it is not made by a node of
    /// the innermost body: an output of a body must be.
    pub(super) fn made_here(&mut self, name: &str, value: Value) -> Result<super::ValueId> {
        let id = self.builder.resolve(value).ok_or_else(|| Error::Invisible(name.to_owned()))?;
        if self.builder.frame().made_here(id) {
            return Ok(id);
        }
        let fact = self.fact(value)?;
        Ok(self.node(name, "Identity").input(value).output(fact)?.id)
    }

    /// Begins a node; its operator's rules are the caller's business.
    pub fn node<'s>(&'s mut self, name: &str, op: &str) -> NodeBuilder<'s, 'b> {
        NodeBuilder::new(self, name, op, ONNX)
    }
}

/// The reference, inside a function, to an attribute of its call.
fn callers(name: &'static str, value: Attribute) -> Attribute {
    match value {
        Attribute::Float(_) | Attribute::CallersFloat(_) => Attribute::CallersFloat(name),
        _ => Attribute::CallersInt(name),
    }
}

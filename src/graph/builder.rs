//! A model while it is wired: the main graph, and the functions that are open inside it.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::{
    Attribute, Body, Constant, Data, Dim, Fact, Function, Graph, Initializer, Model, Value, ValueId,
};
use crate::error::{Error, Result, err};

/// What `Scope::block` makes of the parts of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The nodes of every block are in the main graph.
    #[default]
    Flat,
    /// Equal blocks share a function, which the main graph calls.
    Functions,
}

/// Records the nodes that a `Scope` wires.
#[derive(Default)]
pub struct Builder {
    pub(super) style: Style,
    /// The main graph first, the innermost open function last.
    pub(super) frames: Vec<Frame>,
    frames_opened: u32,
    functions: Vec<Function>,
    pub(super) probes: Vec<(&'static str, ValueId)>,
}

/// The main graph or a function while it is wired.
#[derive(Default)]
pub(super) struct Frame {
    serial: u32,
    /// The path of the block that becomes this function, in the frame around it.
    path: String,
    pub(super) graph: Graph,
    /// Open bodies inside the graph's own, each with its serial number, the innermost last.
    pub(super) nested: Vec<(usize, Body)>,
    bodies_opened: usize,
    /// The body of each value, by serial number; the value is visible while it is open.
    homes: Vec<usize>,
    names: HashSet<String>,
    /// Initializers and other values that are wired once, by key.
    pub(super) shared: HashMap<String, ValueId>,
    /// Values of the frame around this one, for which the inputs stand in this order.
    pub(super) imports: Vec<Value>,
    /// Attributes that calls of this function set.
    pub(super) attributes: Vec<(&'static str, Attribute)>,
}

impl Builder {
    pub fn new(style: Style) -> Self {
        Self { style, frames: vec![Frame::default()], frames_opened: 1, ..Self::default() }
    }

    pub fn finish(mut self) -> Model {
        let main = self.frames.remove(0).graph;
        Model { main, functions: self.functions, probes: self.probes }
    }

    pub(super) fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the main graph stays open")
    }

    pub(super) fn in_function(&self) -> bool {
        self.frames.len() > 1
    }

    /// The dtype and shape of a value that `user` reads.
    pub(super) fn fact(&self, value: Value, user: &str) -> Result<Fact> {
        let frame = self.frames.iter().find(|frame| frame.serial == value.frame);
        Ok(frame.ok_or_else(|| invisible(user))?.graph.values[value.id].1.clone())
    }

    /// The id, in the innermost frame, of a value that `user` reads. A value of a frame
    /// around it becomes an input of the function, and of every function in between.
    pub(super) fn resolve(&mut self, value: Value, user: &str) -> Result<ValueId> {
        self.resolve_in(self.frames.len() - 1, value).ok_or_else(|| invisible(user))
    }

    /// [`Builder::resolve`] for what only values of the main graph can be.
    pub(super) fn resolve_in_main(&mut self, value: Value, user: &str) -> Result<ValueId> {
        if self.in_function() { Err(invisible(user)) } else { self.resolve(value, user) }
    }

    fn resolve_in(&mut self, depth: usize, value: Value) -> Option<ValueId> {
        if self.frames[depth].serial == value.frame {
            return self.frames[depth].sees(value.id).then_some(value.id);
        }
        let id = self.resolve_in(depth.checked_sub(1)?, value)?;
        let (around, frame) = self.frames.split_at_mut(depth);
        Some(frame[0].import(&around[depth - 1], id))
    }

    /// Opens a function whose inputs stand for these values and have these names inside.
    pub(super) fn open_function(
        &mut self,
        path: String,
        inputs: &[Value],
        names: &[&str],
    ) -> Result<Vec<Value>> {
        let serial = self.frames_opened;
        let mut frame = Frame { serial, path, ..Frame::default() };
        let inner = inputs.iter().zip(names).map(|(value, name)| {
            let id = self.resolve(*value, &frame.path)?;
            frame.bind(self.frame(), id, name)
        });
        let inner = inner.collect::<Result<_>>()?;
        self.frames.push(frame);
        self.frames_opened += 1;
        Ok(inner)
    }

    /// Adds a function to the model, and returns its name. An equal one that exists is
    /// reused; one of the same name but other content (a layer of another size) gets a number.
    pub(super) fn add_function(&mut self, mut function: Function) -> String {
        let base = function.name.clone();
        let mut number = 1;
        while let Some(known) = self.functions.iter().find(|known| known.name == function.name) {
            if known.stored() == function.stored() {
                return function.name;
            }
            number += 1;
            function.name = format!("{base}{number}");
        }
        self.functions.push(function.clone());
        function.name
    }
}

impl Frame {
    pub(super) fn handle(&self, id: ValueId) -> Value {
        Value { frame: self.serial, id }
    }

    fn sees(&self, id: ValueId) -> bool {
        let home = self.homes[id];
        home == 0 || self.nested.iter().any(|(serial, _)| *serial == home)
    }

    /// A new value of the innermost body.
    pub(super) fn declare(&mut self, name: String, fact: Fact) -> Result<ValueId> {
        let home = self.nested.last().map_or(0, |(serial, _)| *serial);
        self.declare_in(home, name, fact)
    }

    fn declare_in(&mut self, home: usize, name: String, fact: Fact) -> Result<ValueId> {
        self.reserve(&name)?;
        self.graph.values.push((name, fact));
        self.homes.push(home);
        Ok(self.homes.len() - 1)
    }

    fn reserve(&mut self, name: &str) -> Result<()> {
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        Err(wiring_error(format_args!("the name `{name}` is used twice")))
    }

    pub(super) fn rename(&mut self, id: ValueId, name: &str) -> Result<()> {
        let old = std::mem::replace(&mut self.graph.values[id].0, name.to_owned());
        self.names.remove(&old);
        self.reserve(name)
    }

    pub(super) fn input(&mut self, name: &str, fact: Fact) -> Result<Value> {
        let id = self.declare_in(0, name.to_owned(), fact)?;
        self.graph.body.inputs.push(id);
        Ok(self.handle(id))
    }

    /// Declares an input of this function that stands for a value of the frame around it.
    fn bind(&mut self, around: &Self, id: ValueId, name: &str) -> Result<Value> {
        self.imports.push(around.handle(id));
        self.input(name, around.graph.values[id].1.clone())
    }

    /// The input that stands for a value of the frame around this one: an existing one, or a
    /// new one with the value's name as seen from the function.
    fn import(&mut self, around: &Self, id: ValueId) -> ValueId {
        if let Some(at) = self.imports.iter().position(|value| *value == around.handle(id)) {
            return self.graph.body.inputs[at];
        }
        let name = &around.graph.values[id].0;
        let mut name = name.strip_prefix(&format!("{}.", self.path)).unwrap_or(name).to_owned();
        while self.names.contains(&name) {
            name.push('_');
        }
        self.bind(around, id, &name).expect("the name is unique").id
    }

    /// An initializer; equal ones of one name are the same.
    pub(super) fn initialize(&mut self, name: String, fact: Fact, data: Data) -> Result<Value> {
        let key = format!("{name} {fact} {data:?}");
        if let Some(id) = self.shared.get(&key) {
            return Ok(self.handle(*id));
        }
        let value = self.declare_in(0, name, fact)?;
        self.graph.initializers.push(Initializer { value, data });
        self.shared.insert(key, value);
        Ok(self.handle(value))
    }

    /// A constant named after its value.
    pub(super) fn constant(&mut self, constant: Constant) -> Result<Value> {
        self.initialize(constant.label(), constant.fact, Data::Inline(constant.bytes))
    }

    /// The innermost body.
    pub(super) fn body(&mut self) -> &mut Body {
        self.nested.last_mut().map_or(&mut self.graph.body, |(_, body)| body)
    }

    pub(super) fn open_body(&mut self) {
        self.bodies_opened += 1;
        self.nested.push((self.bodies_opened, Body::default()));
    }

    pub(super) fn close_body(&mut self) -> Body {
        self.nested.pop().expect("a body is open").1
    }

    /// An input of the main graph with this dimension as an axis, and the axis.
    pub(super) fn input_with(&self, dim: &Dim) -> Option<(Value, usize)> {
        self.graph.body.inputs.iter().find_map(|id| {
            let axis = self.graph.values[*id].1.shape.iter().position(|known| known == dim)?;
            Some((self.handle(*id), axis))
        })
    }
}

/// A mistake in wiring: a bug of this program, whatever the checkpoint.
pub(super) fn wiring_error(sentence: impl Display) -> Error {
    err!("the graph could not be wired: {sentence} (please report this)")
}

fn invisible(user: &str) -> Error {
    wiring_error(format_args!("node `{user}` uses a value that is not visible there"))
}

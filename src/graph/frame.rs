//! The main graph or a function while it is wired, with its stack of open bodies.

use std::collections::{HashMap, HashSet};

use super::error::wiring_error;
use super::{Attribute, Body, Constant, Data, Dim, Fact, Graph, Initializer, Value, ValueId};
use crate::error::Result;

#[derive(Default)]
pub(super) struct Frame {
    pub(super) serial: u32,
    /// The path of the block that becomes this function, in the frame around it.
    path: String,
    pub(super) values: Vec<(String, Fact)>,
    /// The body of each value, by serial number; the value is visible while it is open.
    homes: Vec<usize>,
    names: HashSet<String>,
    initializers: Vec<Initializer>,
    /// Open bodies with their serial numbers: the frame's own first, the innermost last.
    pub(super) bodies: Vec<(usize, Body)>,
    bodies_opened: usize,
    /// Constants and other values that are wired once, by key.
    pub(super) shared: HashMap<String, ValueId>,
    /// Values of the frame around this one, with the inputs that stand for them.
    pub(super) imports: Vec<(Value, ValueId)>,
    /// Attributes that calls of this function set.
    pub(super) attributes: Vec<(&'static str, Attribute)>,
}

impl Frame {
    pub(super) fn new(serial: u32, path: String) -> Self {
        let mut frame = Self { serial, path, ..Self::default() };
        frame.open_body();
        frame
    }

    pub(super) fn finish(mut self) -> Graph {
        let body = self.close_body();
        Graph { values: self.values, initializers: self.initializers, body }
    }

    pub(super) fn handle(&self, id: ValueId) -> Value {
        Value { frame: self.serial, id }
    }

    pub(super) fn sees(&self, id: ValueId) -> bool {
        self.bodies.iter().any(|(serial, _)| *serial == self.homes[id])
    }

    /// A new value of the innermost body.
    pub(super) fn declare(&mut self, name: String, fact: Fact) -> Result<ValueId> {
        let (home, _) = self.bodies.last().expect("a body is open");
        self.declare_in(*home, name, fact)
    }

    fn declare_in(&mut self, home: usize, name: String, fact: Fact) -> Result<ValueId> {
        self.reserve(&name)?;
        self.values.push((name, fact));
        self.homes.push(home);
        Ok(self.values.len() - 1)
    }

    fn reserve(&mut self, name: &str) -> Result<()> {
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        Err(wiring_error(format_args!("the name `{name}` is used twice")))
    }

    pub(super) fn rename(&mut self, id: ValueId, name: &str) -> Result<()> {
        if self.values[id].0 != name {
            self.reserve(name)?;
            let old = std::mem::replace(&mut self.values[id].0, name.to_owned());
            self.names.remove(&old);
        }
        Ok(())
    }

    pub(super) fn input(&mut self, name: &str, fact: Fact) -> Result<ValueId> {
        let id = self.declare_in(0, name.to_owned(), fact)?;
        self.bodies[0].1.inputs.push(id);
        Ok(id)
    }

    /// Declares an input of this function that stands for an outer value.
    pub(super) fn bind(&mut self, outer: Value, name: &str, fact: Fact) -> Result<ValueId> {
        let id = self.input(name, fact)?;
        self.imports.push((outer, id));
        Ok(id)
    }

    /// The input that stands for an outer value: an existing one, or a new one with the
    /// value's name as seen from the function.
    pub(super) fn import(&mut self, outer: Value, name: &str, fact: Fact) -> ValueId {
        if let Some((_, id)) = self.imports.iter().find(|(value, _)| *value == outer) {
            return *id;
        }
        let mut name = name.strip_prefix(&format!("{}.", self.path)).unwrap_or(name).to_owned();
        while self.names.contains(&name) {
            name.push('_');
        }
        self.bind(outer, &name, fact).expect("the name is unique")
    }

    pub(super) fn initialize(&mut self, name: String, fact: Fact, data: Data) -> Result<ValueId> {
        let value = self.declare_in(0, name, fact)?;
        self.initializers.push(Initializer { value, data });
        Ok(value)
    }

    /// A constant; equal ones share an initializer. The default name shows its value.
    pub(super) fn constant(&mut self, name: Option<&str>, constant: Constant) -> Result<Value> {
        let key = format!("{} {} {:?}", name.unwrap_or_default(), constant.fact, constant.bytes);
        if let Some(id) = self.shared.get(&key) {
            return Ok(self.handle(*id));
        }
        let name = name.map(str::to_owned).or_else(|| constant.label());
        let name = name.unwrap_or_else(|| format!("constant.{}", self.initializers.len()));
        let id = self.initialize(name, constant.fact, Data::Inline(constant.bytes))?;
        self.shared.insert(key, id);
        Ok(self.handle(id))
    }

    pub(super) fn open_body(&mut self) {
        self.bodies.push((self.bodies_opened, Body::default()));
        self.bodies_opened += 1;
    }

    /// The innermost body.
    pub(super) fn body(&mut self) -> &mut Body {
        &mut self.bodies.last_mut().expect("a body is open").1
    }

    pub(super) fn close_body(&mut self) -> Body {
        self.bodies.pop().expect("a body is open").1
    }

    /// An input of the main graph with this dimension as an axis, and the axis.
    pub(super) fn input_with(&self, dim: &Dim) -> Option<(Value, usize)> {
        self.bodies[0].1.inputs.iter().find_map(|id| {
            let axis = self.values[*id].1.shape.iter().position(|known| known == dim)?;
            Some((self.handle(*id), axis))
        })
    }
}

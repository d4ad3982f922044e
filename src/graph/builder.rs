//! A graph while it is wired: a stack of frames (the main graph, and each
//! function that is being defined inside it), each with a stack of bodies.

use std::collections::{HashMap, HashSet};

use super::{
    Attribute, Body, Constant, Data, Dim, Error, Fact, Function, Graph, Initializer, Model, Node,
    Result, Scope, Value, ValueId,
};

/// What becomes of the parts of a model that are wired with [`Scope::block`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Every block's nodes stand in the main graph.
    #[default]
    Flat,
    /// Equal blocks share one function, and the main graph calls it.
    Functions,
}

/// Records nodes; [`Builder::scope`] wires them.
pub struct Builder {
    pub(super) style: Style,
    pub(super) frames: Vec<Frame>,
    pub(super) functions: Vec<Function>,
    pub(super) probes: Vec<(&'static str, ValueId)>,
    frames_made: u32,
}

/// The main graph or a function, unfinished.
pub(super) struct Frame {
    serial: u32,
    /// What this frame's path is in the frame around it.
    path: String,
    values: Vec<(String, Fact)>,
    /// Which body made a value; it is visible while that body is open.
    homes: Vec<usize>,
    names: HashSet<String>,
    initializers: Vec<Initializer>,
    /// Open bodies, innermost last, with their serial numbers.
    bodies: Vec<(usize, Body)>,
    bodies_made: usize,
    /// Constants and other values that are wired once, by key.
    shared: HashMap<String, ValueId>,
    /// Values of the frame around this one, and the inputs that stand for them.
    imports: Vec<(Value, ValueId)>,
    /// Attributes that calls of this function set.
    attributes: Vec<(&'static str, Attribute)>,
}

impl Builder {
    /// An empty main graph.
    pub fn new(style: Style) -> Self {
        let mut builder = Self {
            style,
            frames: Vec::new(),
            functions: Vec::new(),
            probes: Vec::new(),
            frames_made: 0,
        };
        builder.open_frame(String::new());
        builder
    }

    /// Where wiring begins: the root of the main graph.
    pub fn scope(&mut self) -> Scope<'_> {
        Scope::new(self, String::new())
    }

    /// The finished model.
    pub fn finish(mut self) -> Model {
        let main = self.frames.remove(0).finish();
        Model { main, functions: self.functions, probes: self.probes }
    }

    pub(super) fn open_frame(&mut self, path: String) {
        self.frames.push(Frame::new(self.frames_made, path));
        self.frames_made += 1;
    }

    pub(super) fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the main graph stays open")
    }

    pub(super) fn in_function(&self) -> bool {
        self.frames.len() > 1
    }

    /// The id of a value in the innermost frame. A value of a frame around it
    /// becomes an input of the function, and of every function in between.
    pub(super) fn resolve(&mut self, value: Value) -> Option<ValueId> {
        self.resolve_in(self.frames.len() - 1, value)
    }

    fn resolve_in(&mut self, depth: usize, value: Value) -> Option<ValueId> {
        if self.frames[depth].serial == value.frame {
            return self.frames[depth].sees(value.id).then_some(value.id);
        }
        let outer = depth.checked_sub(1)?;
        let id = self.resolve_in(outer, value)?;
        let outer_value = Value { frame: self.frames[outer].serial, id };
        let (name, fact) = self.frames[outer].describe(id).clone();
        Some(self.frames[depth].import(outer_value, &name, fact))
    }

    /// Name and fact of a value of any open frame.
    pub(super) fn describe(&self, value: Value) -> Option<&(String, Fact)> {
        let frame = self.frames.iter().find(|frame| frame.serial == value.frame)?;
        Some(frame.describe(value.id))
    }

    /// Closes the innermost frame; what it holds becomes a function, or is
    /// found equal to one that there is already. Returns the function's name,
    /// the values that a call must pass, and its attributes.
    #[allow(clippy::type_complexity)]
    pub(super) fn close_frame(
        &mut self,
        name: &str,
    ) -> (String, Vec<Value>, Vec<(&'static str, Attribute)>) {
        let frame = self.frames.pop().expect("a function is open");
        let inputs = frame.imports.iter().map(|(outer, _)| *outer).collect();
        let attributes = frame.attributes.clone();
        let names = attributes.iter().map(|(name, _)| *name).collect();
        let function = Function { name: name.to_owned(), attributes: names, graph: frame.finish() };
        (self.define(function), inputs, attributes)
    }

    /// Adds a function, unless one with the same content has that name. Where
    /// the content differs (a layer of another size), it gets a number.
    fn define(&mut self, mut function: Function) -> String {
        let base = function.name.clone();
        for number in 2.. {
            match self.functions.iter().find(|known| known.name == function.name) {
                Some(known) if known.is_written_like(&function) => break,
                Some(_) => function.name = format!("{base}{number}"),
                None => {
                    self.functions.push(function.clone());
                    break;
                }
            }
        }
        function.name
    }
}

impl Frame {
    fn new(serial: u32, path: String) -> Self {
        Self {
            serial,
            path,
            values: Vec::new(),
            homes: Vec::new(),
            names: HashSet::new(),
            initializers: Vec::new(),
            bodies: vec![(0, Body::default())],
            bodies_made: 1,
            shared: HashMap::new(),
            imports: Vec::new(),
            attributes: Vec::new(),
        }
    }

    fn finish(mut self) -> Graph {
        let (_, body) = self.bodies.remove(0);
        Graph { values: self.values, initializers: self.initializers, body }
    }

    fn sees(&self, id: ValueId) -> bool {
        self.bodies.iter().any(|(serial, _)| *serial == self.homes[id])
    }

    /// A handle for the outside.
    pub(super) fn handle(&self, id: ValueId) -> Value {
        Value { frame: self.serial, id }
    }

    /// Name and fact of a value.
    pub(super) fn describe(&self, id: ValueId) -> &(String, Fact) {
        &self.values[id]
    }

    /// A new value of the innermost body.
    pub(super) fn declare(&mut self, name: String, fact: Fact) -> Result<ValueId> {
        let home = self.bodies.last().expect("a body is open").0;
        self.declare_in(home, name, fact)
    }

    fn declare_in(&mut self, home: usize, name: String, fact: Fact) -> Result<ValueId> {
        if !self.names.insert(name.clone()) {
            return Err(Error::DuplicateName(name));
        }
        self.values.push((name, fact));
        self.homes.push(home);
        Ok(self.values.len() - 1)
    }

    /// Gives a value another name; nothing but people reads names.
    pub(super) fn rename(&mut self, id: ValueId, name: &str) -> Result<()> {
        if self.values[id].0 == name {
            return Ok(());
        }
        if !self.names.insert(name.to_owned()) {
            return Err(Error::DuplicateName(name.to_owned()));
        }
        let old = std::mem::replace(&mut self.values[id].0, name.to_owned());
        self.names.remove(&old);
        Ok(())
    }

    /// An input of the main graph, or of this function by [`Frame::import`].
    pub(super) fn input(&mut self, name: String, fact: Fact) -> Result<ValueId> {
        let id = self.declare_in(0, name, fact)?;
        self.bodies[0].1.inputs.push(id);
        Ok(id)
    }

    /// Declares that the function's input of this name is the outer value.
    pub(super) fn bind(&mut self, outer: Value, name: &str, fact: Fact) -> Result<ValueId> {
        let id = self.input(name.to_owned(), fact)?;
        self.imports.push((outer, id));
        Ok(id)
    }

    /// The input that stands for a value around the function: one that there
    /// is already, or a new one, named as seen from the function.
    fn import(&mut self, outer: Value, name: &str, fact: Fact) -> ValueId {
        if let Some((_, id)) = self.imports.iter().find(|(value, _)| *value == outer) {
            return *id;
        }
        let local = name.strip_prefix(&format!("{}.", self.path)).unwrap_or(name).to_owned();
        let mut unique = local.clone();
        while self.names.contains(&unique) {
            unique.push('_');
        }
        self.bind(outer, &unique, fact).expect("the name is unique")
    }

    pub(super) fn initialize(&mut self, name: String, fact: Fact, data: Data) -> Result<ValueId> {
        let value = self.declare_in(0, name, fact)?;
        self.initializers.push(Initializer { value, data });
        Ok(value)
    }

    /// The initializer of a constant, one for all equal ones.
    pub(super) fn constant(&mut self, name: Option<&str>, constant: &Constant) -> Result<ValueId> {
        let key = format!("{} {} {:?}", name.unwrap_or_default(), constant.fact, constant.bytes);
        if let Some(id) = self.shared.get(&key) {
            return Ok(*id);
        }
        let own =
            || constant.label().unwrap_or_else(|| format!("constant.{}", self.initializers.len()));
        let name = name.map_or_else(own, str::to_owned);
        let data = Data::Inline(constant.bytes.clone());
        let id = self.initialize(name, constant.fact.clone(), data)?;
        self.shared.insert(key, id);
        Ok(id)
    }

    pub(super) fn shared(&self, key: &str) -> Option<ValueId> {
        self.shared.get(key).copied()
    }

    pub(super) fn share(&mut self, key: String, id: ValueId) {
        self.shared.insert(key, id);
    }

    /// An attribute that calls of this function set.
    pub(super) fn attribute(&mut self, name: &'static str, value: &Attribute) {
        if !self.attributes.iter().any(|(known, _)| *known == name) {
            self.attributes.push((name, value.clone()));
        }
    }

    pub(super) fn push(&mut self, node: Node) {
        self.bodies.last_mut().expect("a body is open").1.nodes.push(node);
    }

    pub(super) fn open_body(&mut self) {
        self.bodies.push((self.bodies_made, Body::default()));
        self.bodies_made += 1;
    }

    pub(super) fn body(&mut self) -> &mut Body {
        &mut self.bodies.last_mut().expect("a body is open").1
    }

    pub(super) fn close_body(&mut self) -> Body {
        self.bodies.pop().expect("a body is open").1
    }

    /// Takes the nested bodies away, so that nodes are wired at the frame's own
    /// level; [`Frame::resume`] gives them back.
    pub(super) fn suspend(&mut self) -> Vec<(usize, Body)> {
        self.bodies.split_off(1)
    }

    pub(super) fn resume(&mut self, bodies: Vec<(usize, Body)>) {
        self.bodies.extend(bodies);
    }

    /// Whether a node of the innermost body makes this value.
    pub(super) fn made_here(&self, id: ValueId) -> bool {
        let (_, body) = self.bodies.last().expect("a body is open");
        body.nodes.iter().any(|node| node.outputs.contains(&id))
    }

    /// An input of the main graph with this dimension as an axis of its own.
    pub(super) fn source(&self, dim: &Dim) -> Option<(Value, usize)> {
        self.bodies[0].1.inputs.iter().find_map(|id| {
            let axis = self.values[*id].1.shape.iter().position(|known| known == dim)?;
            Some((self.handle(*id), axis))
        })
    }
}

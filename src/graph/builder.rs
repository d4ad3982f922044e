//! A model while it is wired: the main graph, and the functions that are open inside it.

use serde::{Deserialize, Serialize};

use super::error::wiring_error;
use super::frame::Frame;
use super::{Attribute, Fact, Function, Model, Value, ValueId};
use crate::error::{Error, Result};

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
pub struct Builder {
    pub(super) style: Style,
    /// The main graph first, the innermost open function last.
    pub(super) frames: Vec<Frame>,
    frames_opened: u32,
    functions: Vec<Function>,
    pub(super) probes: Vec<(&'static str, ValueId)>,
}

/// A finished function, as its caller needs it.
pub(super) struct Callee {
    pub(super) name: String,
    /// Values that the call must pass.
    pub(super) inputs: Vec<Value>,
    pub(super) attributes: Vec<(&'static str, Attribute)>,
}

impl Builder {
    pub fn new(style: Style) -> Self {
        let frames = vec![Frame::new(0, String::new())];
        Self { style, frames, frames_opened: 1, functions: Vec::new(), probes: Vec::new() }
    }

    pub fn finish(mut self) -> Model {
        let main = self.frames.remove(0).finish();
        Model { main, functions: self.functions, probes: self.probes }
    }

    /// The innermost frame.
    pub(super) fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the main graph stays open")
    }

    pub(super) fn in_function(&self) -> bool {
        self.frames.len() > 1
    }

    /// The dtype and shape of a value that `user` reads.
    pub(super) fn fact(&self, value: Value, user: &str) -> Result<Fact> {
        let frame = self.frames.iter().find(|frame| frame.serial == value.frame);
        let frame = frame.ok_or_else(|| invisible(user))?;
        Ok(frame.values[value.id].1.clone())
    }

    /// The id, in the innermost frame, of a value that `user` reads. A value of a frame
    /// around it becomes an input of the function, and of every function in between.
    pub(super) fn resolve(&mut self, value: Value, user: &str) -> Result<ValueId> {
        self.resolve_in(self.frames.len() - 1, value).ok_or_else(|| invisible(user))
    }

    fn resolve_in(&mut self, depth: usize, value: Value) -> Option<ValueId> {
        if self.frames[depth].serial == value.frame {
            return self.frames[depth].sees(value.id).then_some(value.id);
        }
        let id = self.resolve_in(depth.checked_sub(1)?, value)?;
        let outer = &self.frames[depth - 1];
        let ((name, fact), value) = (outer.values[id].clone(), outer.handle(id));
        Some(self.frames[depth].import(value, &name, fact))
    }

    /// [`Builder::resolve`] for what only values of the main graph can be.
    pub(super) fn resolve_in_main(&mut self, value: Value, user: &str) -> Result<ValueId> {
        if self.in_function() { Err(invisible(user)) } else { self.resolve(value, user) }
    }

    /// Opens a function whose inputs stand for these values and have these names inside.
    pub(super) fn open_function(
        &mut self,
        path: String,
        inputs: Vec<Value>,
        names: &[&str],
    ) -> Result<Vec<Value>> {
        let mut frame = Frame::new(self.frames_opened, path.clone());
        let mut inner = Vec::with_capacity(inputs.len());
        for (value, name) in inputs.into_iter().zip(names) {
            let id = self.resolve(value, &path)?;
            let outer = self.frame();
            let input = frame.bind(outer.handle(id), name, outer.values[id].1.clone())?;
            inner.push(frame.handle(input));
        }
        self.frames.push(frame);
        self.frames_opened += 1;
        Ok(inner)
    }

    /// Closes the innermost function. An equal one that exists is reused; one of the same
    /// name but other content (a layer of another size) gets a number.
    pub(super) fn close_function(&mut self, base: &str) -> Callee {
        let frame = self.frames.pop().expect("a function is open");
        let inputs = frame.imports.iter().map(|(outer, _)| *outer).collect();
        let attributes = frame.attributes.clone();
        let names = attributes.iter().map(|(name, _)| *name).collect();
        let mut function =
            Function { name: base.to_owned(), attributes: names, graph: frame.finish() };
        for number in 2.. {
            match self.functions.iter().find(|known| known.name == function.name) {
                Some(known) if known.stored() == function.stored() => break,
                Some(_) => function.name = format!("{base}{number}"),
                None => {
                    self.functions.push(function.clone());
                    break;
                }
            }
        }
        Callee { name: function.name, inputs, attributes }
    }
}

fn invisible(user: &str) -> Error {
    wiring_error(format_args!("node `{user}` uses a value that is not visible there"))
}

//! Operators with graphs inside.

use super::{DType, Fact, Result, Scope, Value};
use crate::graph::Body;

impl Scope<'_> {
    /// Runs `wire` for 0, 1, … below `count` (i64, rank 0), handing one value
    /// of an unchanging dtype and shape from each run to the next.
    pub fn for_each(
        &mut self,
        name: &str,
        count: Value,
        carried: (&str, Value),
        wire: impl FnOnce(&mut Scope, Value, Value) -> Result<Value>,
    ) -> Result<Value> {
        self.typed(name, "Loop", count, DType::I64)?;
        let fact = self.fact(carried.1)?;
        let always = self.constant(true)?;
        let mut scope = self.child(name);
        let body = scope.body(|g| {
            let iteration = g.body_input("iteration", Fact::scalar(DType::I64))?;
            let go_on = g.body_input("condition", Fact::scalar(DType::Bool))?;
            let before = g.body_input(carried.0, fact.clone())?;
            let after = wire(g, iteration, before)?;
            let found = g.fact(after)?;
            if found != fact {
                return Err(g.mismatch("", "Loop", &fact, &found));
            }
            g.body_output("condition.out", go_on)?;
            g.body_output("carried.out", after)
        })?;
        self.node(name, "Loop").inputs([count, always, carried.1]).attr("body", body).output(fact)
    }

    /// One of two ways to the same value, of the dtype and shape of the second.
    pub fn if_else(
        &mut self,
        name: &str,
        condition: Value,
        yes: impl FnOnce(&mut Scope) -> Result<Value>,
        no: impl FnOnce(&mut Scope) -> Result<Value>,
    ) -> Result<Value> {
        self.typed(name, "If", condition, DType::Bool)?;
        let (mut shorter, mut fact) = (None, None);
        let mut scope = self.child(name);
        let then_branch = scope.body(|g| {
            let value = yes(g)?;
            shorter = Some(g.fact(value)?);
            g.body_output("then.out", value)
        })?;
        let else_branch = scope.body(|g| {
            let value = no(g)?;
            fact = Some(g.fact(value)?);
            g.body_output("else.out", value)
        })?;
        let (shorter, fact) = (shorter.expect("wired"), fact.expect("wired"));
        if (shorter.dtype, shorter.rank()) != (fact.dtype, fact.rank()) {
            return Err(self.mismatch(name, "If", &shorter, &fact));
        }
        self.node(name, "If")
            .input(condition)
            .attr("then_branch", then_branch)
            .attr("else_branch", else_branch)
            .output(fact)
    }

    fn body(&mut self, wire: impl FnOnce(&mut Scope) -> Result<()>) -> Result<Body> {
        self.builder.frame().open_body();
        let wired = wire(&mut self.child(""));
        let body = self.builder.frame().close_body();
        wired.map(|()| body)
    }

    fn body_input(&mut self, name: &str, fact: Fact) -> Result<Value> {
        let name = self.path_of(name);
        let frame = self.builder.frame();
        let id = frame.declare(name, fact)?;
        frame.body().inputs.push(id);
        Ok(frame.handle(id))
    }

    fn body_output(&mut self, name: &str, value: Value) -> Result<()> {
        let id = self.made_here(name, value)?;
        self.builder.frame().body().outputs.push(id);
        Ok(())
    }
}

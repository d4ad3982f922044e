//! Operators with nested bodies.

use crate::error::Result;
use crate::graph::{Body, Fact, Scope, Value};
use crate::tensor::DType;

impl Scope<'_> {
    /// Loop: runs `wire` for 0, 1, … below `count` (i64, rank 0) and hands one value of
    /// constant dtype and shape from each iteration to the next.
    pub fn for_each(
        &mut self,
        name: &str,
        count: Value,
        (carried_name, carried): (&str, Value),
        wire: impl FnOnce(&mut Scope, Value, Value) -> Result<Value>,
    ) -> Result<Value> {
        // Checks the dtype; the node itself is wired after its body.
        self.node(name, "Loop").typed(count, DType::I64)?;
        let fact = self.fact(carried)?;
        let always = self.constant(true)?;
        let (body, after) = self.child(name).body("carried.out", |g| {
            let iteration = g.body_input("iteration", Fact::scalar(DType::I64))?;
            let condition = g.body_input("condition", Fact::scalar(DType::Bool))?;
            let before = g.body_input(carried_name, fact.clone())?;
            let after = wire(g, iteration, before)?;
            g.body_output("condition.out", condition)?;
            Ok(after)
        })?;
        let node = self.node(name, "Loop").inputs([count, always, carried]).attr("body", body);
        node.check(after == fact, &fact, &after)?;
        node.output(fact)
    }

    /// Scan: runs `wire` for each index of the first axis of all `parts`, given with their names in the
    /// body. The results `[n, m]` are stacked along axis 1: `[n, count, m]`.
    pub fn for_each_part<const N: usize>(
        &mut self,
        name: &str,
        parts: [(&str, Value); N],
        wire: impl FnOnce(&mut Scope, [Value; N]) -> Result<Value>,
    ) -> Result<Value> {
        let node = self.node(name, "Scan");
        let facts = parts.map(|(name, whole)| Ok((name, node.with_axis(whole, 0)?)));
        let facts = facts.into_iter().collect::<Result<Vec<_>>>()?;
        let count = facts[0].1.shape[0].clone();
        for (_, fact) in &facts {
            node.check(fact.shape[0] == count, &facts[0].1, fact)?;
        }
        let (body, result) = self.child(name).body("out", |g| {
            let inputs = facts
                .iter()
                .map(|(name, whole)| g.body_input(name, whole.with_shape(&whole.shape[1..])));
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            wire(g, inputs.try_into().expect("as many"))
        })?;
        let mut shape = result.shape.clone();
        shape.insert(1, count);
        let node = self.node(name, "Scan").inputs(parts.map(|(_, whole)| whole));
        let node = node.attr("body", body).attr("num_scan_inputs", N as i64);
        node.attr("scan_output_axes", vec![1]).output(result.with_shape(shape))
    }

    /// The result has the fact of `no`. `yes` has its dtype and rank, and may have more specific
    /// dimensions.
    pub fn if_else(
        &mut self,
        name: &str,
        condition: Value,
        yes: impl FnOnce(&mut Scope) -> Result<Value>,
        no: impl FnOnce(&mut Scope) -> Result<Value>,
    ) -> Result<Value> {
        self.node(name, "If").typed(condition, DType::Bool)?;
        let mut scope = self.child(name);
        let (then_branch, narrow) = scope.body("then.out", yes)?;
        let (else_branch, fact) = scope.body("else.out", no)?;
        let node = self.node(name, "If").input(condition);
        let fits = (narrow.dtype, narrow.rank()) == (fact.dtype, fact.rank());
        node.check(fits, &narrow, &fact)?;
        node.attr("then_branch", then_branch).attr("else_branch", else_branch).output(fact)
    }

    /// A nested body whose last output is what `wire` returns, with that output's fact.
    fn body(
        &mut self,
        output: &str,
        wire: impl FnOnce(&mut Scope) -> Result<Value>,
    ) -> Result<(Body, Fact)> {
        self.builder.frame().open_body();
        let wired = wire(self).and_then(|value| {
            self.body_output(output, value)?;
            self.fact(value)
        });
        let body = self.builder.frame().close_body();
        Ok((body, wired?))
    }

    fn body_input(&mut self, name: &str, fact: Fact) -> Result<Value> {
        let name = self.path_of(name);
        let frame = self.builder.frame();
        let id = frame.declare(name, fact)?;
        frame.body().inputs.push(id);
        Ok(frame.handle(id))
    }
}

//! Operators that select elements by index.

use crate::error::Result;
use crate::graph::{Dim, Fact, Scope, Value};
use crate::tensor::DType;

impl Scope<'_> {
    /// Slices of `data` along an axis, one for each index. The axes of `index` replace
    /// that axis; a scalar removes it.
    pub fn gather(&mut self, name: &str, data: Value, index: Value, axis: usize) -> Result<Value> {
        let node = self.node(name, "Gather").inputs([data, index]).attr("axis", axis as i64);
        let (from, to) = (node.with_axis(data, axis)?, node.typed(index, DType::I64)?);
        let shape = [&from.shape[..axis], &to.shape[..], &from.shape[axis + 1..]].concat();
        node.output(from.with_shape(shape))
    }

    /// [`Scope::gather`] at one constant index.
    pub fn gather_at(&mut self, name: &str, data: Value, index: i64, axis: usize) -> Result<Value> {
        let index = self.constant(index)?;
        self.gather(name, data, index, axis)
    }

    /// `result[i][j] = data[indices[i][j]][j]` for axis 0; the other axes are equal.
    pub fn gather_elements(
        &mut self,
        name: &str,
        data: Value,
        indices: Value,
        axis: usize,
    ) -> Result<Value> {
        let node = self.node(name, "GatherElements");
        let (from, index) = (node.with_axis(data, axis)?, node.fact(indices)?);
        if index.dtype != DType::I64 {
            node.typed(indices, DType::I32)?;
        }
        let mut expected = from.shape.clone();
        if let Some(size) = index.shape.get(axis) {
            expected[axis] = size.clone();
        }
        node.check(expected == index.shape, &from, &index)?;
        let fact = index.with_dtype(from.dtype);
        node.inputs([data, indices]).attr("axis", axis as i64).output(fact)
    }

    /// GatherND: for each index tuple, along the last axis of `indices`, the part of `data`
    /// there. The first `batch_dims` axes of both are the same.
    pub fn gather_nd(
        &mut self,
        name: &str,
        data: Value,
        indices: Value,
        batch_dims: usize,
    ) -> Result<Value> {
        let node = self.node(name, "GatherND");
        let (from, index) = (node.fact(data)?, node.typed(indices, DType::I64)?);
        let (outer, length) = index.shape.split_at(index.rank().saturating_sub(1));
        let length = length.first().and_then(Dim::known).unwrap_or(u64::MAX);
        let inner = from.shape.get(batch_dims.saturating_add(length as usize)..);
        let fits = inner.is_some() && outer.get(..batch_dims) == from.shape.get(..batch_dims);
        node.check(fits, &from, &index)?;
        let fact = from.with_shape([outer, inner.unwrap_or_default()].concat());
        let node = node.inputs([data, indices]);
        let node = if batch_dims > 0 { node.attr("batch_dims", batch_dims as i64) } else { node };
        node.output(fact)
    }

    /// ScatterND: `data [n, c]` with `updates [m, c]` added to the rows `rows [m]`.
    pub fn add_to_rows(&mut self, name: &str, [data, rows, updates]: [Value; 3]) -> Result<Value> {
        let node = self.node(name, "ScatterND");
        let (fact, added) = (node.ranked(data, 2)?, node.ranked(updates, 2)?);
        let index = node.ranked(rows, 1)?;
        let expected = fact.with_shape([&index.shape[0], &fact.shape[1]]);
        node.check(added == expected, &fact, &added)?;
        let rows = self.unsqueeze(&format!("{name}.rows"), rows, 1)?;
        let node = self.node(name, "ScatterND").inputs([data, rows, updates]);
        node.attr("reduction", "add").output(fact)
    }

    /// The distinct elements, ascending.
    pub fn unique(&mut self, name: &str, x: Value) -> Result<Value> {
        let fact = self.fact(x)?.with_shape([self.unknown_dim(name)]);
        self.node(name, "Unique").input(x).attr("sorted", 1).output(fact)
    }

    /// Indices of true elements: i64 `[rank, count]`.
    pub fn non_zero(&mut self, name: &str, x: Value) -> Result<Value> {
        let rank = Dim::from(self.fact(x)?.rank() as u64);
        let fact = Fact::new(DType::I64, [rank, self.unknown_dim(name)]);
        self.node(name, "NonZero").input(x).output(fact)
    }
}

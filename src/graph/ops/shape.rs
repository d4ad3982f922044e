//! Operators that move elements without changing them, or select them by index.

use crate::error::Result;
use crate::graph::{Dim, Fact, IntoShape, Scope, Value};
use crate::tensor::DType;

impl Scope<'_> {
    /// The same elements in another shape of the same size.
    ///
    /// The target is a constant where possible: one dimension may follow from the others
    /// (-1), and one that keeps its axis is copied (0).
    pub fn reshape(&mut self, name: &str, x: Value, shape: impl IntoShape) -> Result<Value> {
        let node = self.node(name, "Reshape");
        let from = node.fact(x)?;
        let to = from.with_shape(shape);
        let fits = Dim::product(&from.shape) == Dim::product(&to.shape);
        node.check(fits, &from, &to)?;
        let mut has_deduced = false;
        let constant = to.shape.iter().enumerate().map(|(axis, dim)| match dim.known() {
            Some(number) => Some(number as i64),
            None if from.shape.get(axis) == Some(dim) => Some(0),
            None if !has_deduced => {
                has_deduced = true;
                Some(-1)
            }
            None => None,
        });
        let target = match constant.collect::<Option<Vec<i64>>>() {
            Some(target) => self.constant(&target[..])?,
            None => self.shape_tensor(&to.shape)?,
        };
        self.node(name, "Reshape").inputs([x, target]).output(to)
    }

    /// Axis `i` of the result is axis `perm[i]` of the operand.
    pub fn transpose(&mut self, name: &str, x: Value, perm: &[usize]) -> Result<Value> {
        let node = self.node(name, "Transpose").input(x);
        let fact = node.ranked(x, perm.len())?;
        let shape = perm.iter().map(|axis| Ok(node.with_axis(x, *axis)?.shape[*axis].clone()));
        let fact = fact.with_shape(shape.collect::<Result<Vec<_>>>()?);
        let axes: Vec<i64> = perm.iter().map(|axis| *axis as i64).collect();
        node.attr("perm", axes).output(fact)
    }

    /// A new axis of size 1.
    pub fn unsqueeze(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let node = self.node(name, "Unsqueeze").input(x).constant(&[axis as i64][..])?;
        let mut fact = if axis == 0 { node.fact(x)? } else { node.with_axis(x, axis - 1)? };
        fact.shape.insert(axis, Dim::from(1));
        node.output(fact)
    }

    /// Consecutive parts of known sizes along an axis, with names.
    pub fn split<const N: usize>(
        &mut self,
        name: &str,
        x: Value,
        axis: usize,
        parts: [(&str, u64); N],
    ) -> Result<[Value; N]> {
        let sizes = parts.map(|(_, size)| size);
        let node =
            self.node(name, "Split").input(x).constant(&sizes.map(|size| size as i64)[..])?;
        let fact = node.with_axis(x, axis)?;
        let fits = fact.shape[axis].known() == Some(sizes.iter().sum());
        node.check(fits, &fact, &Fact::new(DType::I64, sizes))?;
        let outputs = parts.map(|(part, size)| (part, fact.with_size(axis, size)));
        node.attr("axis", axis as i64).outputs(outputs)
    }

    /// The last `count` elements along an axis that has at least as many.
    pub fn slice_last(&mut self, name: &str, x: Value, axis: usize, count: &Dim) -> Result<Value> {
        let fact = self.node(name, "Slice").with_axis(x, axis)?.with_size(axis, count);
        let start = if let Some(count) = count.known() {
            self.constant(&[-(count as i64)][..])?
        } else {
            let count = self.shape_tensor([count])?;
            self.neg(&format!("{name}.start"), count)?
        };
        let node = self.node(name, "Slice").inputs([x, start]);
        node.constant(&[i64::MAX][..])?.constant(&[axis as i64][..])?.output(fact)
    }

    /// All axes but `axis` are equal.
    pub fn concat(&mut self, name: &str, values: &[Value], axis: usize) -> Result<Value> {
        let node = self.node(name, "Concat").inputs(values.iter().copied());
        let mut result = node.with_axis(values[0], axis)?;
        for value in &values[1..] {
            let next = node.fact(*value)?;
            let fits =
                next.shape.get(axis).is_some_and(|size| next == result.with_size(axis, size));
            node.check(fits, &result, &next)?;
            result = result.with_size(axis, result.shape[axis].plus(&next.shape[axis]));
        }
        node.attr("axis", axis as i64).output(result)
    }

    /// Zeros before and after the elements along an axis.
    pub fn pad(&mut self, name: &str, x: Value, axis: usize, zeros: [u64; 2]) -> Result<Value> {
        let node = self.node(name, "Pad").input(x);
        let fact = node.with_axis(x, axis)?;
        let [before, after] = zeros.map(Dim::from);
        let fact = fact.with_size(axis, before.plus(&fact.shape[axis]).plus(&after));
        let mut pads = vec![0; 2 * fact.rank()];
        (pads[axis], pads[fact.rank() + axis]) = (zeros[0] as i64, zeros[1] as i64);
        node.constant(&pads[..])?.output(fact)
    }

    /// Repeats axes of size 1 up to a shape.
    pub fn expand(&mut self, name: &str, x: Value, shape: impl IntoShape) -> Result<Value> {
        let node = self.node(name, "Expand");
        let from = node.fact(x)?;
        let fact = from.with_shape(shape);
        node.check(from.broadcasts_to(&fact), &from, &fact)?;
        let sizes = self.shape_tensor(&fact.shape)?;
        self.node(name, "Expand").inputs([x, sizes]).output(fact)
    }

    /// Repeats axes of size 1 up to the shape of another value.
    pub fn expand_like(&mut self, name: &str, x: Value, like: Value) -> Result<Value> {
        let node = self.node(&format!("{name}.shape"), "Shape").input(like);
        let (from, to) = (node.fact(x)?, node.fact(like)?.with_dtype(node.fact(x)?.dtype));
        node.check(from.broadcasts_to(&to), &from, &to)?;
        let shape = node.output(Fact::new(DType::I64, [to.rank() as u64]))?;
        self.node(name, "Expand").inputs([x, shape]).output(to)
    }

    /// The numbers 0, 1, … below a dimension: i64 `[dim]`.
    pub fn range(&mut self, name: &str, end: &Dim) -> Result<Value> {
        let (zero, one) = (self.constant(0i64)?, self.constant(1i64)?);
        let limit = self.shape_tensor([end])?;
        let limit = self.reshape(&format!("{name}.end"), limit, [] as [Dim; 0])?;
        self.node(name, "Range").inputs([zero, limit, one]).output(Fact::new(DType::I64, [end]))
    }

    /// Size: the number of elements, an i64 of rank 0.
    pub fn element_count(&mut self, name: &str, x: Value) -> Result<Value> {
        self.node(name, "Size").input(x).output(Fact::scalar(DType::I64))
    }

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
        let fact = index.with_dtype(from.dtype);
        let fits = fact.shape.get(axis).is_some_and(|size| fact == from.with_size(axis, size));
        node.check(fits, &from, &index)?;
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
        let inner = inner.filter(|_| outer.get(..batch_dims) == from.shape.get(..batch_dims));
        let inner = inner.ok_or_else(|| node.misfit(&from, &index))?;
        let fact = from.with_shape([outer, inner].concat());
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

    /// ScatterElements: `data [n]` with `updates [m]` at the places `indices [m]` for axis 0; the
    /// other axes are equal. An index that occurs again has the same update.
    pub fn scatter_elements(
        &mut self,
        name: &str,
        [data, indices, updates]: [Value; 3],
        axis: usize,
    ) -> Result<Value> {
        let node = self.node(name, "ScatterElements").inputs([data, indices, updates]);
        let (fact, index) = (node.with_axis(data, axis)?, node.typed(indices, DType::I64)?);
        let (added, expected) = (node.fact(updates)?, index.with_dtype(fact.dtype));
        let fits = index.shape.get(axis).is_some_and(|size| expected == fact.with_size(axis, size));
        node.check(added == expected && fits, &expected, &added)?;
        node.attr("axis", axis as i64).output(fact)
    }

    /// Indices of true elements: i64 `[rank, count]`.
    pub fn non_zero(&mut self, name: &str, x: Value) -> Result<Value> {
        let rank = self.fact(x)?.rank() as u64;
        let fact = Fact::new(DType::I64, [rank.into(), Dim::symbol(self.path_of(name))]);
        self.node(name, "NonZero").input(x).output(fact)
    }
}

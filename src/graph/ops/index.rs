//! Operators that pick elements by index.

use super::{DType, Dim, Error, Fact, Result, Scope, Value};

impl Scope<'_> {
    /// Slices of `data` along an axis, one for each index. The indices' axes
    /// take the place of that axis: a single index, of rank 0, removes it.
    pub fn gather(
        &mut self,
        name: &str,
        data: Value,
        indices: Value,
        axis: usize,
    ) -> Result<Value> {
        let (from, index) = (self.fact(data)?, self.typed(name, "Gather", indices, DType::I64)?);
        self.axis(name, "Gather", &from, axis)?;
        let shape = [&from.shape[..axis], &index.shape[..], &from.shape[axis + 1..]].concat();
        self.node(name, "Gather")
            .inputs([data, indices])
            .attr("axis", axis as i64)
            .output(from.with_shape(shape))
    }

    /// The slice at one known index of an axis, which vanishes.
    pub fn pick(&mut self, name: &str, data: Value, index: i64, axis: usize) -> Result<Value> {
        let index = self.constant(index)?;
        self.gather(name, data, index, axis)
    }

    /// `result[i][j] = data[indices[i][j]][j]` for axis 0; axes other than
    /// that are equal.
    pub fn gather_elements(
        &mut self,
        name: &str,
        data: Value,
        indices: Value,
        axis: usize,
    ) -> Result<Value> {
        let (from, index) = (self.fact(data)?, self.fact(indices)?);
        if ![DType::I32, DType::I64].contains(&index.dtype) {
            let (op, expected, node) =
                ("GatherElements".to_owned(), DType::I32, self.path_of(name));
            return Err(Error::Dtype { node, op, expected, found: index });
        }
        self.axis(name, "GatherElements", &from, axis)?;
        let others = |fact: &Fact| -> Vec<Dim> {
            let axes = fact.shape.iter().enumerate().filter(|(other, _)| *other != axis);
            axes.map(|(_, dim)| dim.clone()).collect()
        };
        if from.rank() != index.rank() || others(&from) != others(&index) {
            return Err(self.mismatch(name, "GatherElements", &from, &index));
        }
        self.node(name, "GatherElements")
            .inputs([data, indices])
            .attr("axis", axis as i64)
            .output(index.with_dtype(from.dtype))
    }

    /// One element of a matrix for each row of `indices [n, 2]`: `[n]`.
    pub fn gather_pairs(&mut self, name: &str, data: Value, indices: Value) -> Result<Value> {
        let from = self.ranked(name, "GatherND", data, 2)?;
        let index = self.typed(name, "GatherND", indices, DType::I64)?;
        if index.rank() != 2 || index.shape[1].known() != Some(2) {
            return Err(self.mismatch(name, "GatherND", &from, &index));
        }
        let fact = from.with_shape([&index.shape[0]]);
        self.node(name, "GatherND").inputs([data, indices]).output(fact)
    }

    /// Rows of each matrix of `data [n, m, c]`, by `indices [n, 1]` one each,
    /// `[n, c]`, or by `[n, k, 1]` several, `[n, k, c]`.
    pub fn gather_each(&mut self, name: &str, data: Value, indices: Value) -> Result<Value> {
        let from = self.ranked(name, "GatherND", data, 3)?;
        let index = self.typed(name, "GatherND", indices, DType::I64)?;
        let Some((one, picked)) = index.shape.split_last().filter(|(_, rest)| !rest.is_empty())
        else {
            return Err(self.mismatch(name, "GatherND", &from, &index));
        };
        if one.known() != Some(1) || picked[0] != from.shape[0] {
            return Err(self.mismatch(name, "GatherND", &from, &index));
        }
        let fact = from.with_shape([picked, &from.shape[2..]].concat());
        self.node(name, "GatherND").inputs([data, indices]).attr("batch_dims", 1).output(fact)
    }

    /// `data [n, c]` with `updates [m, c]` added to the rows `rows [m]`.
    pub fn add_to_rows(
        &mut self,
        name: &str,
        data: Value,
        rows: Value,
        updates: Value,
    ) -> Result<Value> {
        let fact = self.ranked(name, "ScatterND", data, 2)?;
        let added = self.ranked(name, "ScatterND", updates, 2)?;
        let index = self.ranked(name, "ScatterND", rows, 1)?;
        if added.shape != [index.shape[0].clone(), fact.shape[1].clone()]
            || added.dtype != fact.dtype
        {
            return Err(self.mismatch(name, "ScatterND", &fact, &added));
        }
        let rows = self.unsqueeze(&format!("{name}.rows"), rows, 1)?;
        self.node(name, "ScatterND")
            .inputs([data, rows, updates])
            .attr("reduction", "add")
            .output(fact)
    }

    /// The different elements, ascending; how many only running tells.
    pub fn unique(&mut self, name: &str, x: Value) -> Result<Value> {
        let count = self.unknown_dim(name);
        let fact = self.fact(x)?.with_shape([count]);
        self.node(name, "Unique").input(x).attr("sorted", 1).output(fact)
    }

    /// Where elements are true: i64 `[rank, count]`.
    pub fn non_zero(&mut self, name: &str, x: Value) -> Result<Value> {
        let count = self.unknown_dim(name);
        let rank = self.fact(x)?.rank() as u64;
        let fact = Fact::new(DType::I64, [Dim::from(rank), count]);
        self.node(name, "NonZero").input(x).output(fact)
    }
}

//! Operators that move elements without changing them.

use super::math::broadcast;
use super::{DType, Dim, Error, Fact, Result, Scope, Value};

impl Scope<'_> {
    /// The same elements in another shape of the same size.
    ///
    /// As much of the target as can be is a constant: one dimension may follow
    /// from the others (-1), and one that stays in its place is copied (0).
    pub fn reshape(
        &mut self,
        name: &str,
        x: Value,
        shape: impl IntoIterator<Item = impl Into<Dim>>,
    ) -> Result<Value> {
        let from = self.fact(x)?;
        let to = from.with_shape(shape);
        if Dim::product(&from.shape) != Dim::product(&to.shape) {
            return Err(self.mismatch(name, "Reshape", &from, &to));
        }
        self.reshape_trusted(name, x, to.shape)
    }

    /// [`Scope::reshape`] where the caller knows more of the operand's size than
    /// its symbols say, as in a branch that only runs for one row.
    pub fn reshape_trusted(
        &mut self,
        name: &str,
        x: Value,
        shape: impl IntoIterator<Item = impl Into<Dim>>,
    ) -> Result<Value> {
        let from = self.fact(x)?;
        let to = from.with_shape(shape);
        let mut deduced = false;
        let constant = to.shape.iter().enumerate().map(|(axis, dim)| match dim.known() {
            Some(number) => Some(number as i64),
            None if from.shape.get(axis) == Some(dim) => Some(0),
            None if !deduced => {
                deduced = true;
                Some(-1)
            }
            None => None,
        });
        let target = match constant.collect::<Option<Vec<i64>>>() {
            Some(target) => self.constant(&target[..])?,
            None => self.sizes(&to.shape)?,
        };
        self.node(name, "Reshape").inputs([x, target]).output(to)
    }

    /// Axes in another order: the result's axis `i` is the operand's `perm[i]`.
    pub fn transpose<const N: usize>(
        &mut self,
        name: &str,
        x: Value,
        perm: [usize; N],
    ) -> Result<Value> {
        let fact = self.ranked(name, "Transpose", x, N)?;
        for axis in perm {
            self.axis(name, "Transpose", &fact, axis)?;
        }
        let perm_attribute: Vec<i64> = perm.iter().map(|axis| *axis as i64).collect();
        let shape = perm.map(|axis| fact.shape[axis].clone());
        self.node(name, "Transpose")
            .input(x)
            .attr("perm", perm_attribute)
            .output(fact.with_shape(shape))
    }

    /// A new axis of size 1.
    pub fn unsqueeze(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let mut fact = self.fact(x)?;
        if axis > fact.rank() {
            let node = self.path_of(name);
            return Err(Error::Axis { node, op: "Unsqueeze".to_owned(), axis, found: fact });
        }
        fact.shape.insert(axis, Dim::from(1));
        let axes = self.constant(&[axis as i64][..])?;
        self.node(name, "Unsqueeze").inputs([x, axes]).output(fact)
    }

    /// Consecutive parts of known sizes along an axis, named as given.
    pub fn split<const N: usize>(
        &mut self,
        name: &str,
        x: Value,
        axis: usize,
        parts: [(&str, u64); N],
    ) -> Result<[Value; N]> {
        let fact = self.fact(x)?;
        let whole = self.axis(name, "Split", &fact, axis)?;
        if whole.known() != Some(parts.iter().map(|(_, size)| size).sum()) {
            let asked = Fact::new(DType::I64, parts.map(|(_, size)| size));
            return Err(self.mismatch(name, "Split", &fact, &asked));
        }
        let sizes = self.constant(&parts.map(|(_, size)| size as i64)[..])?;
        let outputs = parts.map(|(part, size)| {
            let mut fact = fact.clone();
            fact.shape[axis] = Dim::from(size);
            (part, fact)
        });
        self.node(name, "Split").inputs([x, sizes]).attr("axis", axis as i64).outputs(outputs)
    }

    /// The last `count` elements along an axis that has at least as many.
    pub fn tail(&mut self, name: &str, x: Value, axis: usize, count: &Dim) -> Result<Value> {
        let mut fact = self.fact(x)?;
        self.axis(name, "Slice", &fact, axis)?;
        fact.shape[axis] = count.clone();
        let start = match count.known() {
            Some(count) => self.constant(&[-(count as i64)][..])?,
            None => {
                let count = self.sizes(std::slice::from_ref(count))?;
                self.neg(&format!("{name}.start"), count)?
            }
        };
        let (end, axis) = (self.constant(&[i64::MAX][..])?, self.constant(&[axis as i64][..])?);
        self.node(name, "Slice").inputs([x, start, end, axis]).output(fact)
    }

    /// Values one after the other along an axis; the other axes are equal.
    pub fn concat(&mut self, name: &str, values: &[Value], axis: usize) -> Result<Value> {
        let mut result = self.fact(values[0])?;
        self.axis(name, "Concat", &result, axis)?;
        for value in &values[1..] {
            let fact = self.fact(*value)?;
            let mut like = fact.clone();
            if fact.rank() == result.rank() {
                like.shape[axis] = result.shape[axis].clone();
            }
            if like != result {
                return Err(self.mismatch(name, "Concat", &result, &fact));
            }
            result.shape[axis] = result.shape[axis].plus(&fact.shape[axis]);
        }
        self.node(name, "Concat")
            .inputs(values.iter().copied())
            .attr("axis", axis as i64)
            .output(result)
    }

    /// Zeros before and after the elements along an axis.
    pub fn pad(&mut self, name: &str, x: Value, axis: usize, zeros: [u64; 2]) -> Result<Value> {
        let mut fact = self.fact(x)?;
        let [before, after] = zeros.map(Dim::from);
        fact.shape[axis] = before.plus(self.axis(name, "Pad", &fact, axis)?).plus(&after);
        let mut pads = vec![0; 2 * fact.rank()];
        (pads[axis], pads[fact.rank() + axis]) = (zeros[0] as i64, zeros[1] as i64);
        let pads = self.constant(&pads[..])?;
        self.node(name, "Pad").inputs([x, pads]).output(fact)
    }

    /// Repeats axes of size 1 until the shape is this one.
    pub fn expand(&mut self, name: &str, x: Value, shape: &[Dim]) -> Result<Value> {
        let from = self.fact(x)?;
        let fact = from.with_shape(shape);
        if broadcast(&from.shape, shape).as_deref() != Some(shape) {
            return Err(self.mismatch(name, "Expand", &from, &fact));
        }
        let sizes = self.sizes(shape)?;
        self.node(name, "Expand").inputs([x, sizes]).output(fact)
    }

    /// The numbers 0, 1, … below a dimension: i64 `[dim]`.
    pub fn range(&mut self, name: &str, end: &Dim) -> Result<Value> {
        let (zero, one) = (self.constant(0i64)?, self.constant(1i64)?);
        let sizes = self.sizes(std::slice::from_ref(end))?;
        let limit = self.reshape(&format!("{name}.end"), sizes, [] as [Dim; 0])?;
        self.node(name, "Range").inputs([zero, limit, one]).output(Fact::new(DType::I64, [end]))
    }

    /// How many elements a value has, as an i64 of rank 0.
    pub fn element_count(&mut self, name: &str, x: Value) -> Result<Value> {
        self.node(name, "Size").input(x).output(Fact::scalar(DType::I64))
    }
}

//! Arithmetic: elementwise with broadcasting, reductions, matrix products.

use crate::error::Result;
use crate::graph::fact::broadcast;
use crate::graph::{Dim, Fact, Scope, Value};
use crate::tensor::DType;

macro_rules! elementwise {
    ($($method:ident($first:ident $(, $other:ident)?) = $op:literal $(-> $dtype:ident)?;)*) => {
        impl Scope<'_> { $(
            pub fn $method(&mut self, name: &str, $first: Value $(, $other: Value)?) -> Result<Value> {
                let node = self.node(name, $op).input($first)$(.input($other))?;
                let fact = node.fact($first)?;
                $(let fact = node.broadcast(&fact, &node.fact($other)?)?;)?
                $(let fact = fact.with_dtype(DType::$dtype);)?
                node.output(fact)
            }
        )* }
    };
}

elementwise! {
    add(a, b) = "Add";
    sub(a, b) = "Sub";
    mul(a, b) = "Mul";
    max(a, b) = "Max";
    min(a, b) = "Min";
    cos(x) = "Cos";
    sin(x) = "Sin";
    sigmoid(x) = "Sigmoid";
    abs(x) = "Abs";
    div(a, b) = "Div";
    round(x) = "Round";
    neg(x) = "Neg";
    and(a, b) = "And";
    bitwise_and(a, b) = "BitwiseAnd";
    less(a, b) = "Less" -> Bool;
    greater_or_equal(a, b) = "GreaterOrEqual" -> Bool;
    equal(a, b) = "Equal" -> Bool;
}

impl Scope<'_> {
    /// Where: `condition ? yes : no`, elementwise.
    pub fn select(&mut self, name: &str, condition: Value, yes: Value, no: Value) -> Result<Value> {
        let node = self.node(name, "Where").inputs([condition, yes, no]);
        let test = node.typed(condition, DType::Bool)?;
        let branches = node.broadcast(&node.fact(yes)?, &node.fact(no)?)?;
        let shape = broadcast(&test.shape, &branches.shape);
        let shape = shape.ok_or_else(|| node.misfit(&test, &branches))?;
        node.output(branches.with_shape(shape))
    }

    /// `min(max(x, low), high)`
    pub fn clip(&mut self, name: &str, x: Value, low: f32, high: f32) -> Result<Value> {
        let node = self.node(name, "Clip").input(x).constant(low)?.constant(high)?;
        let fact = node.typed(x, DType::F32)?;
        node.output(fact)
    }

    pub fn shift_right(&mut self, name: &str, x: Value, bits: u8) -> Result<Value> {
        let node = self.node(name, "BitShift").input(x).constant(bits)?;
        let fact = node.typed(x, DType::U8)?;
        node.attr("direction", "RIGHT").output(fact)
    }

    pub fn cast(&mut self, name: &str, x: Value, to: DType) -> Result<Value> {
        let fact = self.fact(x)?.with_dtype(to);
        self.node(name, "Cast").input(x).attr("to", to).output(fact)
    }

    /// The largest along an axis, which becomes 1.
    pub fn reduce_max(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let node = self.node(name, "ReduceMax").input(x).constant(&[axis as i64][..])?;
        let fact = node.with_axis(x, axis)?.with_size(axis, 1);
        node.attr("keepdims", 1).output(fact)
    }

    /// DequantizeLinear of i8: `scale · x` in f32.
    pub fn dequantize(&mut self, name: &str, x: Value, scale: f32) -> Result<Value> {
        let node = self.node(name, "DequantizeLinear").input(x).constant(scale)?;
        let fact = node.typed(x, DType::I8)?.with_dtype(DType::F32);
        node.output(fact)
    }

    /// QuantizeLinear with scale 1: whole numbers as u8, plus `zero`.
    pub fn to_u8(&mut self, name: &str, x: Value, zero: u8) -> Result<Value> {
        let node = self.node(name, "QuantizeLinear").input(x).constant(1f32)?.constant(zero)?;
        let fact = node.typed(x, DType::F32)?.with_dtype(DType::U8);
        node.output(fact)
    }

    /// MatMul: products of the matrices in the last two axes. Without further axes, the left matrix is
    /// multiplied with every right one.
    pub fn matmul(&mut self, name: &str, [x, w]: [Value; 2]) -> Result<Value> {
        let node = self.node(name, "MatMul").inputs([x, w]);
        let (left, right) = (node.fact(x)?, node.fact(w)?);
        let ([outer @ .., rows, inner], [same @ .., depth, columns]) =
            (&left.shape[..], &right.shape[..])
        else {
            return Err(node.misfit(&left, &right));
        };
        let fits = (outer.is_empty() || outer == same) && inner == depth;
        node.check(fits && left.dtype == right.dtype, &left, &right)?;
        node.output(left.with_shape([same, &[rows.clone(), columns.clone()]].concat()))
    }

    /// The sum along an axis, which becomes 1 or vanishes.
    pub fn reduce_sum(&mut self, name: &str, x: Value, axis: usize, keep: bool) -> Result<Value> {
        let node = self.node(name, "ReduceSum").input(x).constant(&[axis as i64][..])?;
        let mut fact = node.with_axis(x, axis)?;
        fact.shape.splice(axis..=axis, keep.then(|| Dim::from(1)));
        node.attr("keepdims", i64::from(keep)).output(fact)
    }

    pub fn cumsum(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let node = self.node(name, "CumSum").input(x).constant(axis as i64)?;
        let fact = node.with_axis(x, axis)?;
        node.output(fact)
    }

    /// The index of the largest element along an axis, the last of equal ones: i64.
    /// The axis becomes 1.
    pub fn argmax_last(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let node = self.node(name, "ArgMax").input(x);
        let fact = node.with_axis(x, axis)?.with_dtype(DType::I64).with_size(axis, 1);
        let node = node.attr("axis", axis as i64).attr("keepdims", 1);
        node.attr("select_last_index", 1).output(fact)
    }

    /// `x · wᵀ + c` for `x [n, in]` and `w [out, in]`, as checkpoints store it, if
    /// `trans_b`; otherwise `x · w + c` for `w [in, out]`.
    pub fn gemm(
        &mut self,
        name: &str,
        [x, w]: [Value; 2],
        c: Option<Value>,
        trans_b: bool,
    ) -> Result<Value> {
        self.scaled_gemm(name, [x, w], c, trans_b, [1.0; 2])
    }

    /// [`Scope::gemm`] with factors for the product and for `c`.
    pub fn scaled_gemm(
        &mut self,
        name: &str,
        [x, w]: [Value; 2],
        c: Option<Value>,
        trans_b: bool,
        scales: [f32; 2],
    ) -> Result<Value> {
        let node = self.node(name, "Gemm").inputs([x, w]).input(c);
        let (left, right) = (node.ranked(x, 2)?, node.ranked(w, 2)?);
        let [inner, outer] = if trans_b { [1, 0] } else { [0, 1] };
        let fits = left.shape[1] == right.shape[inner] && left.dtype == right.dtype;
        node.check(fits, &left, &right)?;
        let fact = left.with_shape([&left.shape[0], &right.shape[outer]]);
        if let Some(c) = c {
            let added = node.fact(c)?;
            node.check(added.broadcasts_to(&fact), &fact, &added)?;
        }
        let mut node = if trans_b { node.attr("transB", 1) } else { node };
        for (name, scale) in ["alpha", "beta"].into_iter().zip(scales) {
            if scale != 1.0 {
                node = node.attr(name, scale);
            }
        }
        node.output(fact)
    }

    /// `e^x / Σ e^x` along the last axis.
    pub fn softmax(&mut self, name: &str, x: Value) -> Result<Value> {
        let fact = self.fact(x)?;
        self.node(name, "Softmax").input(x).attr("axis", -1).output(fact)
    }

    /// `softmax(q·kᵀ + bias) · v` for `q [B, heads, T, D]`, `k [B, kv, S, D]` and
    /// `v [B, kv, S, E]`: `[B, heads, T, E]`. Query head `h` reads key head
    /// `h / (heads / kv)`; the bias broadcasts to `[B, heads, T, S]`.
    pub fn attention(&mut self, name: &str, [q, k, v]: [Value; 3], bias: Value) -> Result<Value> {
        let node = self.node(name, "Attention").inputs([q, k, v, bias]);
        let (query, key) = (node.ranked(q, 4)?, node.ranked(k, 4)?);
        let (value, added) = (node.ranked(v, 4)?, node.typed(bias, query.dtype)?);
        let scores = query.with_shape([&query.shape[..3], &key.shape[2..3]].concat());
        node.check(added.broadcasts_to(&scores), &scores, &added)?;
        let fits = |a: &Fact, b: &Fact, axes: &[usize]| {
            a.dtype == b.dtype && axes.iter().all(|axis| a.shape[*axis] == b.shape[*axis])
        };
        node.check(fits(&query, &key, &[0, 3]), &query, &key)?;
        node.check(fits(&key, &value, &[0, 1, 2]), &key, &value)?;
        node.attr("scale", 1f32).output(query.with_size(3, &value.shape[3]))
    }

    /// The `k` largest along the last axis, descending, and their indices, i64.
    pub fn top_k(&mut self, name: &str, x: Value, k: impl Into<Dim>) -> Result<[Value; 2]> {
        let k = k.into();
        let size = self.shape_tensor([&k])?;
        let node = self.node(name, "TopK").inputs([x, size]);
        let fact = node.with_axis(x, 0)?;
        let last = fact.rank() - 1;
        let is_wide = match (k.known(), fact.shape[last].known()) {
            (Some(k), Some(size)) => k <= size,
            _ => true,
        };
        node.check(is_wide, &fact, &fact.with_shape([&k]))?;
        let fact = fact.with_size(last, &k);
        let indices = fact.with_dtype(DType::I64);
        node.attr("axis", -1).outputs([("values", fact), ("indices", indices)])
    }
}

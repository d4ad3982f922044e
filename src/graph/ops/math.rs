//! Arithmetic: elementwise with broadcasting, reductions, matrix products.

use super::{DType, Dim, Fact, Result, Scope, Value};

macro_rules! elementwise {
    ($($(#[$doc:meta])* $method:ident = $op:literal [$($operand:ident),+];)*) => {
        impl Scope<'_> { $(
            $(#[$doc])*
            pub fn $method(&mut self, name: &str, $($operand: Value),+) -> Result<Value> {
                let fact = self.broadcast(name, $op, &[$($operand),+])?;
                self.node(name, $op)$(.input($operand))+.output(fact)
            }
        )* }
    };
}

elementwise! {
    /// `a + b`
    add = "Add" [a, b];
    /// `a - b`
    sub = "Sub" [a, b];
    /// `a · b`
    mul = "Mul" [a, b];
    /// The larger of the two.
    max = "Max" [a, b];
    /// The smaller of the two.
    min = "Min" [a, b];
    /// `cos x`, radians.
    cos = "Cos" [x];
    /// `sin x`, radians.
    sin = "Sin" [x];
    /// `1 / (1 + e^-x)`
    sigmoid = "Sigmoid" [x];
    /// `-x`
    neg = "Neg" [x];
    /// Both are true.
    and = "And" [a, b];
    /// Bits that are set in both.
    bitwise_and = "BitwiseAnd" [a, b];
}

macro_rules! comparisons {
    ($($(#[$doc:meta])* $method:ident = $op:literal;)*) => {
        impl Scope<'_> { $(
            $(#[$doc])*
            pub fn $method(&mut self, name: &str, a: Value, b: Value) -> Result<Value> {
                let fact = self.broadcast(name, $op, &[a, b])?.with_dtype(DType::Bool);
                self.node(name, $op).inputs([a, b]).output(fact)
            }
        )* }
    };
}

comparisons! {
    /// `a < b`
    less = "Less";
    /// `a >= b`
    greater_or_equal = "GreaterOrEqual";
    /// `a = b`
    equal = "Equal";
}

impl Scope<'_> {
    /// The common dtype and the broadcast shape of operands.
    fn broadcast(&self, name: &str, op: &str, operands: &[Value]) -> Result<Fact> {
        let mut result = self.fact(operands[0])?;
        for operand in &operands[1..] {
            let other = self.fact(*operand)?;
            let shape =
                broadcast(&result.shape, &other.shape).filter(|_| other.dtype == result.dtype);
            let shape = shape.ok_or_else(|| self.mismatch(name, op, &result, &other))?;
            result = result.with_shape(shape);
        }
        Ok(result)
    }

    /// `condition ? yes : no`, elementwise.
    pub fn select(&mut self, name: &str, condition: Value, yes: Value, no: Value) -> Result<Value> {
        let test = self.typed(name, "Where", condition, DType::Bool)?;
        let branches = self.broadcast(name, "Where", &[yes, no])?;
        let shape = broadcast(&test.shape, &branches.shape);
        let shape = shape.ok_or_else(|| self.mismatch(name, "Where", &test, &branches))?;
        self.node(name, "Where").inputs([condition, yes, no]).output(branches.with_shape(shape))
    }

    /// `min(max(x, low), high)`
    pub fn clip(&mut self, name: &str, x: Value, low: f32, high: f32) -> Result<Value> {
        let fact = self.typed(name, "Clip", x, DType::F32)?;
        let (low, high) = (self.constant(low)?, self.constant(high)?);
        self.node(name, "Clip").inputs([x, low, high]).output(fact)
    }

    /// Bits moved towards the lowest.
    pub fn shift_right(&mut self, name: &str, x: Value, bits: u8) -> Result<Value> {
        let fact = self.typed(name, "BitShift", x, DType::U8)?;
        let bits = self.constant(bits)?;
        self.node(name, "BitShift").inputs([x, bits]).attr("direction", "RIGHT").output(fact)
    }

    /// Another dtype, the nearest values.
    pub fn cast(&mut self, name: &str, x: Value, to: DType) -> Result<Value> {
        let fact = self.fact(x)?.with_dtype(to);
        self.node(name, "Cast").input(x).attr("to", to).output(fact)
    }

    /// The sum along an axis, which vanishes.
    pub fn sum_away(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let mut fact = self.fact(x)?;
        self.axis(name, "ReduceSum", &fact, axis)?;
        fact.shape.remove(axis);
        self.any_sum(name, x, axis, fact)
    }

    /// The sum along an axis, which stays, of size 1.
    pub fn sum(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let mut fact = self.fact(x)?;
        self.axis(name, "ReduceSum", &fact, axis)?;
        fact.shape[axis] = Dim::from(1);
        self.any_sum(name, x, axis, fact)
    }

    fn any_sum(&mut self, name: &str, x: Value, axis: usize, fact: Fact) -> Result<Value> {
        let keepdims = i64::from(self.fact(x)?.rank() == fact.rank());
        let axes = self.constant(&[axis as i64][..])?;
        self.node(name, "ReduceSum").inputs([x, axes]).attr("keepdims", keepdims).output(fact)
    }

    /// The sums of all elements up to each, along an axis.
    pub fn running_sum(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let fact = self.fact(x)?;
        self.axis(name, "CumSum", &fact, axis)?;
        let axis = self.constant(axis as i64)?;
        self.node(name, "CumSum").inputs([x, axis]).output(fact)
    }

    /// Where the largest element is along an axis, the last of equal ones: i64.
    /// The axis stays, of size 1.
    pub fn last_largest(&mut self, name: &str, x: Value, axis: usize) -> Result<Value> {
        let mut fact = self.fact(x)?.with_dtype(DType::I64);
        self.axis(name, "ArgMax", &fact, axis)?;
        fact.shape[axis] = Dim::from(1);
        self.node(name, "ArgMax")
            .input(x)
            .attr("axis", axis as i64)
            .attr("keepdims", 1)
            .attr("select_last_index", 1)
            .output(fact)
    }

    /// `x · wᵀ + c` for `x [n, in]` and `w [out, in]`, as checkpoints store it.
    pub fn gemm(&mut self, name: &str, x: Value, w: Value, c: Option<Value>) -> Result<Value> {
        self.any_gemm(name, x, w, c, true)
    }

    /// `x · w + c` for `x [n, in]` and `w [in, out]`.
    pub fn gemm_input_major(
        &mut self,
        name: &str,
        x: Value,
        w: Value,
        c: Option<Value>,
    ) -> Result<Value> {
        self.any_gemm(name, x, w, c, false)
    }

    fn any_gemm(
        &mut self,
        name: &str,
        x: Value,
        w: Value,
        c: Option<Value>,
        transposed: bool,
    ) -> Result<Value> {
        let (left, right) = (self.ranked(name, "Gemm", x, 2)?, self.ranked(name, "Gemm", w, 2)?);
        let (inner, outer) = if transposed { (1, 0) } else { (0, 1) };
        if left.shape[1] != right.shape[inner] || left.dtype != right.dtype {
            return Err(self.mismatch(name, "Gemm", &left, &right));
        }
        let fact = left.with_shape([&left.shape[0], &right.shape[outer]]);
        if let Some(c) = c {
            let added = self.fact(c)?;
            if broadcast(&added.shape, &fact.shape).as_ref() != Some(&fact.shape)
                || added.dtype != fact.dtype
            {
                return Err(self.mismatch(name, "Gemm", &fact, &added));
            }
        }
        let node = self.node(name, "Gemm").inputs([x, w]).optional(c);
        let node = if transposed { node.attr("transB", 1) } else { node };
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
        let [query, key, value] =
            [q, k, v].map(|operand| self.ranked(name, "Attention", operand, 4));
        let (mut query, key, value) = (query?, key?, value?);
        let scores = query.with_shape([&query.shape[..3], &key.shape[2..3]].concat());
        let bias_fact = self.typed(name, "Attention", bias, query.dtype)?;
        if broadcast(&bias_fact.shape, &scores.shape).as_ref() != Some(&scores.shape) {
            return Err(self.mismatch(name, "Attention", &scores, &bias_fact));
        }
        let fits = |a: &Fact, b: &Fact, axes: &[usize]| {
            axes.iter().all(|axis| a.shape[*axis] == b.shape[*axis])
        };
        if !fits(&query, &key, &[0, 3]) || query.dtype != key.dtype {
            return Err(self.mismatch(name, "Attention", &query, &key));
        }
        if !fits(&key, &value, &[0, 1, 2]) || key.dtype != value.dtype {
            return Err(self.mismatch(name, "Attention", &key, &value));
        }
        query.shape[3] = value.shape[3].clone();
        self.node(name, "Attention").inputs([q, k, v, bias]).attr("scale", 1f32).output(query)
    }

    /// Where the elements along the last axis are, the largest first: i64.
    pub fn descending(&mut self, name: &str, x: Value) -> Result<Value> {
        let fact = self.fact(x)?;
        let last = fact.rank().saturating_sub(1);
        let size = self.axis(name, "TopK", &fact, last)?.clone();
        let all = self.sizes(&[size])?;
        let indices = fact.with_dtype(DType::I64);
        let node = self.node(name, "TopK").inputs([x, all]).attr("axis", -1);
        let [_, order] = node.outputs([("values", fact), ("indices", indices)])?;
        Ok(order)
    }

    /// The `k` largest along the last axis, descending, and where they were.
    pub fn top_k(&mut self, name: &str, x: Value, k: u64) -> Result<[Value; 2]> {
        let mut fact = self.fact(x)?;
        let last = fact.rank().saturating_sub(1);
        let wide = self.axis(name, "TopK", &fact, last)?.known().is_none_or(|size| k <= size);
        if !wide {
            let asked = fact.with_shape([k]);
            return Err(self.mismatch(name, "TopK", &fact, &asked));
        }
        fact.shape[last] = Dim::from(k);
        let k = self.constant(&[k as i64][..])?;
        let indices = fact.with_dtype(DType::I64);
        self.node(name, "TopK")
            .inputs([x, k])
            .attr("axis", -1)
            .attr("largest", 1)
            .attr("sorted", 1)
            .outputs([("values", fact), ("indices", indices)])
    }
}

/// The shape of both, where each axis is equal or 1, aligned at the last.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let one = Dim::from(1);
    let padded = std::iter::repeat_n(&one, long.len() - short.len()).chain(short);
    let aligned = long.iter().zip(padded).map(|(x, y)| match (x.known(), y.known()) {
        _ if x == y => Some(x.clone()),
        (_, Some(1)) => Some(x.clone()),
        (Some(1), _) => Some(y.clone()),
        _ => None,
    });
    aligned.collect()
}

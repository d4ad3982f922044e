//! What is known of a value while the graph is wired: its dtype, and a shape of symbolic
//! dimensions. A dimension is a number times named symbols, such as `4*T` or `B*T`.

use std::fmt;
use std::ops::Mul;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::tensor::DType;

/// A value of a graph: a small copyable handle. Its dtype, shape and name are looked up
/// in the scope that produced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The graph or function that the value belongs to.
    pub(super) frame: u32,
    pub(super) id: ValueId,
}

/// Index into `Graph::values`.
pub type ValueId = usize;

/// The dtype and shape of a value; the rank is always known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub dtype: DType,
    pub shape: Vec<Dim>,
}

impl Fact {
    pub fn new(dtype: DType, shape: impl IntoShape) -> Self {
        Self { dtype, shape: shape.into_shape() }
    }

    pub fn scalar(dtype: DType) -> Self {
        Self { dtype, shape: Vec::new() }
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, shape: self.shape.clone() }
    }

    pub fn with_shape(&self, shape: impl IntoShape) -> Self {
        Self::new(self.dtype, shape)
    }

    /// Another size of an axis that it has.
    pub(super) fn with_size(&self, axis: usize, size: impl Into<Dim>) -> Self {
        let mut fact = self.clone();
        fact.shape[axis] = size.into();
        fact
    }

    /// Whether elementwise operators repeat it to the other's shape.
    pub(super) fn broadcasts_to(&self, other: &Self) -> bool {
        let shape = broadcast(&self.shape, &other.shape);
        self.dtype == other.dtype && shape.as_ref() == Some(&other.shape)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.dtype, joined(&self.shape, ", "))
    }
}

/// One dimension of a shape.
///
/// Products of symbols are all that a transformer's shapes need, and their equality is
/// exact, so a reshape is checked when it is wired.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    factor: u64,
    symbols: Vec<Arc<str>>,
}

impl Dim {
    pub fn symbol(name: impl Into<Arc<str>>) -> Self {
        Self { factor: 1, symbols: vec![name.into()] }
    }

    /// The number, if no symbol is involved.
    pub fn known(&self) -> Option<u64> {
        self.symbols.is_empty().then_some(self.factor)
    }

    /// The sum: a number if both are known, otherwise a new symbol such as `T+1`.
    pub fn plus(&self, other: &Dim) -> Dim {
        match (self.known(), other.known()) {
            (Some(0), _) => other.clone(),
            (_, Some(0)) => self.clone(),
            (Some(a), Some(b)) => Dim::from(a.saturating_add(b)),
            _ => Dim::symbol(format!("{self}+{other}")),
        }
    }

    /// The element count of a shape.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::from(1), |product, dim| &product * dim)
    }
}

/// A list of dimensions, such as `[&batch, &4.into()]` or `[2u64, 3]`.
pub trait IntoShape {
    fn into_shape(self) -> Vec<Dim>;
}

impl<T: IntoIterator<Item: Into<Dim>>> IntoShape for T {
    fn into_shape(self) -> Vec<Dim> {
        self.into_iter().map(Into::into).collect()
    }
}

/// A shape as text.
pub fn joined(shape: &[Dim], separator: &str) -> String {
    shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(separator)
}

/// The shape that two shapes broadcast to: aligned at the last axis, each axis equal or 1.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let one = Dim::from(1);
    let padded = std::iter::repeat_n(&one, long.len() - short.len()).chain(short);
    let axes = long.iter().zip(padded).map(|(x, y)| match (x.known(), y.known()) {
        _ if x == y => Some(x.clone()),
        (_, Some(1)) => Some(x.clone()),
        (Some(1), _) => Some(y.clone()),
        _ => None,
    });
    axes.collect()
}

/// A number, or the product as text.
impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.known() {
            Some(number) => serializer.serialize_u64(number),
            None => serializer.collect_str(self),
        }
    }
}

impl From<u64> for Dim {
    fn from(number: u64) -> Self {
        Self { factor: number, symbols: Vec::new() }
    }
}

impl From<&Dim> for Dim {
    fn from(dim: &Dim) -> Self {
        dim.clone()
    }
}

impl Mul for &Dim {
    type Output = Dim;

    fn mul(self, other: &Dim) -> Dim {
        let mut symbols = [&self.symbols[..], &other.symbols[..]].concat();
        symbols.sort();
        Dim { factor: self.factor.saturating_mul(other.factor), symbols }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (1, [symbol]) = (self.factor, &self.symbols[..]) {
            return f.write_str(symbol);
        }
        let factor = (self.factor != 1 || self.symbols.is_empty()).then(|| self.factor.to_string());
        let symbols = self.symbols.iter().map(|symbol| {
            if symbol.contains('+') { format!("({symbol})") } else { symbol.to_string() }
        });
        f.write_str(&factor.into_iter().chain(symbols).collect::<Vec<_>>().join("*"))
    }
}

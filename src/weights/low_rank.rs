//! What adapters change in a matrix while it stays as it is stored: some rows have other values,
//! and terms of low rank are added.

use super::Weight;

/// Changes of a matrix: rows first, then terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub rows: Vec<NewRows>,
    pub terms: Vec<LowRank>,
}

/// Rows in the place of a matrix's own.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRows {
    /// Which rows.
    pub places: Vec<u64>,
    /// `[places, in]`
    pub weight: Weight,
}

/// A term `s · (B·A·x + bias)` that is added to `W·x`, for one matrix or for that of each expert.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// Canonical path: that of `matrix`, or of half of its rows (`layers.0.mlp.experts.gate`).
    pub path: String,
    pub matrix: String,
    pub rows: Rows,
    /// `s`
    pub scale: f64,
    /// `[r, in]`
    pub a: Factor,
    /// `[out, r]`
    pub b: Factor,
    /// `[out]` or `[experts, out]`
    pub bias: Option<Weight>,
}

/// A factor with its axes as the file stores them.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    pub weight: Weight,
    pub axes: FactorAxes,
}

/// The order of a factor's axes: the rank, the width (`in` of A, `out` of B), and experts, an axis
/// that the factor of a dense matrix lacks, and one that all experts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorAxes {
    /// `[experts, r, width]`
    RankWidth,
    /// `[experts, width, r]`
    WidthRank,
    /// `[width, r, experts]`
    WidthRankExperts,
}

/// Rows of a matrix along `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    /// Those of the gate.
    Even,
    /// Those that the gate is for.
    Odd,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.terms.is_empty()
    }

    /// Whether a bias changes too.
    pub fn add_bias(&self) -> bool {
        self.terms.iter().any(|it| it.bias.is_some())
    }

    pub fn weights(&self) -> impl Iterator<Item = &Weight> + Clone {
        let terms = self.terms.iter().flat_map(LowRank::weights);
        self.rows.iter().map(|it| &it.weight).chain(terms)
    }

    /// What belongs to the identity of a model besides the weights.
    pub fn identity(&self) -> String {
        let rows = self.rows.iter().map(|it| format!("{} {:?}\n", it.weight.name, it.places));
        rows.chain(self.terms.iter().map(LowRank::identity)).collect()
    }
}

impl LowRank {
    /// What belongs to the identity of a model besides the weights.
    pub fn identity(&self) -> String {
        let Self { path, rows, scale, a, b, .. } = self;
        format!("{path} {rows:?} {scale} {:?} {:?}\n", a.axes, b.axes)
    }

    pub fn weights(&self) -> impl Iterator<Item = &Weight> + Clone {
        [&self.a.weight, &self.b.weight].into_iter().chain(&self.bias)
    }

    pub fn weights_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        [&mut self.a.weight, &mut self.b.weight].into_iter().chain(&mut self.bias)
    }
}

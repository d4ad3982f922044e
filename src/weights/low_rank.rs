//! What adapters change in a matrix while it stays as it is stored: some rows have other values,
//! and terms of low rank are added, at an export or by a runtime.

use super::Weight;

/// Changes of a matrix: rows first, then terms.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub rows: Vec<NewRows>,
    pub terms: Vec<LowRank>,
    pub slot: Option<Slot>,
}

/// Rows in the place of a matrix's own.
#[derive(Clone, Debug)]
pub struct NewRows {
    /// Which rows.
    pub places: Vec<u64>,
    /// `[places, in]`
    pub weight: Weight,
}

/// A term `s · (B·A·x + bias)` that is added to `W·x`, for one matrix or for that of each expert.
#[derive(Clone, Debug)]
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

/// Room for a term that a runtime adds: `B·A·x`, of any rank and none by default.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Canonical path of the matrix.
    pub matrix: String,
    /// `None` for a dense matrix.
    pub experts: Option<u64>,
    pub out: u64,
    pub inn: u64,
}

/// A factor with its axes as the file stores them.
#[derive(Clone, Debug)]
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
        self.rows.is_empty() && self.terms.is_empty() && self.slot.is_none()
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

impl Slot {
    /// Whether a term changes its matrix, and fits.
    pub fn takes(&self, LowRank { matrix, rows, a, b, .. }: &LowRank) -> bool {
        let out = b.sides()[1] * if *rows == Rows::All { 1 } else { 2 };
        let fits = |it: &Factor| it.experts().is_none_or(|experts| Some(experts) == self.experts);
        *matrix == self.matrix && [out, a.sides()[1]] == [self.out, self.inn] && fits(a) && fits(b)
    }

    /// The names of its factors: A `[r, in]`, B `[out, r]`, with experts as the first axis.
    pub fn names(&self) -> [String; 2] {
        ["lora_A", "lora_B"].map(|factor| format!("{}.{factor}", self.matrix))
    }
}

impl Factor {
    /// The rank, and the width.
    pub fn sides(&self) -> [u64; 2] {
        match (self.axes, &self.weight.shape[..]) {
            (FactorAxes::RankWidth, [.., rank, width])
            | (FactorAxes::WidthRank, [.., width, rank])
            | (FactorAxes::WidthRankExperts, [width, rank, _]) => [*rank, *width],
            _ => unreachable!("`{}` has a rank and a width", self.weight.name),
        }
    }

    /// The number of experts; `None` of a dense matrix, and where they share it.
    fn experts(&self) -> Option<u64> {
        let at = if self.axes == FactorAxes::WidthRankExperts { 2 } else { 0 };
        (self.weight.shape.len() > 2).then(|| self.weight.shape[at])
    }
}

impl Rows {
    /// The row of the matrix that this row of B is for.
    pub fn place(self, row: u64) -> u64 {
        match self {
            Self::All => row,
            Self::Even => 2 * row,
            Self::Odd => 2 * row + 1,
        }
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

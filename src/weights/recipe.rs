//! Weights, matrices of them, how their bytes come about, and what adapters change in them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::format::{ElementKind, MatrixFormat};
use crate::container::StoredTensor;
use crate::files::FileRange;
use crate::tensor::DType;

/// A tensor that a graph reads, and how its bytes come about.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Canonical name, the same for every checkpoint layout.
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub kind: ElementKind,
    pub recipe: Recipe,
}

/// How the bytes of a weight come about.
#[derive(Clone, Debug, PartialEq)]
pub enum Recipe {
    /// A byte range as it is.
    Slice(FileRange),
    /// Byte ranges one after the other.
    Concat(Vec<FileRange>),
    /// Pairs one after the other; within a pair rows alternate.
    InterleaveRows {
        /// Ranges of equal length.
        pairs: Vec<[FileRange; 2]>,
        /// Bytes of a row.
        row: u64,
    },
    /// The part of this index among those that a conversion makes.
    Converted(Arc<Conversion>, usize),
}

impl Recipe {
    pub fn sources(&self) -> Vec<&FileRange> {
        match self {
            Self::Slice(source) => vec![source],
            Self::Concat(sources) => sources.iter().collect(),
            Self::InterleaveRows { pairs, .. } => pairs.as_flattened().iter().collect(),
            Self::Converted(conversion, _) => {
                conversion.sources().flat_map(|weight| weight.recipe.sources()).collect()
            }
        }
    }
}

impl Weight {
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(&self.shape).expect("the size of a tensor that exists")
    }

    /// The dtype that its bytes encode: scales of MXFP4 are often stored as U8.
    pub fn encoded_dtype(&self) -> DType {
        if self.kind == ElementKind::Mxfp4Scales { DType::F8E8M0 } else { self.dtype }
    }

    /// Whether all of its values may be zero: training starts with such biases and factors.
    pub fn may_be_zero(&self) -> bool {
        // Files end the names of biases in other ways.
        self.name.ends_with("bias") || self.name.ends_with(".sinks") || self.name.contains("lora_")
    }

    /// Some of its rows, which are one byte range of its own, under a name.
    pub fn rows(&self, name: String, rows: &Range<u64>) -> Self {
        let Recipe::Slice(FileRange { file, range }) = &self.recipe else {
            unreachable!("`{}` is one byte range", self.name)
        };
        let row = self.bytes() / self.shape[0];
        let range = range.start + rows.start * row..range.start + rows.end * row;
        let recipe = Recipe::Slice(FileRange { file: file.clone(), range });
        let shape = [&[rows.end - rows.start], &self.shape[1..]].concat();
        Self { name, shape, recipe, ..*self }
    }

    pub fn conversion(&self) -> Option<(&Arc<Conversion>, usize)> {
        match &self.recipe {
            Recipe::Converted(conversion, part) => Some((conversion, *part)),
            _ => None,
        }
    }

    pub fn is_converted(&self) -> bool {
        self.conversion().is_some()
    }

    /// Whether one conversion produces both.
    pub fn shares_conversion(&self, other: &Self) -> bool {
        let both = self.conversion().zip(other.conversion());
        both.is_some_and(|((one, _), (two, _))| Arc::ptr_eq(one, two))
    }
}

/// Floats as a file stores them, under their own name.
impl From<StoredTensor> for Weight {
    fn from(StoredTensor { name, dtype, shape, data }: StoredTensor) -> Self {
        Self { name, dtype, shape, kind: ElementKind::Float, recipe: Recipe::Slice(data) }
    }
}

/// A matrix to be converted.
#[derive(Debug, PartialEq)]
pub struct Conversion {
    /// Canonical name of the result.
    pub(super) path: String,
    /// `None` for values in no format of a matrix: routers, the embedding and vectors.
    pub(crate) role: Option<Role>,
    pub(crate) from: Matrix,
    pub(super) merge: Option<Merge>,
    pub(super) to: MatrixFormat,
    pub(super) accept_rounding: bool,
}

/// What adapters change in the values of a conversion.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Merge {
    Matrix(Changes),
    /// The biases of terms are added to a bias, which is a matrix with a row, or one for each
    /// expert.
    Bias(Changes),
}

impl Merge {
    pub fn changes(&self) -> &Changes {
        match self {
            Self::Matrix(changes) | Self::Bias(changes) => changes,
        }
    }
}

impl Conversion {
    /// All that it reads.
    pub fn sources(&self) -> impl Iterator<Item = &Weight> {
        let changes = self.merge.iter().flat_map(|it| it.changes().weights());
        self.from.parts.iter().chain(changes)
    }

    /// The parts of its source that the result begins with, byte for byte: NVFP4 has MXFP4's codes.
    pub(super) fn kept(&self) -> &[Weight] {
        let keeps = (self.from.format, self.to) == (MatrixFormat::Mxfp4, MatrixFormat::Nvfp4);
        &self.from.parts[..usize::from(keeps && self.merge.is_none())]
    }

    /// Whether values are converted one by one, as sums and rows that are no whole blocks are.
    pub(super) fn is_by_value(&self) -> bool {
        self.merge.is_some() || !self.from.fills_blocks()
    }

    /// What belongs to the identity of a model besides the sources.
    pub fn identity(&self) -> String {
        self.merge.as_ref().map_or(String::new(), |it| it.changes().identity())
    }
}

/// What matrices are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Experts,
    /// Attention and lm_head.
    Dense,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Experts, Self::Dense];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Experts => "experts",
            Self::Dense => "dense matrices",
        })
    }
}

/// A matrix `[out, in]`, or one for each expert, all in one format.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Canonical name, such as `layers.0.attn.q`; parts are named `path.part`.
    pub path: String,
    pub format: MatrixFormat,
    /// Number of experts; `None` for a dense layer.
    pub experts: Option<u64>,
    pub out: u64,
    pub inn: u64,
    /// Its tensors, in the order of [`MatrixFormat::parts`].
    pub parts: Vec<Weight>,
}

/// Changes of a matrix: rows first, then terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub rows: Vec<NewRows>,
    pub terms: Vec<LowRank>,
    pub slot: Option<Slot>,
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

/// Room for a term that a runtime adds: `B·A·x`, of any rank and none by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Canonical path of the matrix.
    pub matrix: String,
    /// `None` for a dense matrix.
    pub experts: Option<u64>,
    pub out: u64,
    pub inn: u64,
}

/// How the names of a slot's factors end, behind that of its matrix.
const FACTORS: [&str; 2] = [".lora_A", ".lora_B"];

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
        self.rows.is_empty() && self.terms.is_empty() && self.slot.is_none()
    }

    /// Whether a bias changes too.
    pub fn add_bias(&self) -> bool {
        self.terms.iter().any(|it| it.bias.is_some())
    }

    pub fn weights(&self) -> impl Iterator<Item = &Weight> + Clone {
        let terms = self.terms.iter().flat_map(LowRank::weights);
        self.rows.iter().map(|it| &it.weight).chain(terms)
    }

    pub fn weights_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        let terms = self.terms.iter_mut().flat_map(LowRank::weights_mut);
        self.rows.iter_mut().map(|it| &mut it.weight).chain(terms)
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
        FACTORS.map(|factor| self.matrix.clone() + factor)
    }

    /// The matrices of which both factors are among some names, with what belongs to these, such as
    /// the shapes of A and B.
    pub fn paired<'n, T: Copy>(
        named: impl Iterator<Item = (&'n str, T)> + Clone,
    ) -> Vec<(&'n str, [T; 2])> {
        let of_b = |(name, b): (&'n str, T)| Some((name.strip_suffix(FACTORS[1])?, b));
        let of_b: HashMap<&str, T> = named.clone().filter_map(of_b).collect();
        let pair = |(name, a): (&'n str, T)| {
            let matrix = name.strip_suffix(FACTORS[0])?;
            Some((matrix, [a, *of_b.get(matrix)?]))
        };
        named.filter_map(pair).collect()
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

    /// The row of B that is for this row of the matrix.
    pub fn index(self, row: usize) -> Option<usize> {
        match self {
            Self::All => Some(row),
            Self::Even => row.is_multiple_of(2).then_some(row / 2),
            Self::Odd => (row % 2 == 1).then_some(row / 2),
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

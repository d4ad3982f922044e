//! What an adapter changes in a base, under canonical names.

use std::ops::Range;

use crate::weights::Weight;

/// What an adapter changes in a base.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Values that replace others, before anything is added.
    pub replacements: Vec<Replacement>,
    pub changes: Vec<LowRank>,
}

/// A change `s · B · A` of a matrix, or of one for each expert.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// Canonical path, which names the factors (`layers.0.attn.q.lora_A`): that of `matrix`, or
    /// of a part of it (`layers.0.attn.q` in `qkv`, `layers.0.mlp.experts.gate` in `gate_up`).
    pub path: String,
    /// Canonical path of the base's matrix, and its rows that change.
    pub matrix: String,
    pub rows: Rows,
    pub rank: u64,
    /// `s`
    pub scale: f64,
    /// `[r, in]`
    pub a: Factor,
    /// `[out, r]`
    pub b: Factor,
    /// `[out]` or `[experts, out]`, added to `B·A·x` before it is scaled.
    pub bias: Option<Weight>,
}

/// A factor with its axes as the file stores them.
#[derive(Clone, Debug)]
pub struct Factor {
    pub weight: Weight,
    pub axes: FactorAxes,
}

/// The order of a factor's axes: the rank, the width (`in` of A, `out` of B), and experts, an
/// axis that is absent from a dense matrix, and has length 1 if all experts share the factor.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    /// Those of q, k or v in a fused matrix.
    Range(Range<u64>),
    /// Those of the gate.
    Even,
    /// Those that the gate is for.
    Odd,
    /// Those of tokens, in this order.
    Listed(Vec<u64>),
}

/// Values in the place of a matrix, a vector, or some rows of one. Of an embedding or lm_head
/// with factors PEFT stores the whole matrix too, mostly with the base's own values.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// Canonical path of the base's matrix (`embedding`, `layers.0.mlp.router`), or name of its
    /// vector (`layers.0.mlp.router.bias`).
    pub replaced: String,
    pub rows: Rows,
    /// The rows, in the order of the base's axes.
    pub weight: Weight,
}

/// How PEFT stores the factors of all experts: its versions differ in what is `in` and `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorOrder {
    /// `lora_A [experts·r, in]`, `lora_B [out, r·experts]`
    Plain,
    /// `lora_A [experts·r, out]`, `lora_B [in, r·experts]`
    Swapped,
}

impl Adapter {
    /// Every weight of the adapter.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> + Clone {
        let factors = self
            .changes
            .iter()
            .flat_map(|LowRank { a, b, bias, .. }| [&a.weight, &b.weight].into_iter().chain(bias));
        self.replacements.iter().map(|it| &it.weight).chain(factors)
    }
}

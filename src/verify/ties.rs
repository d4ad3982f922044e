//! Choices of experts that float32 does not decide.
//!
//! If two experts score the same but for noise, a model may take either, and its logits then
//! differ by far more than noise. That is told from a fault by asking the model: its router
//! scores say what it chose, and the reference follows, in ties and nowhere else. If the model
//! was right, the rest agrees.

use serde::Serialize;

use crate::reference::{Position, Tie};

/// Choices of experts that float32 does not decide.
#[derive(Clone, Debug, Serialize)]
pub struct Ties {
    /// Number of them.
    pub close: usize,
    /// Whose choices the reference took in them.
    pub followed: Followed,
    /// Those in which the model chose otherwise.
    pub flips: Vec<Tie>,
    #[serde(skip)]
    positions: Vec<Position>,
}

/// Whose choices of experts the reference took in ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Followed {
    /// Its own: the model agreed, or ties do not explain the difference.
    NotNeeded,
    /// Its own: the model does not list its router scores.
    NotShown,
    /// The model's.
    TheModel,
}

impl Ties {
    pub(super) fn new(ties: Vec<Tie>, followed: Followed) -> Self {
        let (close, positions) = (ties.len(), ties.iter().map(|tie| tie.position).collect());
        let flips = ties.into_iter().filter(|tie| !tie.taken.is_empty()).collect();
        Self { close, followed, flips, positions }
    }

    /// Whether one of these positions has a tie, or an earlier token of its row.
    pub(super) fn may_explain(&self, departures: &[Position]) -> bool {
        let explains = |tie: &Position, it: &Position| tie.row == it.row && tie.token <= it.token;
        self.positions.iter().any(|tie| departures.iter().any(|it| explains(tie, it)))
    }
}

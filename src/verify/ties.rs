//! Choices of experts that float32 does not decide.
//!
//! If two experts score the same but for noise, a model may take either, and its logits then
//! differ by far more than noise. That is told from a fault by asking the model: its router
//! scores say what it chose, and the reference follows, in ties and nowhere else. If the model
//! was right, the rest agrees.

use serde::Serialize;

use super::inputs::{Inputs, Position};
use crate::reference::Tie;

/// Choices of experts that float32 does not decide.
#[derive(Clone, Debug, Serialize)]
pub struct Ties {
    /// Number of them.
    pub close: usize,
    /// Whose choices the reference took in them.
    pub followed: Followed,
    /// Those in which the model chose otherwise.
    pub flips: Vec<Flip>,
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

/// A tie in which the model chose other experts.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Flip {
    pub position: Position,
    pub layer: usize,
    /// Experts of the reference that the model did not choose.
    pub dropped: Vec<usize>,
    /// Experts that the model chose instead.
    pub taken: Vec<usize>,
    /// Score of the last chosen expert minus that of the first one left out.
    pub margin: f64,
    /// The margin that float32 could tell.
    pub bound: f64,
}

impl Ties {
    pub(super) fn new(ties: &[Tie], followed: Followed, inputs: &Inputs) -> Self {
        let flip = |tie: &Tie| {
            let Tie { layer, token, margin, bound, .. } = *tie;
            let [dropped, taken] = tie.followed.clone()?;
            Some(Flip { position: inputs.position(token), layer, dropped, taken, margin, bound })
        };
        let positions = ties.iter().map(|tie| inputs.position(tie.token)).collect();
        let flips = ties.iter().filter_map(flip).collect();
        Self { close: ties.len(), followed, flips, positions }
    }

    /// Whether one of these positions has a tie, or an earlier token of its row.
    pub(super) fn may_explain(&self, departures: &[Position]) -> bool {
        let explains = |tie: &Position, it: &Position| tie.row == it.row && tie.token <= it.token;
        self.positions.iter().any(|tie| departures.iter().any(|it| explains(tie, it)))
    }
}

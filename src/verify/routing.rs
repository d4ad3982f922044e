//! Choices of experts that float32 does not decide.
//!
//! Where two experts score the same but for noise, a model may take either, and its
//! logits then differ by far more than noise. That is told from a fault by asking
//! the model: its routers' scores say what it chose, and the reference follows,
//! there and nowhere else. If the model was right, the rest agrees.

use std::cmp::Ordering;

use super::compare::Position;
use super::plan::Plan;
use super::report::Followed;
use super::run::{Outcome, Run};
use crate::error::Result;
use crate::progress::Progress;
use crate::reference::Choices;

/// Compares, and where the model departs and ties could be why, once more with the
/// model's own choices in ties.
pub fn follow(run: &mut Run, progress: &dyn Progress) -> Result<(Outcome, Followed)> {
    let outcome = run.once(None, progress)?;
    if outcome.passed() || !explained_by_ties(&outcome, run.plan) {
        return Ok((outcome, Followed::NotNeeded));
    }
    if !run.show_routers(progress)? {
        return Ok((outcome, Followed::NotShown));
    }
    let choices = run.choices(progress)?;
    Ok((run.once(Some(choices), progress)?, Followed::TheModel))
}

/// Whether there is a tie where the model departs in a row, or before.
fn explained_by_ties(outcome: &Outcome, plan: &Plan) -> bool {
    let beyond = outcome.logits.first_beyond(outcome.tolerance.bound);
    let departures = beyond.into_iter().chain(outcome.trace.as_ref().and_then(|t| t.departure()));
    let ties = || outcome.ties.iter().map(|tie| plan.position(tie.token));
    departures.into_iter().any(|departure: Position| {
        ties().any(|tie| tie.row == departure.row && tie.token <= departure.token)
    })
}

/// What a model's routers choose, as its steps go by.
pub struct Chosen {
    choices: Choices,
    /// How many experts a token gets.
    count: usize,
}

impl Chosen {
    /// Before anything is chosen for so many tokens in so many layers.
    pub fn new(layers: usize, tokens: usize, count: usize) -> Self {
        Self { choices: vec![vec![Vec::new(); tokens]; layers], count }
    }

    /// Takes a layer's scores of some tokens. One that has come in an earlier step,
    /// as where there is no cache, has made its choice.
    pub fn add<'s>(
        &mut self,
        layer: usize,
        plan: &Plan,
        scores: impl IntoIterator<Item = (Position, &'s [f32])>,
    ) {
        for (Position { row, token }, scores) in scores {
            let choice = &mut self.choices[layer][plan.start(row) + token];
            if choice.is_empty() {
                *choice = best(scores, self.count);
            }
        }
    }

    /// All of them.
    pub fn finish(self) -> Choices {
        self.choices
    }
}

/// The experts with the largest scores, of equal ones the first: so does TopK by its
/// definition, and the QMoE of onnxruntime 1.32 with experts in MXFP4.
fn best(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Unlike by `total_cmp`, zero has no sign.
    let falling = |one: f32, other: f32| other.partial_cmp(&one).unwrap_or(Ordering::Equal);
    order.sort_by(|one, other| falling(scores[*one], scores[*other]));
    order.truncate(count);
    order
}

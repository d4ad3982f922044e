//! Choices of experts that float32 does not decide.
//!
//! Where two experts score the same but for noise, a model may take either, and its
//! logits then differ by far more than noise. That is told from a fault by taking
//! the other choice in the reference too: if the model was right, the rest agrees.

use super::Result;
use super::compare::Position;
use super::report::Flip;
use super::run::{Outcome, Run};
use crate::progress::Progress;
use crate::reference::{Place, Tie};

/// How many choices are tried the other way.
const TRIES: usize = 8;

/// Compares, and again with the other choice wherever that brings the model's first
/// difference to an end.
pub fn follow(run: &mut Run, progress: &dyn Progress) -> Result<(Outcome, Vec<Flip>)> {
    let mut outcome = run.once(Vec::new(), progress)?;
    let (mut flips, mut tried) = (Vec::new(), Vec::<Place>::new());
    while tried.len() < TRIES
        && let Some((first, tie)) = candidate(run, &outcome, &tried)
    {
        tried.push(tie.place);
        let flip = Flip::new(&tie, run.plan);
        let swapped = flips.iter().chain([&flip]).map(|flip: &Flip| flip.place).collect();
        let other = run.once(swapped, progress)?;
        let beyond = other.logits.first_beyond(other.tolerance.bound);
        if beyond.iter().all(|position| position.row != first.row || *position > first) {
            outcome = other;
            flips.push(flip);
        }
    }
    Ok((outcome, flips))
}

/// Of the choices that could explain a row's first difference the latest, and of
/// those the closest.
fn candidate(run: &Run, outcome: &Outcome, tried: &[Place]) -> Option<(Position, Tie)> {
    outcome.logits.first_beyond(outcome.tolerance.bound).into_iter().find_map(|first| {
        let start = run.plan.start(first.row);
        let explains = |tie: &&Tie| {
            (start..=start + first.token).contains(&tie.place.token) && !tried.contains(&tie.place)
        };
        let ties = outcome.ties.iter().filter(explains);
        let best = ties.max_by(|one, other| {
            let latest = one.place.token.cmp(&other.place.token);
            latest.then(other.margin.relative.total_cmp(&one.margin.relative))
        });
        best.map(|tie| (first, *tie))
    })
}

//! Runs the reference and the model on the same tokens, and compares them.

use std::time::Instant;

use serde::Serialize;

use super::inputs::{InputPlan, Position};
use super::logits::{LogitComparison, LogitDifferences};
use super::model_file::ModelFile;
use super::residuals::Trace;
use super::session::ModelSession;
use super::ties::{Followed, Ties, top_experts};
use super::tolerance::{FACTOR, Tolerance, ToleranceSource, allowed};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::progress::Progress;
use crate::reference::{self, ExpertChoices, PassOptions};

/// A model and the checkpoint that the reference computes with, to be compared as often as
/// needed.
pub struct Verifier<'v> {
    pub checkpoint: &'v Checkpoint,
    pub model: &'v ModelFile<'v>,
    pub session: ModelSession,
    pub plan: &'v InputPlan,
    /// Rows of token ids.
    pub tokens: Vec<Vec<u32>>,
    pub source: ToleranceSource,
    pub requested: Option<f64>,
    pub seconds: Seconds,
    pub progress: &'v dyn Progress,
}

/// How a model differs from the reference.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Comparison {
    pub experts: ExpertCoverage,
    pub logits: LogitDifferences,
    pub tolerance: Tolerance,
    pub ties: Ties,
    /// The residual stream, if a trace was requested or most logits are unknown.
    pub trace: Option<Trace>,
}

/// How many experts were used, over all layers; nothing is known of the others.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExpertCoverage {
    /// Experts that some token used.
    pub used: usize,
    /// All experts.
    pub there: u64,
    /// SwiGLU's limit.
    pub limit: f64,
    /// Whether some value reached the limit: otherwise it is not tested.
    pub limited: bool,
}

/// Wall time of each part; comparing logits counts as the reference's.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Seconds {
    pub reference: f64,
    pub weights: f64,
    pub load: f64,
    pub run: f64,
}

/// Adds the time that some work takes to `seconds`.
pub fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *seconds += started.elapsed().as_secs_f64();
    result
}

impl Comparison {
    /// Whether logits agree, and the residual stream if it is known. A requested tolerance is
    /// one of logits alone.
    pub(super) fn passed(&self) -> bool {
        let departs = self.trace.as_ref().is_some_and(|trace| trace.first.is_some());
        let is_within = self.logits.max <= self.tolerance.bound;
        is_within && (!departs || self.tolerance.from == ToleranceSource::Requested)
    }

    /// Where the model departs first: in each row by its logits, and by the residual stream.
    fn departures(&self) -> Vec<Position> {
        let mut departures = self.logits.first_beyond(self.tolerance.bound);
        let stage = self.trace.as_ref().and_then(Trace::first_beyond);
        departures.extend(stage.map(|(_, stage)| stage.worst));
        departures
    }
}

impl Verifier<'_> {
    /// Compares, and if the model departs and ties may be why, once more with the model's own
    /// choices of experts in ties.
    pub fn run(&mut self) -> Result<Comparison> {
        let mut comparison = self.compare(Followed::NotNeeded, None)?;
        if comparison.passed() || !comparison.ties.may_explain(&comparison.departures()) {
            return Ok(comparison);
        }
        let (model, progress) = (self.model, self.progress);
        let routers = model.metadata.as_ref().map(|metadata| metadata.routers.clone());
        let Some(routers) = routers.filter(|routers| !routers.is_empty()) else {
            comparison.ties.followed = Followed::NotShown;
            return Ok(comparison);
        };
        let load = || model.load(self.session.residuals.clone(), routers, progress);
        self.session = timed(&mut self.seconds.load, load)?;
        let choices = self.choices_of_model()?;
        self.compare(Followed::TheModel, Some(choices))
    }

    /// Runs both, the reference with these choices of experts in ties.
    fn compare(&mut self, followed: Followed, follow: Option<ExpertChoices>) -> Result<Comparison> {
        let Self { checkpoint, model, session, plan, tokens, seconds, progress, .. } = self;
        let residuals = !session.residuals.is_empty();
        let options = PassOptions { residuals, tie_factor: FACTOR, follow };
        let run = || reference::run(checkpoint, tokens, &options, *progress);
        let activations = timed(&mut seconds.reference, run)?;

        let expected = &activations.residuals;
        let mut trace = residuals.then(|| Trace::new(expected));
        let mut logits = LogitComparison::new(checkpoint, &activations, plan);
        let (mut comparing, mut all) = (0.0, 0.0);
        let run = || {
            session.run(plan, tokens, *progress, |step, outputs| {
                timed(&mut comparing, || {
                    logits.add(step, outputs.logits)?;
                    let Some(trace) = &mut trace else { return Ok(()) };
                    let added = trace.add(plan, step, outputs, expected);
                    added.ok_or_else(|| model.unexpected("a residual stream of another size"))
                })
            })
        };
        timed(&mut all, run)?;
        seconds.run += all - comparing;
        let logits = timed(&mut comparing, || logits.finish())?;
        seconds.reference += comparing;

        let default = allowed(logits.noise, logits.largest_logit);
        let tolerance = Tolerance { bound: self.requested.unwrap_or(default), from: self.source };
        let config = &self.checkpoint.config;
        let experts = ExpertCoverage {
            used: activations.experts_used,
            there: config.experts.iter().sum(),
            limit: config.swiglu_limit,
            limited: activations.limited,
        };
        let ties = Ties::new(&activations.ties, followed, self.plan);
        Ok(Comparison { experts, logits, tolerance, ties, trace })
    }

    /// The experts that the model chooses for each token, by its router scores.
    fn choices_of_model(&mut self) -> Result<ExpertChoices> {
        let Self { checkpoint, model, session, plan, tokens, seconds, progress, .. } = self;
        let config = &checkpoint.config;
        let all_tokens = plan.lengths.iter().sum();
        let mut choices = vec![vec![Vec::new(); all_tokens]; config.num_layers()];
        let run = || {
            session.run(plan, tokens, *progress, |step, outputs| {
                for (layer, scores) in outputs.routers.iter().enumerate() {
                    let experts = config.experts.get(layer).map(|count| *count as usize);
                    let scores =
                        experts.and_then(|experts| outputs.by_token(step, scores, experts));
                    let unexpected = || model.unexpected("router scores of another size");
                    for (position, scores) in scores.ok_or_else(unexpected)? {
                        let choice = &mut choices[layer][plan.index(position)];
                        // Without a cache a token comes again, and keeps its choice.
                        if choice.is_empty() {
                            *choice = top_experts(scores, config.experts_per_token as usize);
                        }
                    }
                }
                Ok(())
            })
        };
        timed(&mut seconds.run, run)?;
        Ok(choices)
    }
}

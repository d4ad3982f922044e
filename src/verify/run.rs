//! One comparison: the reference, the model, and how they differ.

use std::time::Instant;

use super::compare::{Comparison, Differences};
use super::model::Model;
use super::opening::{Look, Opening};
use super::plan::Plan;
use super::report::Seconds;
use super::routing::Chosen;
use super::tolerance::{FACTOR, Promise, Source, Tolerance};
use super::trace::Trace;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::progress::Progress;
use crate::reference::{self, Activations, Choices, PassOptions, Tie};

/// Everything that a comparison needs, as often as it takes place.
pub struct Run<'r> {
    pub checkpoint: &'r Checkpoint,
    pub plan: &'r Plan,
    pub texts: Vec<Vec<u32>>,
    pub promise: Promise,
    pub opening: Opening<'r>,
    pub model: Model,
    pub seconds: Seconds,
}

/// What came out of one comparison.
pub struct Outcome {
    pub logits: Differences,
    pub tolerance: Tolerance,
    pub trace: Option<Trace>,
    pub ties: Vec<Tie>,
    pub experts_used: usize,
    /// Whether some number reached SwiGLU's limit.
    pub limited: bool,
}

impl Run<'_> {
    /// Runs both, the reference with another's choices of experts in ties.
    pub fn once(&mut self, follow: Option<Choices>, progress: &dyn Progress) -> Result<Outcome> {
        let residuals = !self.model.residuals.is_empty();
        let options = PassOptions { residuals, ties_within: FACTOR, follow };
        let started = Instant::now();
        let activations = reference::run(self.checkpoint, &self.texts, &options, progress)?;
        self.seconds.reference += started.elapsed().as_secs_f64();
        let (logits, trace) = self.compare(&activations, progress)?;
        let tolerance = self.promise.tolerance(logits.noise, logits.largest_logit);
        let Activations { ties, experts_used, limited, .. } = activations;
        Ok(Outcome { logits, tolerance, trace, ties, experts_used, limited })
    }

    /// Loads the model again, so that it shows its routers' scores too, if it can.
    pub fn show_routers(&mut self, progress: &dyn Progress) -> Result<bool> {
        if !self.opening.has_routers() {
            return Ok(false);
        }
        let started = Instant::now();
        let look = Look { residuals: !self.model.residuals.is_empty(), routers: true };
        self.model = self.opening.model(look, progress)?;
        self.seconds.load += started.elapsed().as_secs_f64();
        Ok(true)
    }

    /// The experts that the model chooses for each token, by its routers' scores.
    pub fn choices(&mut self, progress: &dyn Progress) -> Result<Choices> {
        let config = &self.checkpoint.config;
        let (tokens, count) = (self.plan.lengths.iter().sum(), config.experts_per_token as usize);
        let strange = || self.opening.strange("router scores of other sizes");
        let mut chosen = Chosen::new(config.num_layers(), tokens, count);
        let started = Instant::now();
        self.model.run(self.plan, &self.texts, progress, |step, outputs| {
            for (layer, scores) in outputs.routers.iter().enumerate() {
                let width = config.experts.get(layer).map(|count| *count as usize);
                let scores = width.and_then(|width| outputs.by_token(step, scores, width));
                chosen.add(layer, self.plan, scores.ok_or_else(&strange)?);
            }
            Ok(())
        })?;
        self.seconds.run += started.elapsed().as_secs_f64();
        Ok(chosen.finish())
    }

    /// Gives the texts to the model, and compares step by step.
    fn compare(
        &mut self,
        activations: &Activations,
        progress: &dyn Progress,
    ) -> Result<(Differences, Option<Trace>)> {
        let mut comparison = Comparison::new(self.checkpoint, activations, self.plan);
        let expected = &activations.residuals;
        let mut trace = (!expected.is_empty()).then(|| Trace::new(expected));
        let strange = || self.opening.strange("a residual stream of other sizes");
        let (mut compared, started) = (0.0, Instant::now());
        self.model.run(self.plan, &self.texts, progress, |step, outputs| {
            let now = Instant::now();
            comparison.add(step, outputs.logits)?;
            if let Some(trace) = &mut trace {
                trace.add(self.plan, step, outputs, expected).ok_or_else(&strange)?;
            }
            compared += now.elapsed().as_secs_f64();
            Ok(())
        })?;
        self.seconds.run += started.elapsed().as_secs_f64() - compared;
        let now = Instant::now();
        let logits = comparison.finish()?;
        self.seconds.reference += compared + now.elapsed().as_secs_f64();
        Ok((logits, trace))
    }
}

impl Outcome {
    /// Whether logits agree, and the residual stream too as far as it is known. An
    /// error that was asked for is one of logits.
    pub fn passed(&self) -> bool {
        let departs = self.trace.as_ref().is_some_and(|trace| trace.first.is_some());
        let is_within = self.logits.max <= self.tolerance.bound;
        is_within && !(departs && self.tolerance.from != Source::Asked)
    }
}

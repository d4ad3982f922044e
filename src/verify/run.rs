//! One comparison: the reference, the model, and how they differ.

use std::time::Instant;

use super::Result;
use super::compare::{Comparison, Differences};
use super::model::Model;
use super::plan::Plan;
use super::report::Seconds;
use super::tolerance::{Promise, Tolerance, noise};
use super::trace::Trace;
use crate::checkpoint::Checkpoint;
use crate::progress::Progress;
use crate::reference::{self, Activations, Options, Place, Tie};

/// Everything that a comparison needs, as often as it takes place.
pub struct Run<'r> {
    pub checkpoint: &'r Checkpoint,
    pub plan: &'r Plan,
    pub texts: Vec<Vec<u32>>,
    pub promise: Promise,
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
}

impl Run<'_> {
    /// Runs both, the reference with some choices of experts swapped.
    pub fn once(&mut self, swapped: Vec<Place>, progress: &dyn Progress) -> Result<Outcome> {
        let layers = self.checkpoint.config.num_layers();
        let (trace, ties_below) = (!self.model.residuals.is_empty(), noise(layers));
        let options = Options { residuals: trace, ties_below: ties_below as f32, swapped };
        let started = Instant::now();
        let activations = reference::run(self.checkpoint, &self.texts, &options, progress)?;
        self.seconds.reference += started.elapsed().as_secs_f64();
        let (logits, mut trace) = self.compare(&activations, progress)?;
        let tolerance = self.promise.tolerance(layers, logits.largest_logit);
        if let Some(trace) = &mut trace {
            trace.judge(noise);
        }
        let Activations { ties, experts_used, .. } = activations;
        Ok(Outcome { logits, tolerance, trace, ties, experts_used })
    }

    /// Gives the texts to the model, and compares step by step.
    fn compare(
        &mut self,
        activations: &Activations,
        progress: &dyn Progress,
    ) -> Result<(Differences, Option<Trace>)> {
        let mut comparison = Comparison::new(self.checkpoint, activations, self.plan);
        let stages = self.model.residuals.len();
        let mut trace = (stages > 0).then(|| Trace::new(stages));
        let (mut compared, started) = (0.0, Instant::now());
        self.model.run(self.plan, &self.texts, progress, |step, outputs| {
            let now = Instant::now();
            comparison.add(step, outputs.logits)?;
            if let Some(trace) = &mut trace {
                trace.add(self.plan, step, outputs, &activations.residuals);
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
    /// Whether logits agree.
    pub fn passed(&self) -> bool {
        self.logits.max <= self.tolerance.bound
    }
}

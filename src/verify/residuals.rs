//! Where a model departs: its residual stream after each layer, compared with the reference's.

use ndarray::ArrayView1;
use serde::Serialize;

use super::inputs::Inputs;
use super::logits::differences;
use super::session::StepOutputs;
use super::tolerance::allowed;
use crate::error::Result;
use crate::reference::{ExactValues, Position};

/// The comparison of the residual stream.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// The embedding, then each layer.
    pub stages: Vec<Stage>,
    /// Index of the first stage beyond its bound.
    pub first: Option<usize>,
}

/// The residual stream at one place in the model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stage {
    /// The largest absolute difference.
    pub max: f64,
    /// The largest difference in a token, relative to the token's largest magnitude.
    pub relative: f64,
    /// The largest relative difference allowed.
    pub bound: f64,
    /// The token with the largest relative difference.
    pub worst: Position,
}

impl Trace {
    pub(super) fn new(expected: &[ExactValues]) -> Self {
        let stage = |it: &ExactValues| Stage { bound: allowed(it.noise, 1.0), ..Stage::default() };
        Self { stages: expected.iter().map(stage).collect(), first: None }
    }

    /// Adds the residual stream of a step, whose values are the first inner ones.
    pub(super) fn add(
        &mut self,
        inputs: &Inputs,
        outputs: &StepOutputs,
        expected: &[ExactValues],
    ) -> Result<()> {
        let stages = self.stages.iter_mut().zip(expected).take(outputs.inner.len());
        for (at, (stage, ExactValues { exact, .. })) in stages.enumerate() {
            for (position, found) in outputs.by_token(at, exact.ncols(), "a residual stream")? {
                stage.add(position, found, exact.row(inputs.index(position)));
            }
        }
        self.first = self.stages.iter().position(|stage| stage.relative > stage.bound);
        Ok(())
    }

    /// The first stage beyond its bound, with its index.
    pub(super) fn first_beyond(&self) -> Option<(usize, &Stage)> {
        self.first.map(|first| (first, &self.stages[first]))
    }
}

impl Stage {
    fn add(&mut self, position: Position, found: &[f32], expected: ArrayView1<f64>) {
        let [max, _, largest] = differences(found, expected);
        let relative = max / largest.max(f64::from(f32::MIN_POSITIVE));
        self.max = self.max.max(max);
        if relative > self.relative {
            (self.relative, self.worst) = (relative, position);
        }
    }
}

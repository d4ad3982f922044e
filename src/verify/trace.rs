//! The residual stream of a model after each layer, compared with the reference's.

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
    /// Sums of squares over all tokens: of differences, and of what is expected.
    #[serde(skip)]
    squares: [f64; 2],
}

impl Trace {
    /// Nothing compared yet; `None` if the pass kept no residual stream.
    pub fn begin(expected: &[ExactValues]) -> Option<Self> {
        let stage = |it: &ExactValues| Stage { bound: allowed(it.noise, 1.0), ..Stage::default() };
        let stages: Vec<Stage> = expected.iter().map(stage).collect();
        (!stages.is_empty()).then_some(Self { stages, first: None })
    }

    /// Adds a step, whose first inner values are the residual stream.
    pub fn add(
        &mut self,
        outputs: &StepOutputs,
        expected: &[ExactValues],
        inputs: &Inputs,
    ) -> Result<()> {
        for (at, (stage, ExactValues { exact, .. })) in
            self.stages.iter_mut().zip(expected).enumerate()
        {
            for (position, found) in outputs.by_token(at, exact.ncols(), "a residual stream")? {
                let expected = exact.row(inputs.index(position));
                let found_and_expected = differences(found, expected);
                stage.max = stage.max.max(found_and_expected.largest);
                let magnitude = found_and_expected.magnitude.max(f64::from(f32::MIN_POSITIVE));
                let relative = found_and_expected.largest / magnitude;
                if relative > stage.relative {
                    (stage.relative, stage.worst) = (relative, position);
                }
                let squares = [found_and_expected.squares, expected.iter().map(|x| x * x).sum()];
                stage.squares.iter_mut().zip(squares).for_each(|(sum, more)| *sum += more);
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
    /// `√(Σ(found - expected)² / Σ expected²)` over all tokens.
    pub fn relative_error(&self) -> f64 {
        let [differences, expected] = self.squares;
        (differences / expected.max(f64::MIN_POSITIVE)).sqrt()
    }
}

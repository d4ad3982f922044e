//! Where a model departs: the residual stream after each layer, against that of
//! the reference.

use ndarray::ArrayView1;
use serde::Serialize;

use super::compare::{Position, off};
use super::model::Outputs;
use super::plan::{Plan, Step};
use super::tolerance::allowed;
use crate::reference::Residual;

/// A comparison of the residual stream.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// What is embedded, and then each layer.
    pub stages: Vec<Stage>,
    /// What is beyond float32's noise first: one of the stages, by its index.
    pub first: Option<usize>,
}

/// The residual stream at one place of the model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stage {
    /// The largest difference of a number.
    pub max: f64,
    /// The largest difference in a token, divided by its largest number's magnitude.
    pub relative: f64,
    /// How large that may be.
    pub bound: f64,
    /// The token where that is so.
    pub worst: Position,
}

impl Trace {
    /// Before anything is compared with the reference's.
    pub fn new(expected: &[Residual]) -> Self {
        let stage =
            |residual: &Residual| Stage { bound: allowed(residual.noise, 1.0), ..Stage::default() };
        Self { stages: expected.iter().map(stage).collect(), first: None }
    }

    /// Takes what a step gives; nothing where that is of other sizes.
    pub fn add(
        &mut self,
        plan: &Plan,
        step: &Step,
        outputs: &Outputs,
        expected: &[Residual],
    ) -> Option<()> {
        let stages = self.stages.iter_mut().zip(&outputs.residuals).zip(expected);
        for ((stage, found), Residual { exact, .. }) in stages {
            for (position, found) in outputs.by_token(step, found, exact.ncols())? {
                let expected = exact.row(plan.start(position.row) + position.token);
                stage.add(position, found, expected);
            }
        }
        let beyond = |stage: &Stage| stage.relative > stage.bound;
        self.first = self.stages.iter().position(beyond);
        Some(())
    }

    /// The token where the first stage is off that is beyond its bound.
    pub fn departure(&self) -> Option<Position> {
        self.first.map(|first| self.stages[first].worst)
    }
}

impl Stage {
    fn add(&mut self, position: Position, found: &[f32], expected: ArrayView1<f64>) {
        let (mut furthest, mut largest) = (0f64, f64::from(f32::MIN_POSITIVE));
        for (found, expected) in found.iter().zip(expected) {
            furthest = furthest.max(off(*found, *expected));
            largest = largest.max(expected.abs());
        }
        self.max = self.max.max(furthest);
        if furthest / largest > self.relative {
            (self.relative, self.worst) = (furthest / largest, position);
        }
    }
}

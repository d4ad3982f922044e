//! Where a model departs: the residual stream after each layer, against that of
//! the reference.

use ndarray::Array2;
use serde::Serialize;

use super::compare::Position;
use super::model::Outputs;
use super::plan::{Plan, Step};

/// A comparison of the residual stream.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// What is embedded, and then each layer.
    pub stages: Vec<Stage>,
    /// What is beyond float32's noise first: a place among the stages.
    pub first: Option<usize>,
}

/// The residual stream at one place of the model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stage {
    /// The largest difference of a number.
    pub max: f64,
    /// The largest difference in a token, divided by its largest number's magnitude.
    pub relative: f64,
    /// The token where that is so.
    pub worst: Position,
}

impl Trace {
    /// Before anything is compared.
    pub fn new(stages: usize) -> Self {
        Self { stages: vec![Stage::default(); stages], first: None }
    }

    /// Takes what a step gives.
    pub fn add(&mut self, plan: &Plan, step: &Step, outputs: &Outputs, expected: &[Array2<f32>]) {
        for ((stage, found), expected) in
            self.stages.iter_mut().zip(&outputs.residuals).zip(expected)
        {
            let width = expected.ncols();
            let mut before = vec![0; step.rows.len()];
            for reading in step.tokens() {
                let (row, token) = (reading.row, reading.token);
                let place = if outputs.packed { before[row] } else { reading.place };
                before[row] += 1;
                let start = (row * step.width() + place) * width;
                let expected = expected.row(plan.start(row) + token);
                stage.add(Position { row, token }, &found[start..start + width], expected.iter());
            }
        }
    }

    /// Says which stage is the first beyond a noise relative to a token's numbers.
    pub fn judge(&mut self, noise: impl Fn(usize) -> f64) {
        let beyond = |(at, stage): (usize, &Stage)| (stage.relative > noise(at)).then_some(at);
        self.first = self.stages.iter().enumerate().find_map(beyond);
    }
}

impl Stage {
    fn add<'e>(
        &mut self,
        position: Position,
        found: &[f32],
        expected: impl Iterator<Item = &'e f32>,
    ) {
        let (mut off, mut largest) = (0f64, f64::from(f32::MIN_POSITIVE));
        for (found, expected) in found.iter().zip(expected) {
            let difference = (f64::from(*found) - f64::from(*expected)).abs();
            off = off.max(if difference.is_nan() { f64::INFINITY } else { difference });
            largest = largest.max(f64::from(expected.abs()));
        }
        self.max = self.max.max(off);
        if off / largest > self.relative {
            (self.relative, self.worst) = (off / largest, position);
        }
    }
}

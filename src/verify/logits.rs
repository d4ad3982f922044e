//! The logits of a model, compared with the reference's.

use ndarray::ArrayView1;
use serde::Serialize;

use super::inputs::Inputs;
use super::quality::Prediction;
use super::session::StepOutputs;
use crate::error::{Error, Kind, Result, err};
use crate::reference::{Activations, ExactValues, Position};
use crate::statistics::{kl_divergence, log_softmax, top};

/// Tokens whose logits the reference computes at once, with one pass over lm_head.
const TOKENS: usize = 128;

/// How the logits of a model differ from the reference's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogitDifferences {
    /// The largest absolute difference.
    pub max: f64,
    /// The mean absolute difference.
    pub mean: f64,
    /// The Kullback-Leibler divergence of the model's distribution over tokens from the
    /// reference's in nats, as the mean over positions.
    pub kl_divergence: f64,
    /// Positions at which both have the same largest logit.
    pub same_top: usize,
    /// The largest magnitude of a logit of the reference.
    pub largest_logit: f64,
    /// The noise of float32: the largest difference between the reference in float32 and in
    /// float64.
    pub noise: f64,
    /// The position of the largest difference.
    pub worst: Position,
    /// Every position that was compared, with its largest difference.
    #[serde(skip)]
    pub positions: Vec<(Position, f64)>,
}

/// Compares the logits of a model with those of a pass of the reference, which computes them once
/// there are enough.
pub struct LogitComparison<'c> {
    activations: &'c Activations<'c>,
    inputs: &'c Inputs,
    waiting: Vec<(Position, Vec<f32>)>,
    found: LogitDifferences,
    predictions: Vec<Prediction>,
}

impl<'c> LogitComparison<'c> {
    pub fn new(activations: &'c Activations<'c>, inputs: &'c Inputs) -> Self {
        let (waiting, predictions) = (Vec::new(), Vec::new());
        Self { activations, inputs, waiting, found: LogitDifferences::default(), predictions }
    }

    pub fn add(&mut self, outputs: &StepOutputs) -> Result<()> {
        for (position, logits) in outputs.logits_by_token()? {
            self.waiting.push((position, logits.to_vec()));
            if self.waiting.len() == TOKENS {
                self.compare_waiting()?;
            }
        }
        Ok(())
    }

    /// The differences, and the predictions of a text.
    pub fn finish(mut self) -> Result<(LogitDifferences, Vec<Prediction>)> {
        self.compare_waiting()?;
        if self.found.largest_logit == 0.0 {
            let what = "the checkpoint's own logits are all 0, and a comparison with them proves nothing: its weights are damaged, or their download is unfinished; use another copy";
            return Err(Error::new(what).with_kind(Kind::Damaged));
        }
        let count = self.found.positions.len() as f64;
        self.found.mean /= count * self.inputs.signature.vocab as f64;
        self.found.kl_divergence /= count;
        Ok((self.found, self.predictions))
    }

    fn compare_waiting(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let tokens = self.waiting.iter().map(|(position, _)| self.inputs.index(*position));
        let ExactValues { exact, noise } = self.activations.logits(&tokens.collect::<Vec<_>>())?;
        self.found.noise = self.found.noise.max(noise);
        for ((position, found), expected) in self.waiting.drain(..).zip(exact.rows()) {
            let [found, expected] = self.found.add(position, &found, expected)?;
            let token = self.inputs.predicted(position);
            let prediction = token.map(|it| Prediction::new(position, it, &found, &expected));
            self.predictions.extend(prediction);
        }
        Ok(())
    }
}

impl LogitDifferences {
    /// Adds the logits at a position; `ln` of the distributions of the model and the reference.
    fn add(
        &mut self,
        position: Position,
        found: &[f32],
        expected: ArrayView1<f64>,
    ) -> Result<[Vec<f64>; 2]> {
        if !expected.iter().all(|logit| logit.is_finite()) {
            return Err(err!(
                "the reference's logits at {position} are infinite or NaN, so values that it reads are damaged: use another copy"
            )
            .with_kind(Kind::Damaged));
        }
        let Differences { largest, sum, magnitude, .. } = differences(found, expected);
        self.largest_logit = self.largest_logit.max(magnitude);
        if largest > self.max || self.positions.is_empty() {
            (self.max, self.worst) = (largest, position);
        }
        let expected: Vec<f64> = expected.to_vec();
        let found: Vec<f64> = found.iter().copied().map(f64::from).collect();
        self.mean += sum;
        self.same_top += usize::from(top(&found) == top(&expected));
        self.positions.push((position, largest));
        let [found, expected] = [found, expected].map(|logits| log_softmax(&logits));
        self.kl_divergence += kl_divergence(&expected, &found);
        Ok([found, expected])
    }

    /// The first position of each row with a difference beyond the bound.
    pub(super) fn first_beyond(&self, bound: f64) -> Vec<Position> {
        let beyond = self.positions.iter().filter(|(_, difference)| *difference > bound);
        let mut beyond: Vec<Position> = beyond.map(|(position, _)| *position).collect();
        beyond.sort();
        beyond.dedup_by_key(|position| position.row);
        beyond
    }
}

/// How values differ from what is expected. Differences from NaN are infinite.
#[derive(Default)]
pub struct Differences {
    /// The largest absolute difference.
    pub largest: f64,
    /// The sum of all absolute differences.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
    /// The largest magnitude that is expected.
    pub magnitude: f64,
}

pub fn differences(found: &[f32], expected: ArrayView1<f64>) -> Differences {
    let mut all = Differences::default();
    for (found, expected) in found.iter().zip(expected) {
        let difference = (f64::from(*found) - expected).abs();
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        all.largest = all.largest.max(difference);
        all.sum += difference;
        all.squares += difference * difference;
        all.magnitude = all.magnitude.max(expected.abs());
    }
    all
}

#[cfg(test)]
mod tests {
    use ndarray::aview1;

    use super::*;

    #[test]
    fn compares_logits_by_hand() {
        let mut found = LogitDifferences::default();
        let here = Position { row: 0, token: 3 };
        // Probabilities of 1/2, 1/4, 1/4 and of 1/4, 1/2, 1/4.
        let (ln2, p, q) = (2f32.ln(), [2f32.ln(), 0.0, 0.0], [0.0, 2f32.ln(), 0.0]);
        let expected = p.map(f64::from);
        found.add(here, &q, aview1(&expected)).unwrap();
        assert!((found.max - f64::from(ln2)).abs() < 1e-7 && found.worst == here);
        assert!((found.mean - 2.0 * f64::from(ln2)).abs() < 1e-7);
        assert!((found.kl_divergence - 0.25 * f64::from(ln2)).abs() < 1e-7);
        assert_eq!((found.same_top, found.largest_logit), (0, f64::from(ln2)));
        found.add(Position { row: 0, token: 4 }, &p, aview1(&expected)).unwrap();
        assert_eq!((found.same_top, found.worst), (1, here));
        assert_eq!(found.first_beyond(0.5), [here]);
        assert_eq!(found.first_beyond(0.7), []);
    }

    #[test]
    fn nan_differs_infinitely() {
        let mut found = LogitDifferences::default();
        found.add(Position::default(), &[f32::NAN, 1.0], aview1(&[1.0, 0.0])).unwrap();
        assert_eq!((found.max, found.same_top), (f64::INFINITY, 0));
        let damaged = found.add(Position::default(), &[0.0], aview1(&[f64::NAN]));
        assert!(damaged.unwrap_err().to_string().contains("row 0, token 0"));
    }
}

//! The logits of a model and its residual stream after each layer, compared with the reference's.

use ndarray::ArrayView1;
use serde::Serialize;

use super::inputs::Inputs;
use super::session::StepOutputs;
use super::tolerance::allowed;
use crate::error::{Error, Kind, Result, ensure, err};
use crate::reference::{Activations, ExactValues, Position};

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

/// Compares what a model computes with a pass of the reference. Logits wait until the reference
/// computes its own.
pub struct ActivationComparison<'c> {
    activations: &'c Activations<'c>,
    inputs: &'c Inputs,
    waiting: Vec<(Position, Vec<f32>)>,
    found: LogitDifferences,
    trace: Option<Trace>,
}

impl<'c> ActivationComparison<'c> {
    pub fn new(activations: &'c Activations<'c>, inputs: &'c Inputs) -> Self {
        let stage = |it: &ExactValues| Stage { bound: allowed(it.noise, 1.0), ..Stage::default() };
        let stages: Vec<Stage> = activations.residuals.iter().map(stage).collect();
        let trace = (!stages.is_empty()).then_some(Trace { stages, first: None });
        let (waiting, found) = (Vec::new(), LogitDifferences::default());
        Self { activations, inputs, waiting, found, trace }
    }

    /// Adds a step, whose first inner values are the residual stream if the pass has that.
    pub fn add(&mut self, outputs: &StepOutputs) -> Result<()> {
        let StepOutputs { step, logits, .. } = outputs;
        let vocab = self.inputs.signature.vocab as usize;
        let (rows, width) = (step.rows.len(), step.width());
        let columns = logits.len() / vocab / rows;
        ensure!(
            logits.len() == columns * vocab * rows && [1, width].contains(&columns),
            "the model returned {} logits for {rows} rows of {width} tokens, expected {vocab} for each token or for each row",
            logits.len()
        );
        for (position, column) in step.compared() {
            let column = if columns == width { column } else { 0 };
            let start = (position.row * columns + column) * vocab;
            self.waiting.push((position, logits[start..start + vocab].to_vec()));
            if self.waiting.len() == TOKENS {
                self.compare_waiting()?;
            }
        }
        let Some(Trace { stages, first }) = &mut self.trace else { return Ok(()) };
        let expected = &self.activations.residuals;
        for (at, (stage, ExactValues { exact, .. })) in stages.iter_mut().zip(expected).enumerate()
        {
            for (position, found) in outputs.by_token(at, exact.ncols(), "a residual stream")? {
                stage.add(position, found, exact.row(self.inputs.index(position)));
            }
        }
        *first = stages.iter().position(|stage| stage.relative > stage.bound);
        Ok(())
    }

    pub fn finish(mut self) -> Result<(LogitDifferences, Option<Trace>)> {
        self.compare_waiting()?;
        if self.found.largest_logit == 0.0 {
            let what = "the checkpoint's own logits are all 0, and a comparison with them proves nothing: its weights are damaged, or their download is unfinished; use another copy";
            return Err(Error::new(what).with_kind(Kind::Damaged));
        }
        let count = self.found.positions.len() as f64;
        self.found.mean /= count * self.inputs.signature.vocab as f64;
        self.found.kl_divergence /= count;
        Ok((self.found, self.trace))
    }

    fn compare_waiting(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let tokens = self.waiting.iter().map(|(position, _)| self.inputs.index(*position));
        let ExactValues { exact, noise } = self.activations.logits(&tokens.collect::<Vec<_>>())?;
        self.found.noise = self.found.noise.max(noise);
        for ((position, found), expected) in self.waiting.drain(..).zip(exact.rows()) {
            self.found.add(position, &found, expected)?;
        }
        Ok(())
    }
}

impl LogitDifferences {
    fn add(&mut self, position: Position, found: &[f32], expected: ArrayView1<f64>) -> Result<()> {
        if !expected.iter().all(|logit| logit.is_finite()) {
            return Err(err!(
                "the reference's logits at {position} are infinite or NaN, so values that it reads are damaged: use another copy"
            )
            .with_kind(Kind::Damaged));
        }
        let [largest, sum, magnitude] = differences(found, expected);
        self.largest_logit = self.largest_logit.max(magnitude);
        if largest > self.max || self.positions.is_empty() {
            (self.max, self.worst) = (largest, position);
        }
        let expected: Vec<f64> = expected.to_vec();
        let found: Vec<f64> = found.iter().copied().map(f64::from).collect();
        self.mean += sum;
        self.kl_divergence += kl_divergence(&expected, &found);
        self.same_top += usize::from(top(&found) == top(&expected));
        self.positions.push((position, largest));
        Ok(())
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

/// The largest absolute difference, the sum of all, and the largest magnitude that is expected.
/// Differences from NaN are infinite.
fn differences(found: &[f32], expected: ArrayView1<f64>) -> [f64; 3] {
    found.iter().zip(expected).fold([0.0; 3], |[largest, sum, magnitude], (found, expected)| {
        let difference = (f64::from(*found) - expected).abs();
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        [largest.max(difference), sum + difference, magnitude.max(expected.abs())]
    })
}

/// The first token with the largest logit; `None` if a logit is NaN.
fn top(logits: &[f64]) -> Option<usize> {
    let best = |best, at| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).reduce(best).filter(|_| logits.iter().all(|logit| !logit.is_nan()))
}

/// `Σ p · (ln p − ln q)` for the softmax of two rows of logits.
fn kl_divergence(p: &[f64], q: &[f64]) -> f64 {
    let log_sum = |logits: &[f64]| {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
    };
    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
    let each = p.iter().zip(q).map(|(p, q)| {
        let (p, q) = (p - p_sum, q - q_sum);
        p.exp() * (p - q)
    });
    each.sum()
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

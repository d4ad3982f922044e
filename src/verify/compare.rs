//! Logits against logits.

use ndarray::ArrayView1;
use serde::Serialize;

use super::plan::{Plan, Step};
use crate::checkpoint::Checkpoint;
use crate::error::{Result, bail};
use crate::reference::{Activations, Logits};

/// Tokens whose logits wait until the reference computes its own, with one look
/// at lm_head for all.
const WAITING: usize = 128;

/// A comparison under way.
pub struct Comparison<'c> {
    checkpoint: &'c Checkpoint,
    activations: &'c Activations,
    plan: &'c Plan,
    waiting: Vec<(Position, Vec<f32>)>,
    found: Differences,
}

/// How a model's logits differ from the reference's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Differences {
    /// The largest absolute one.
    pub max: f64,
    /// The mean of absolute ones.
    pub mean: f64,
    /// The Kullback-Leibler divergence of the model's distribution over tokens
    /// from the reference's, in nats: the mean over positions.
    pub kl_divergence: f64,
    /// Positions at which both have the same largest logit.
    pub same_top: usize,
    /// The largest magnitude of a logit in the reference.
    pub largest_logit: f64,
    /// How far the reference in float32 is from itself in float64.
    pub noise: f64,
    /// Where the largest difference is.
    pub worst: Position,
    /// Every position that was compared, with its largest difference.
    #[serde(skip)]
    pub positions: Vec<(Position, f64)>,
}

/// A token of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub struct Position {
    pub row: usize,
    pub token: usize,
}

impl<'c> Comparison<'c> {
    /// Of what the reference has made of the texts of a plan.
    pub fn new(checkpoint: &'c Checkpoint, activations: &'c Activations, plan: &'c Plan) -> Self {
        let (waiting, found) = (Vec::new(), Differences::default());
        Self { checkpoint, activations, plan, waiting, found }
    }

    /// Takes what a step gives: logits `[rows, places, vocab]`, or of one place.
    pub fn add(&mut self, step: &Step, logits: &[f32]) -> Result<()> {
        let vocab = self.checkpoint.config.vocab_size as usize;
        let places = logits.len() / vocab / step.rows.len();
        if logits.len() != places * vocab * step.rows.len() || ![1, step.width()].contains(&places)
        {
            let (found, rows, width) = (logits.len(), step.rows.len(), step.width());
            bail!(
                "the model returned {found} logits for {rows} rows of {width} tokens, expected {vocab} for each token or for each row"
            );
        }
        for reading in step.readings() {
            let place = if places == step.width() { reading.place } else { 0 };
            let start = (reading.row * places + place) * vocab;
            let position = Position { row: reading.row, token: reading.token };
            self.waiting.push((position, logits[start..start + vocab].to_vec()));
            if self.waiting.len() == WAITING {
                self.settle()?;
            }
        }
        Ok(())
    }

    /// What came out.
    pub fn finish(mut self) -> Result<Differences> {
        self.settle()?;
        let count = self.found.positions.len() as f64;
        self.found.mean /= count * self.checkpoint.config.vocab_size as f64;
        self.found.kl_divergence /= count;
        Ok(self.found)
    }

    /// Compares what waits.
    fn settle(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let place = |(position, _): &(Position, _)| self.plan.start(position.row) + position.token;
        let places: Vec<usize> = waiting.iter().map(place).collect();
        let Logits { exact, noise } = self.activations.logits(self.checkpoint, &places)?;
        self.found.noise = self.found.noise.max(noise);
        for ((position, found), expected) in waiting.into_iter().zip(exact.rows()) {
            self.found.add(position, &found, expected)?;
        }
        Ok(())
    }
}

impl Differences {
    fn add(&mut self, position: Position, found: &[f32], expected: ArrayView1<f64>) -> Result<()> {
        let Position { row, token } = position;
        if expected.iter().any(|logit| !logit.is_finite()) {
            bail!(
                "the checkpoint's own logits of token {token} in row {row} are infinite or NaN: its weights are damaged"
            );
        }
        let (mut largest, mut sum) = (0f64, 0f64);
        for (found, expected) in found.iter().zip(&expected) {
            let off = off(*found, *expected);
            largest = largest.max(off);
            sum += off;
            self.largest_logit = self.largest_logit.max(expected.abs());
        }
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

    /// The first token of each row that is off by more than the bound.
    pub fn first_beyond(&self, bound: f64) -> Vec<Position> {
        let mut beyond: Vec<Position> = self
            .positions
            .iter()
            .filter(|(_, off)| *off > bound)
            .map(|(position, _)| *position)
            .collect();
        beyond.sort();
        beyond.dedup_by_key(|position| position.row);
        beyond
    }
}

/// How far a number is off; infinitely, where it is none.
pub fn off(found: f32, expected: f64) -> f64 {
    let off = (f64::from(found) - expected).abs();
    if off.is_nan() { f64::INFINITY } else { off }
}

/// The token with the largest logit, of equal ones the first; none where a logit is
/// no number.
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
    fn two_rows_of_logits_by_hand() {
        let mut found = Differences::default();
        let here = Position { row: 0, token: 3 };
        // Shares of 1/2, 1/4, 1/4 and of 1/4, 1/2, 1/4.
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
    fn what_is_no_number_is_infinitely_far_off() {
        let mut found = Differences::default();
        found.add(Position::default(), &[f32::NAN, 1.0], aview1(&[1.0, 0.0])).unwrap();
        assert_eq!((found.max, found.same_top), (f64::INFINITY, 0));
        let damaged = found.add(Position::default(), &[0.0], aview1(&[f64::NAN]));
        assert!(damaged.unwrap_err().to_string().contains("token 0 in row 0"));
    }
}

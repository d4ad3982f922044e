//! A second implementation of GPT-OSS, to check the first: a plain forward pass, written from
//! the model's definition (`gpt_oss/torch/model.py` in openai/gpt-oss) and not from the graph,
//! with which it shares nothing.
//!
//! It runs twice, layer by layer: in float64, which models are compared with, and in float32
//! with the same choices of experts. Their difference is the noise of float32 for this
//! checkpoint and these tokens.
//!
//! Weights are decoded when they are needed and dropped, of the experts those that some token
//! uses. Memory holds a few activations of all tokens and on each processor some rows of a
//! matrix, and does not grow with the model.

mod attention;
mod linear;
mod moe;
mod pass;
mod real;
mod rope;
mod routing;
mod weight_reader;

use ndarray::{Array2, ArrayView1};

pub use routing::{ExpertChoices, Tie};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::progress::{Progress, Unit, phase};
use crate::weights::Weight;
use pass::Pass;
use routing::Routing;

/// What to keep, and whose choices of experts to follow.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Keep the residual stream.
    pub residuals: bool,
    /// Choices of experts within so many times the noise of float32 are ties.
    pub tie_factor: f64,
    /// Choices to follow in ties.
    pub follow: Option<ExpertChoices>,
}

/// The outcome of a pass over rows of tokens, which do not see each other.
#[derive(Default)]
pub struct Activations {
    /// The residual stream if it is kept: the embedding, then after each layer.
    pub residuals: Vec<Residual>,
    /// Choices of experts that float32 does not decide, layer by layer.
    pub ties: Vec<Tie>,
    /// Number of experts that some token uses, over all layers.
    pub experts_used: usize,
    /// Whether some value of an expert reached SwiGLU's limit.
    pub limited: bool,
    hidden: Array2<f64>,
    hidden_single: Array2<f32>,
}

/// The residual stream at one place in the model.
pub struct Residual {
    /// `[tokens of all rows, hidden]`
    pub exact: Array2<f64>,
    /// Noise of float32: the largest difference in a token, relative to the token's largest
    /// magnitude.
    pub noise: f64,
}

/// The logits of some tokens.
pub struct Logits {
    /// `[tokens, vocab]`
    pub exact: Array2<f64>,
    /// Noise of float32: the largest difference.
    pub noise: f64,
}

/// Runs the model on rows of token ids.
pub fn run(
    checkpoint: &Checkpoint,
    rows: &[Vec<u32>],
    options: &PassOptions,
    progress: &dyn Progress,
) -> Result<Activations> {
    let (layers, count) = (&checkpoint.weights.layers, checkpoint.config.experts_per_token);
    let mut exact = Pass::<f64>::new(checkpoint, rows)?;
    let mut single = Pass::<f32>::new(checkpoint, rows)?;
    let mut found = Activations::default();
    let residual = |exact: &Pass<f64>, single: &Pass<f32>| {
        options.residuals.then(|| Residual::new(&exact.residual, &single.residual))
    };
    found.residuals.extend(residual(&exact, &single));
    let layer_bytes = |n: usize| layers[n].iter().map(Weight::bytes).sum::<u64>();
    let total = (0..layers.len()).map(layer_bytes).sum();
    let phase = phase(progress, "computing the reference", Unit::Bytes, total);
    for n in 0..layers.len() {
        // One layer in both types, so that its weights come from the disk once.
        let (input, input_single) = (exact.attention(n, progress)?, single.attention(n, progress)?);
        let others = options.follow.as_ref().map(|choices| &choices[n][..]);
        let scores = [&input.scores, &input_single.scores.mapv(f64::from)];
        let Routing { chosen, ties } =
            Routing::decide(n, scores, count as usize, options.tie_factor, others);
        let output = exact.experts(n, &input, &chosen, progress)?;
        single.experts(n, &input_single, &chosen, progress)?;
        found.ties.extend(ties);
        found.experts_used += output.used;
        found.limited |= output.limited;
        found.residuals.extend(residual(&exact, &single));
        phase.advance(layer_bytes(n));
    }
    (found.hidden, found.hidden_single) = (exact.finish()?, single.finish()?);
    Ok(found)
}

impl Activations {
    /// The logits of some tokens, counted over all rows.
    pub fn logits(&self, checkpoint: &Checkpoint, tokens: &[usize]) -> Result<Logits> {
        let exact = pass::logits(checkpoint, &self.hidden, tokens)?;
        let single = pass::logits(checkpoint, &self.hidden_single, tokens)?;
        let rows = exact.rows().into_iter().zip(single.rows());
        let noise = rows.map(|(exact, single)| max_difference(exact, single)).fold(0.0, f64::max);
        Ok(Logits { exact, noise })
    }
}

impl Residual {
    fn new(exact: &Array2<f64>, single: &Array2<f32>) -> Self {
        let relative = |(exact, single): (ArrayView1<f64>, ArrayView1<f32>)| {
            let largest = exact.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
            max_difference(exact, single) / largest
        };
        let rows = exact.rows().into_iter().zip(single.rows());
        Self { exact: exact.clone(), noise: rows.map(relative).fold(0.0, f64::max) }
    }
}

fn max_difference(exact: ArrayView1<f64>, single: ArrayView1<f32>) -> f64 {
    let pairs = exact.iter().zip(single);
    pairs.fold(0.0, |most, (exact, single)| most.max((exact - f64::from(*single)).abs()))
}

//! GPT-OSS a second time, to check the first: a plain forward pass, written from
//! the model's definition (`gpt_oss/torch/model.py` in openai/gpt-oss) and not from
//! the graph, of which it shares nothing.
//!
//! It runs twice, layer by layer: in float64, which is what a model is compared
//! with, and in float32 with the same choices of experts. How far the second is
//! from the first is what float32 itself does to this checkpoint and these texts.
//!
//! Weights are decoded as they are needed and dropped, of the experts those that
//! some token uses: memory holds a few activations of all tokens, and on each
//! processor some rows of a matrix. It does not grow with the model.

mod attention;
mod experts;
mod linear;
mod pass;
mod real;
mod rope;
mod routing;
mod stored;

use ndarray::{Array2, ArrayView1};

pub use routing::{Choices, Tie};

use crate::checkpoint::Checkpoint;
use crate::progress::{Progress, Unit, phase};
use crate::weights::Weight;
use pass::Pass;
use routing::Routing;

/// Why there are no logits.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] crate::error::Error),
    #[error("token {token} of a row is {id}, and the vocabulary has {vocab} tokens")]
    Token { token: usize, id: u32, vocab: u64 },
    #[error("the experts were laid out for CUDA: compare with the checkpoint itself")]
    ForCuda,
    #[error("interrupted")]
    Interrupted,
}

type Result<T> = std::result::Result<T, Error>;

/// What to keep, and whose choices to follow.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Keep the residual stream.
    pub residuals: bool,
    /// Choices of experts that are closer than so many times float32's noise are
    /// ties.
    pub ties_within: f64,
    /// Choices that are followed in ties.
    pub follow: Option<Choices>,
}

/// What the model makes of some rows of tokens, which are independent of each other.
#[derive(Default)]
pub struct Activations {
    /// The residual stream, if it was asked for: what is embedded, and then after
    /// each layer.
    pub residuals: Vec<Residual>,
    /// Choices of experts that float32 does not decide, layer by layer.
    pub ties: Vec<Tie>,
    /// How many experts some token uses, in all layers together.
    pub experts_used: usize,
    /// Whether some number of an expert reached SwiGLU's limit.
    pub limited: bool,
    hidden: Array2<f64>,
    hidden_single: Array2<f32>,
}

/// The residual stream at one place of the model.
pub struct Residual {
    /// `[tokens of all rows, hidden]`
    pub exact: Array2<f64>,
    /// How far float32's is from it: the largest difference in a token, divided by
    /// the token's largest number.
    pub noise: f64,
}

/// Some tokens' logits.
pub struct Logits {
    /// `[tokens, vocab]`
    pub exact: Array2<f64>,
    /// The largest difference of float32's from it.
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
        options.residuals.then(|| Residual::new(&exact.x, &single.x))
    };
    found.residuals.extend(residual(&exact, &single));
    let layer_bytes = |n: usize| layers[n].iter().map(Weight::bytes).sum::<u64>();
    let _phase = phase(
        progress,
        "computing the reference",
        Unit::Bytes,
        (0..layers.len()).map(layer_bytes).sum(),
    );
    for n in 0..layers.len() {
        let (routed, routed_single) = (exact.attend(n, progress)?, single.attend(n, progress)?);
        let others = options.follow.as_ref().map(|choices| &choices[n][..]);
        let scores = [&routed.scores, &routed_single.scores.mapv(f64::from)];
        let Routing { chosen, ties } =
            Routing::decide(n, scores, count as usize, options.ties_within, others);
        let mixed = exact.mix(n, &routed, &chosen, progress)?;
        single.mix(n, &routed_single, &chosen, progress)?;
        found.ties.extend(ties);
        found.experts_used += mixed.used;
        found.limited |= mixed.limited;
        found.residuals.extend(residual(&exact, &single));
        progress.advance(layer_bytes(n));
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
        let noise = rows.map(|(exact, single)| furthest(exact, single)).fold(0.0, f64::max);
        Ok(Logits { exact, noise })
    }
}

impl Residual {
    fn new(exact: &Array2<f64>, single: &Array2<f32>) -> Self {
        let relative = |(exact, single): (ArrayView1<f64>, ArrayView1<f32>)| {
            let largest = exact.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
            furthest(exact, single) / largest
        };
        let rows = exact.rows().into_iter().zip(single.rows());
        Self { exact: exact.clone(), noise: rows.map(relative).fold(0.0, f64::max) }
    }
}

/// The largest difference.
fn furthest(exact: ArrayView1<f64>, single: ArrayView1<f32>) -> f64 {
    let pairs = exact.iter().zip(single);
    pairs.fold(0.0, |most, (exact, single)| most.max((exact - f64::from(*single)).abs()))
}

//! A second implementation of GPT-OSS, to check the first: a plain forward pass, written from
//! the model's definition (`gpt_oss/torch/model.py` in openai/gpt-oss) and not from the graph,
//! with which it shares nothing. It reads checkpoints by a reader of its own, [`read`].
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
mod matrix;
mod model;
mod moe;
mod pass;
mod reading;
mod rope;
mod routing;

use std::error::Error as _;

use ndarray::{Array2, ArrayView1};

pub use matrix::{EncodedNumbers, Encoding};
pub use model::{Hyperparameters, LayerMatrices, ReferenceModel};
pub use pass::ExpertCoverage;
pub use reading::{AdapterToRead, ReadOptions, read};
pub use routing::{ExpertChoices, Position, Tie, ranked};

use crate::error::{Error, Result};
use crate::progress::{Progress, Unit, phase};
use pass::Pass;
use routing::choose;

/// What to keep, and whose choices of experts to follow.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    pub residuals: bool,
    /// Choices of experts within so many times the noise of float32 are ties.
    pub tie_factor: f64,
    /// Choices to follow in ties.
    pub follow: Option<ExpertChoices>,
}

/// The outcome of a pass over rows of tokens, which do not see each other.
pub struct Activations<'c> {
    /// The residual stream if it is kept: the embedding, then after each layer. Its noise is
    /// relative to the largest magnitude in a token.
    pub residuals: Vec<ExactValues>,
    /// Choices of experts that float32 does not decide, layer by layer.
    pub ties: Vec<Tie>,
    pub experts: ExpertCoverage,
    exact: Pass<'c, f64>,
    single: Pass<'c, f32>,
}

/// What a model should compute.
pub struct ExactValues {
    /// A row for each token.
    pub exact: Array2<f64>,
    /// Noise of float32: the largest difference.
    pub noise: f64,
}

/// Runs the model on rows of token ids.
pub fn run<'c>(
    model: &'c ReferenceModel,
    rows: &[Vec<u32>],
    options: &PassOptions,
    progress: &'c dyn Progress,
) -> Result<Activations<'c>> {
    start_threads()?;
    let layers = &model.layers;
    let (count, factor) = (model.numbers.experts_per_token as usize, options.tie_factor);
    let mut exact = Pass::new(model, rows, progress)?;
    let mut single = Pass::new(model, rows, progress)?;
    let largest = |row: ArrayView1<f64>| row.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let residual = |exact: &Pass<f64>, single: &Pass<f32>| {
        let kept = options.residuals.then(|| exact.residual.clone())?;
        Some(ExactValues::new(kept, &single.residual, largest))
    };
    let (mut residuals, mut ties) = (Vec::from_iter(residual(&exact, &single)), Vec::new());
    let total = layers.iter().map(LayerMatrices::bytes).sum();
    let of_row =
        |(row, ids): (usize, &Vec<u32>)| (0..ids.len()).map(move |token| Position { row, token });
    let positions: Vec<Position> = rows.iter().enumerate().flat_map(of_row).collect();
    let _phase = phase(progress, "computing the reference", Unit::Bytes, total);
    for (n, layer) in layers.iter().enumerate() {
        // One layer in both types, so that its weights come from the disk once.
        exact.attention(n)?;
        single.attention(n)?;
        let (x, x32) = (exact.router(n)?, single.router(n)?);
        let others = options.follow.as_ref().map(|choices| &choices[n][..]);
        let (chosen, close) = choose(n, &positions, &x[1], &x32[1], count, factor, others);
        exact.experts(n, &x, &chosen)?;
        single.experts(n, &x32, &chosen)?;
        ties.extend(close);
        residuals.extend(residual(&exact, &single));
        progress.advance(layer.bytes());
    }
    Ok(Activations { residuals, ties, experts: exact.coverage, exact, single })
}

/// Starts rayon's threads, which would panic where they cannot be started.
fn start_threads() -> Result<()> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    // An error without a cause says that they run already.
    let failed = started.err().filter(|error| error.source().is_some());
    failed.map_or(Ok(()), |error| Err(Error::no_thread(error)))
}

impl Activations<'_> {
    /// The logits of some tokens, counted over all rows.
    pub fn logits(&self, tokens: &[usize]) -> Result<ExactValues> {
        Ok(ExactValues::new(self.exact.logits(tokens)?, &self.single.logits(tokens)?, |_| 1.0))
    }
}

impl ExactValues {
    /// Differences count relative to a scale of each row.
    fn new(exact: Array2<f64>, single: &Array2<f32>, scale: fn(ArrayView1<f64>) -> f64) -> Self {
        let mut noise = 0f64;
        for (exact, single) in exact.rows().into_iter().zip(single.rows()) {
            let pairs = exact.iter().zip(single);
            let differences = pairs.map(|(exact, single)| (exact - f64::from(*single)).abs());
            noise = noise.max(differences.fold(0.0, f64::max) / scale(exact));
        }
        Self { exact, noise }
    }
}

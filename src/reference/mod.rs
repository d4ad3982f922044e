//! GPT-OSS a second time, to check the first: a plain forward pass in float32,
//! written from the model's definition (`gpt_oss/torch/model.py` in
//! openai/gpt-oss) and not from the graph, of which it shares nothing.
//!
//! Weights are decoded as they are needed and dropped, of the experts those that
//! some token uses: memory holds a few activations of all tokens, and on each
//! processor some rows of a matrix. It does not grow with the model.

mod attention;
mod experts;
mod linear;
mod rope;
mod stored;

use ndarray::{Array2, Axis};

pub use experts::Margin;

use crate::checkpoint::Checkpoint;
use crate::progress::Progress;
use crate::weights::{self, Weight};
use attention::attend;
use experts::{Mixed, mix};
use linear::product;
use rope::Rotation;
use stored::Stored;

/// Why there are no logits.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error("token {token} of a row is {id}, and the vocabulary has {vocab} tokens")]
    Token { token: usize, id: u32, vocab: u64 },
    #[error("the experts were laid out for CUDA: compare with the checkpoint itself")]
    ForCuda,
    #[error("interrupted")]
    Interrupted,
}

type Result<T> = std::result::Result<T, Error>;

/// What to keep, and where to take the other choice.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep the residual stream.
    pub residuals: bool,
    /// List choices of experts by a smaller margin than this.
    pub ties_below: f32,
    /// Choices that go the other way.
    pub swapped: Vec<Place>,
}

/// A token's choice of experts. Tokens are counted over all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Place {
    pub layer: usize,
    pub token: usize,
}

/// A choice of experts that nearly went the other way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tie {
    /// Where it is.
    pub place: Place,
    /// By how little it was decided.
    pub margin: Margin,
}

/// What the model makes of some rows of tokens, which are independent of each other.
#[derive(Default)]
pub struct Activations {
    /// The residual stream, `[tokens of all rows, hidden]`: what is embedded, and
    /// then after each layer, if it was asked for.
    pub residuals: Vec<Array2<f32>>,
    /// Close choices of experts, layer by layer.
    pub ties: Vec<Tie>,
    /// How many experts some token uses, in all layers together.
    pub experts_used: usize,
    /// What the logits are made of, `[tokens, hidden]`.
    hidden: Array2<f32>,
}

/// Runs the model on rows of token ids.
pub fn run(
    checkpoint: &Checkpoint,
    rows: &[Vec<u32>],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Activations> {
    let (config, weights) = (&checkpoint.config, &checkpoint.weights);
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let longest = lengths.iter().max().copied().unwrap_or_default();
    let rotation = Rotation::new(&config.rope, config.head_dim, longest);

    let mut x = embed(&weights.embedding, rows)?;
    let mut kept = Kept { options, found: Activations::default() };
    kept.residual(&x);
    let layer_bytes = |n: usize| weights.layers[n].iter().map(Weight::bytes).sum::<u64>();
    progress.begin("computing the reference", (0..weights.layers.len()).map(layer_bytes).sum());
    for (n, layer) in weights.layers.iter().enumerate() {
        let normed = norm(&x, &layer.attn.norm, config.rms_norm_eps)?;
        let attn = &layer.attn;
        let (window, normed) = (config.windows[n], normed.view());
        x += &attend(&normed, attn, config, window, &rotation, &lengths, progress)?;
        let normed = norm(&x, &layer.mlp.norm, config.rms_norm_eps)?;
        let mixed = mix(&normed.view(), &layer.mlp, config, &kept.swapped_in(n), progress)?;
        x += &mixed.sum;
        kept.routing(n, &mixed);
        kept.residual(&x);
        progress.advance(layer_bytes(n));
    }
    progress.end();
    let hidden = norm(&x, &weights.norm, config.rms_norm_eps)?;
    Ok(Activations { hidden, ..kept.found })
}

impl Activations {
    /// The logits of some tokens, counted over all rows: `[tokens, vocab]`.
    pub fn logits(&self, checkpoint: &Checkpoint, tokens: &[usize]) -> Result<Array2<f32>> {
        let hidden = self.hidden.select(Axis(0), tokens);
        product(&hidden.view(), &checkpoint.weights.logits())
    }
}

/// What is kept on the way.
struct Kept<'o> {
    options: &'o Options,
    found: Activations,
}

impl Kept<'_> {
    fn residual(&mut self, x: &Array2<f32>) {
        if self.options.residuals {
            self.found.residuals.push(x.clone());
        }
    }

    fn routing(&mut self, layer: usize, mixed: &Mixed) {
        self.found.experts_used += mixed.used;
        for (token, margin) in mixed.margins.iter().enumerate() {
            if margin.relative < self.options.ties_below {
                self.found.ties.push(Tie { place: Place { layer, token }, margin: *margin });
            }
        }
    }

    fn swapped_in(&self, layer: usize) -> Vec<usize> {
        let here = self.options.swapped.iter().filter(|place| place.layer == layer);
        here.map(|place| place.token).collect()
    }
}

/// A row of the table for each token.
fn embed(table: &Weight, rows: &[Vec<u32>]) -> Result<Array2<f32>> {
    let (vocab, mut stored) = (table.shape[0], Stored::default());
    let mut x = Array2::zeros((rows.iter().map(Vec::len).sum(), table.shape[1] as usize));
    let ids = rows.iter().flat_map(|row| row.iter().enumerate());
    for (mut row, (token, id)) in x.rows_mut().into_iter().zip(ids) {
        let at = u64::from(*id);
        if at >= vocab {
            return Err(Error::Token { token, id: *id, vocab });
        }
        row.assign(&stored.rows(table, at..at + 1)?.row(0));
    }
    Ok(x)
}

/// `x / √(mean(x²) + ε) · scale`, row by row.
fn norm(x: &Array2<f32>, scale: &Weight, epsilon: f64) -> Result<Array2<f32>> {
    let scale = Stored::default().vector(scale)?;
    let mut normed = x.clone();
    for mut row in normed.rows_mut() {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
        let factor = 1.0 / (mean + epsilon).sqrt();
        row.zip_mut_with(&scale, |x, scale| *x = (f64::from(*x) * factor) as f32 * scale);
    }
    Ok(normed)
}

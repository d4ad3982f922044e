//! The forward pass in one floating type, a step at a time.

use ndarray::{Array2, Axis};

use super::attention::attend;
use super::experts::{Mixed, mix};
use super::linear::{linear, product};
use super::real::Real;
use super::rope::Rotation;
use super::stored::Stored;
use super::{Error, Result};
use crate::checkpoint::{Checkpoint, LayerWeights};
use crate::progress::Progress;
use crate::weights::Weight;

/// Rows of tokens on their way through a model.
pub struct Pass<'c, F> {
    checkpoint: &'c Checkpoint,
    /// Tokens of each row.
    lengths: Vec<usize>,
    rotation: Rotation<F>,
    /// The residual stream, `[tokens of all rows, hidden]`.
    pub x: Array2<F>,
}

/// What the experts of a layer are given.
pub struct Routed<F> {
    normed: Array2<F>,
    /// The router's, `[tokens, experts]`.
    pub scores: Array2<F>,
}

impl<'c, F: Real> Pass<'c, F> {
    /// Before the first layer.
    pub fn new(checkpoint: &'c Checkpoint, rows: &[Vec<u32>]) -> Result<Self> {
        let (config, weights) = (&checkpoint.config, &checkpoint.weights);
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let longest = lengths.iter().max().copied().unwrap_or_default();
        let rotation = Rotation::new(&config.rope, config.head_dim, longest);
        Ok(Self { checkpoint, lengths, rotation, x: embed(&weights.embedding, rows)? })
    }

    /// Adds a layer's attention, and asks its router.
    pub fn attend(&mut self, n: usize, progress: &dyn Progress) -> Result<Routed<F>> {
        let LayerWeights { attn, mlp } = &self.checkpoint.weights.layers[n];
        let (config, lengths) = (&self.checkpoint.config, &self.lengths);
        let (window, normed) = (config.windows[n], self.norm(&attn.norm)?);
        self.x += &attend(&normed.view(), attn, config, window, &self.rotation, lengths, progress)?;
        let normed = self.norm(&mlp.norm)?;
        let scores = linear(&normed.view(), &mlp.router)?;
        Ok(Routed { normed, scores })
    }

    /// Adds what the experts make that were chosen for each token.
    pub fn mix(
        &mut self,
        n: usize,
        Routed { normed, scores }: &Routed<F>,
        chosen: &[Vec<usize>],
        progress: &dyn Progress,
    ) -> Result<Mixed<F>> {
        let (config, mlp) = (&self.checkpoint.config, &self.checkpoint.weights.layers[n].mlp);
        let mixed = mix(&normed.view(), scores, chosen, mlp, config, progress)?;
        self.x += &mixed.sum;
        Ok(mixed)
    }

    /// What the logits are made of, `[tokens, hidden]`.
    pub fn finish(&self) -> Result<Array2<F>> {
        self.norm(&self.checkpoint.weights.norm)
    }

    /// `x / √(mean(x²) + ε) · scale`, row by row.
    fn norm(&self, scale: &Weight) -> Result<Array2<F>> {
        let scale = Stored::default().vector(scale)?;
        let [width, epsilon] =
            [self.x.ncols() as f64, self.checkpoint.config.rms_norm_eps].map(F::of);
        let mut normed = self.x.clone();
        for mut row in normed.rows_mut() {
            let mean = row.iter().map(|x| *x * *x).sum::<F>() / width;
            let factor = F::one() / (mean + epsilon).sqrt();
            row.zip_mut_with(&scale, |x, scale| *x = *x * factor * *scale);
        }
        Ok(normed)
    }
}

/// The logits of some tokens: `[tokens, vocab]`.
pub fn logits<F: Real>(
    checkpoint: &Checkpoint,
    hidden: &Array2<F>,
    tokens: &[usize],
) -> Result<Array2<F>> {
    product(&hidden.select(Axis(0), tokens).view(), &checkpoint.weights.lm_head())
}

/// A row of the table for each token.
fn embed<F: Real>(table: &Weight, rows: &[Vec<u32>]) -> Result<Array2<F>> {
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

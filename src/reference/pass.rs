//! The forward pass in one floating-point type: its state, embedding, norm and lm_head.

use ndarray::{Array2, Axis};
use serde::Serialize;

use super::linear::linear;
use super::rope::RotaryEmbedding;
use super::weight_reader::{Real, row};
use crate::checkpoint::Checkpoint;
use crate::error::{Result, ensure};
use crate::progress::Progress;
use crate::weights::{FileCache, Weight};

/// Rows of tokens on their way through the model.
pub struct Pass<'c, F> {
    pub checkpoint: &'c Checkpoint,
    pub progress: &'c dyn Progress,
    /// Tokens of each row.
    pub lengths: Vec<usize>,
    pub rope: RotaryEmbedding<F>,
    /// The residual stream, `[tokens of all rows, hidden]`.
    pub residual: Array2<F>,
    pub coverage: ExpertCoverage,
}

/// How many experts were used, over all layers; nothing is known of the others.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExpertCoverage {
    /// Experts that some token used.
    pub used: usize,
    /// All experts.
    pub there: u64,
    /// SwiGLU's limit.
    pub limit: f64,
    /// Whether some value reached the limit: otherwise it is not tested.
    pub limited: bool,
}

impl<'c, F: Real> Pass<'c, F> {
    /// Embeds the tokens.
    pub fn new(
        checkpoint: &'c Checkpoint,
        rows: &[Vec<u32>],
        progress: &'c dyn Progress,
    ) -> Result<Self> {
        let (config, table) = (&checkpoint.config, &checkpoint.weights.embedding.weight);
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let longest = lengths.iter().max().copied().unwrap_or_default();
        let rope = RotaryEmbedding::new(&config.rope, config.head_dim, longest);
        let mut residual = Array2::zeros((lengths.iter().sum(), table.shape[1] as usize));
        let mut files = FileCache::default();
        let ids = rows.iter().flat_map(|row| row.iter().enumerate());
        for (mut embedded, (token, id)) in residual.rows_mut().into_iter().zip(ids) {
            let (id, vocab) = (u64::from(*id), table.shape[0]);
            ensure!(id < vocab, "token {token} of a row is {id}, and the vocabulary has {vocab}");
            embedded.assign(&row(table, id, &mut files)?);
        }
        let (there, limit) = (config.experts.iter().sum(), config.swiglu_limit);
        let coverage = ExpertCoverage { used: 0, there, limit, limited: false };
        Ok(Self { checkpoint, progress, lengths, rope, residual, coverage })
    }

    /// RMSNorm of each row: `x / √(mean(x²) + ε) · scale`.
    pub fn norm(&self, mut x: Array2<F>, scale: &Weight) -> Result<Array2<F>> {
        let scale = row(scale, 0, &mut FileCache::default())?;
        let [width, epsilon] = [x.ncols() as f64, self.checkpoint.config.rms_norm_eps].map(F::of);
        for mut row in x.rows_mut() {
            let mean = row.iter().map(|x| *x * *x).sum::<F>() / width;
            let factor = F::one() / (mean + epsilon).sqrt();
            row.zip_mut_with(&scale, |x, scale| *x = *x * factor * *scale);
        }
        Ok(x)
    }

    /// The normed input of the experts of layer `n`, and router scores `[tokens, experts]`.
    pub fn router(&self, n: usize) -> Result<[Array2<F>; 2]> {
        let mlp = &self.checkpoint.weights.layers[n].mlp;
        let x = self.norm(self.residual.clone(), &mlp.norm)?;
        let scores = linear(&x, &mlp.router.matrix, mlp.router.bias.as_ref(), 0)?;
        Ok([x, scores])
    }

    /// The logits of some tokens after all layers, `[tokens, vocab]`.
    pub fn logits(&self, tokens: &[usize]) -> Result<Array2<F>> {
        let weights = &self.checkpoint.weights;
        let x = self.norm(self.residual.select(Axis(0), tokens), &weights.norm)?;
        linear(&x, &weights.lm_head().matrix, None, 0)
    }
}

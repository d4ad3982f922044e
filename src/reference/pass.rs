//! The forward pass in one floating-point type, step by step.

use ndarray::{Array2, Axis};

use super::attention::Attention;
use super::linear::{linear, product};
use super::moe::{Moe, MoeOutput};
use super::real::Real;
use super::rope::RotaryEmbedding;
use super::weight_reader::WeightReader;
use crate::checkpoint::{Checkpoint, LayerWeights};
use crate::error::{Result, ensure};
use crate::progress::Progress;
use crate::weights::Weight;

/// Rows of tokens on their way through the model.
pub struct Pass<'c, F> {
    checkpoint: &'c Checkpoint,
    /// Tokens of each row.
    lengths: Vec<usize>,
    rope: RotaryEmbedding<F>,
    /// The residual stream, `[tokens of all rows, hidden]`.
    pub residual: Array2<F>,
}

/// The input of a layer's experts.
pub struct MoeInput<F> {
    normed: Array2<F>,
    /// Router scores, `[tokens, experts]`.
    pub scores: Array2<F>,
}

impl<'c, F: Real> Pass<'c, F> {
    /// Embeds the tokens.
    pub fn new(checkpoint: &'c Checkpoint, rows: &[Vec<u32>]) -> Result<Self> {
        let (config, weights) = (&checkpoint.config, &checkpoint.weights);
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let longest = lengths.iter().max().copied().unwrap_or_default();
        let rope = RotaryEmbedding::new(&config.rope, config.head_dim, longest);
        Ok(Self { checkpoint, lengths, rope, residual: embed(&weights.embedding, rows)? })
    }

    /// Adds the attention of layer `n`, and computes its router scores.
    pub fn attention(&mut self, n: usize, progress: &dyn Progress) -> Result<MoeInput<F>> {
        let LayerWeights { attn, mlp } = &self.checkpoint.weights.layers[n];
        let config = &self.checkpoint.config;
        let window = config.windows[n];
        let normed = self.norm(&attn.norm)?;
        let attention = Attention { weights: attn, config, window, rope: &self.rope };
        self.residual += &attention.output(&normed.view(), &self.lengths, progress)?;
        let normed = self.norm(&mlp.norm)?;
        let scores = linear(&normed.view(), &mlp.router)?;
        Ok(MoeInput { normed, scores })
    }

    /// Adds the output of the experts of layer `n` that were chosen for each token.
    pub fn experts(
        &mut self,
        n: usize,
        MoeInput { normed, scores }: &MoeInput<F>,
        chosen: &[Vec<usize>],
        progress: &dyn Progress,
    ) -> Result<MoeOutput<F>> {
        let weights = &self.checkpoint.weights.layers[n].mlp;
        let moe = Moe { weights, config: &self.checkpoint.config };
        let output = moe.output(&normed.view(), scores, chosen, progress)?;
        self.residual += &output.sum;
        Ok(output)
    }

    /// The input of lm_head, `[tokens, hidden]`.
    pub fn finish(&self) -> Result<Array2<F>> {
        self.norm(&self.checkpoint.weights.norm)
    }

    /// RMSNorm of each row: `x / √(mean(x²) + ε) · scale`.
    fn norm(&self, scale: &Weight) -> Result<Array2<F>> {
        let scale = WeightReader::default().vector(scale)?;
        let epsilon = self.checkpoint.config.rms_norm_eps;
        let [width, epsilon] = [self.residual.ncols() as f64, epsilon].map(F::of);
        let mut normed = self.residual.clone();
        for mut row in normed.rows_mut() {
            let mean = row.iter().map(|x| *x * *x).sum::<F>() / width;
            let factor = F::one() / (mean + epsilon).sqrt();
            row.zip_mut_with(&scale, |x, scale| *x = *x * factor * *scale);
        }
        Ok(normed)
    }
}

/// The logits of some tokens, `[tokens, vocab]`.
pub fn logits<F: Real>(
    checkpoint: &Checkpoint,
    hidden: &Array2<F>,
    tokens: &[usize],
) -> Result<Array2<F>> {
    product(&hidden.select(Axis(0), tokens).view(), &checkpoint.weights.lm_head())
}

/// A row of the table for each token.
fn embed<F: Real>(table: &Weight, rows: &[Vec<u32>]) -> Result<Array2<F>> {
    let (vocab, mut reader) = (table.shape[0], WeightReader::default());
    let mut embedded = Array2::zeros((rows.iter().map(Vec::len).sum(), table.shape[1] as usize));
    let ids = rows.iter().flat_map(|row| row.iter().enumerate());
    for (mut row, (token, id)) in embedded.rows_mut().into_iter().zip(ids) {
        let id = u64::from(*id);
        ensure!(id < vocab, "token {token} of a row is {id}, and the vocabulary has {vocab}");
        row.assign(&reader.rows(table, id..id + 1)?.row(0));
    }
    Ok(embedded)
}

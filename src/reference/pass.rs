//! The forward pass in one floating-point type: its state, embedding, norm, router and lm_head.

use ndarray::Array2;
use serde::Serialize;

use super::matrix::{Real, StoredMatrix};
use super::model::ReferenceModel;
use super::rope::RotaryEmbedding;
use crate::error::{Result, ensure};
use crate::progress::Progress;

/// Rows of tokens on their way through the model.
pub struct Pass<'c, F> {
    pub model: &'c ReferenceModel,
    pub progress: &'c dyn Progress,
    /// Tokens of each row.
    pub lengths: Vec<usize>,
    pub rope: RotaryEmbedding<F>,
    /// The residual stream, `[tokens of all rows, hidden]`.
    pub residual: Array2<F>,
    /// Whether some value reached SwiGLU's limit.
    pub limited: bool,
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
        model: &'c ReferenceModel,
        rows: &[Vec<u32>],
        progress: &'c dyn Progress,
    ) -> Result<Self> {
        let numbers = &model.numbers;
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let longest = lengths.iter().max().copied().unwrap_or_default();
        let rope = RotaryEmbedding::new(numbers, longest);
        let mut ids = Vec::with_capacity(lengths.iter().sum());
        for (token, id) in rows.iter().flat_map(|row| row.iter().enumerate()) {
            let (id, vocab) = (u64::from(*id), numbers.vocab);
            ensure!(id < vocab, "token {token} of a row is {id}, and the vocabulary has {vocab}");
            ids.push(id as usize);
        }
        let residual = model.embedding.rows(&ids)?;
        Ok(Self { model, progress, lengths, rope, residual, limited: false })
    }

    /// The normed input of the experts of layer `n`, and router scores `[tokens, experts]`.
    pub fn router(&self, n: usize) -> Result<[Array2<F>; 2]> {
        let layer = &self.model.layers[n];
        let x = norm(self.model, self.residual.clone(), &layer.experts_norm)?;
        let scores = layer.router.apply(&x)?;
        Ok([x, scores])
    }
}

/// RMSNorm of each row: `x / √(mean(x²) + ε) · scale`.
pub fn norm<F: Real>(
    model: &ReferenceModel,
    mut x: Array2<F>,
    scale: &StoredMatrix,
) -> Result<Array2<F>> {
    let scale = scale.values()?;
    let [width, epsilon] = [x.ncols() as f64, model.numbers.epsilon].map(F::of);
    for mut row in x.rows_mut() {
        let mean = row.iter().map(|x| *x * *x).sum::<F>() / width;
        let factor = F::one() / (mean + epsilon).sqrt();
        row.zip_mut_with(&scale.row(0), |x, scale| *x = *x * factor * *scale);
    }
    Ok(x)
}

/// The logits of tokens by their residual stream after all layers, `[tokens, vocab]`.
pub fn logits<F: Real>(model: &ReferenceModel, residual: Array2<F>) -> Result<Array2<F>> {
    model.lm_head.apply(&norm(model, residual, &model.norm)?)
}

//! The experts: each one that some token uses is decoded once, for its tokens alone.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::linear::expert_linear;
use super::real::Real;
use super::routing::shares;
use super::weight_reader::WeightReader;
use crate::checkpoint::{Config, MlpWeights};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// `alpha` of SwiGLU's `gate · σ(alpha · gate)`.
const ALPHA: f64 = 1.702;

/// The experts of a layer.
pub struct Moe<'w> {
    pub weights: &'w MlpWeights,
    pub config: &'w Config,
}

/// A token that an expert takes, and the expert's share of its sum.
struct Assignment<F> {
    token: usize,
    share: F,
}

/// What the experts of a layer compute.
pub struct MoeOutput<F> {
    /// Added to the residual stream, `[tokens, hidden]`.
    pub sum: Array2<F>,
    /// Number of experts that some token uses.
    pub used: usize,
    /// Whether some value reached SwiGLU's limit.
    pub limited: bool,
}

impl Moe<'_> {
    /// The sum of the chosen experts' outputs for the normed `x [tokens, hidden]`, by router
    /// scores `[tokens, experts]`.
    pub fn output<F: Real>(
        &self,
        x: &ArrayView2<F>,
        scores: &Array2<F>,
        chosen: &[Vec<usize>],
        progress: &dyn Progress,
    ) -> Result<MoeOutput<F>> {
        let mut experts: Vec<Vec<Assignment<F>>> =
            (0..scores.ncols()).map(|_| Vec::new()).collect();
        for (token, (scores, chosen)) in scores.rows().into_iter().zip(chosen).enumerate() {
            for (expert, share) in chosen.iter().zip(shares(scores, chosen)) {
                experts[*expert].push(Assignment { token, share });
            }
        }
        let used = experts.into_iter().enumerate().filter(|(_, tokens)| !tokens.is_empty());
        let used: Vec<_> = used.collect();
        let one = |(expert, assignments): &(usize, Vec<Assignment<F>>)| {
            if progress.is_cancelled() {
                return Err(Error::interrupted());
            }
            let tokens: Vec<usize> = assignments.iter().map(|it| it.token).collect();
            self.expert(&x.select(Axis(0), &tokens).view(), *expert as u64)
        };
        let outputs = used.par_iter().map(one).collect::<Result<Vec<_>>>()?;
        let limited = outputs.iter().any(|(_, limited)| *limited);
        // In the order of experts, so that sums do not depend on the threads.
        let mut sum = Array2::zeros(x.raw_dim());
        for ((_, assignments), (outputs, _)) in used.iter().zip(outputs) {
            for (assignment, output) in assignments.iter().zip(outputs.rows()) {
                sum.row_mut(assignment.token).scaled_add(assignment.share, &output);
            }
        }
        Ok(MoeOutput { sum, used: used.len(), limited })
    }

    /// `x [n, hidden]` through one expert, and whether a value reached the limit.
    fn expert<F: Real>(&self, x: &ArrayView2<F>, expert: u64) -> Result<(Array2<F>, bool)> {
        let mut reader = WeightReader::default();
        let gate_up = expert_linear(x, &self.weights.gate_up, expert, &mut reader)?;
        let [limit, alpha] = [self.config.swiglu_limit, ALPHA].map(F::of);
        let inner = (gate_up.nrows(), gate_up.ncols() / 2);
        let inner = Array2::from_shape_fn(inner, |(token, at)| {
            let (gate, up) = (gate_up[[token, 2 * at]], gate_up[[token, 2 * at + 1]]);
            // Comparisons keep NaN, which `min` would replace by the limit.
            let gate = if gate > limit { limit } else { gate };
            let up = if up > limit { limit } else { up };
            let up = if up < -limit { -limit } else { up };
            gate / (F::one() + (-alpha * gate).exp()) * (up + F::one())
        });
        let beyond = |(at, value): (usize, &F)| *value > limit || at % 2 == 1 && *value < -limit;
        let limited = gate_up.rows().into_iter().any(|row| row.iter().enumerate().any(beyond));
        let output = expert_linear(&inner.view(), &self.weights.down, expert, &mut reader)?;
        Ok((output, limited))
    }
}

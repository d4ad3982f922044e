//! The experts: each one that some token uses is decoded once, for its tokens alone.

use std::collections::BTreeMap;

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::linear::linear;
use super::pass::Pass;
use super::routing::shares;
use super::weight_reader::Real;
use crate::error::Result;

/// `alpha` of SwiGLU's `gate · σ(alpha · gate)`.
const ALPHA: f64 = 1.702;

impl<F: Real> Pass<'_, F> {
    /// Adds the output of the experts of layer `n` that were chosen for each token, by
    /// [`Pass::router`].
    pub fn experts(
        &mut self,
        n: usize,
        [x, scores]: &[Array2<F>; 2],
        chosen: &[Vec<usize>],
    ) -> Result<()> {
        // The tokens of each expert, and its share of their sums.
        let mut used: BTreeMap<usize, Vec<(usize, F)>> = BTreeMap::new();
        for (token, chosen) in chosen.iter().enumerate() {
            for (expert, share) in chosen.iter().zip(shares(scores.row(token), chosen)) {
                used.entry(*expert).or_default().push((token, share));
            }
        }
        let one = |(expert, tokens): (&usize, &Vec<(usize, F)>)| {
            self.progress.check_cancelled()?;
            let tokens: Vec<usize> = tokens.iter().map(|(token, _)| *token).collect();
            self.expert(n, *expert as u64, &x.select(Axis(0), &tokens))
        };
        let outputs = used.par_iter().map(one).collect::<Result<Vec<_>>>()?;
        // In the order of experts, so that sums do not depend on the threads.
        let mut sum = Array2::zeros(x.raw_dim());
        for (tokens, (outputs, limited)) in used.values().zip(outputs) {
            for ((token, share), output) in tokens.iter().zip(outputs.rows()) {
                sum.row_mut(*token).scaled_add(*share, &output);
            }
            self.coverage.limited |= limited;
        }
        self.coverage.used += used.len();
        self.residual += &sum;
        Ok(())
    }

    /// `x [n, hidden]` through one expert, and whether a value reached SwiGLU's limit.
    fn expert(&self, n: usize, expert: u64, x: &Array2<F>) -> Result<(Array2<F>, bool)> {
        let mlp = &self.checkpoint.weights.layers[n].mlp;
        let gate_up = linear(x, &mlp.gate_up.matrix, Some(&mlp.gate_up.bias), expert)?;
        let [limit, alpha] = [self.checkpoint.config.swiglu_limit, ALPHA].map(F::of);
        let mut limited = false;
        let inner = (gate_up.nrows(), gate_up.ncols() / 2);
        let inner = Array2::from_shape_fn(inner, |(token, at)| {
            let (gate, up) = (gate_up[[token, 2 * at]], gate_up[[token, 2 * at + 1]]);
            limited |= gate > limit || up > limit || up < -limit;
            // Comparisons keep NaN, which `min` would replace by the limit.
            let gate = if gate > limit { limit } else { gate };
            let up = if up > limit { limit } else { up };
            let up = if up < -limit { -limit } else { up };
            gate / (F::one() + (-alpha * gate).exp()) * (up + F::one())
        });
        Ok((linear(&inner, &mlp.down.matrix, Some(&mlp.down.bias), expert)?, limited))
    }
}

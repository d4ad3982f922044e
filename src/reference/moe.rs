//! The experts: each one that some token uses is decoded once, for its tokens alone.

use std::collections::BTreeMap;

use ndarray::{Array2, Axis, Slice};
use rayon::prelude::*;

use super::matrix::Real;
use super::pass::Pass;
use super::routing::shares;
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
            self.expert(n, *expert, &x.select(Axis(0), &tokens))
        };
        let outputs = used.par_iter().map(one).collect::<Result<Vec<_>>>()?;
        // In the order of experts, so that sums do not depend on the threads.
        let mut sum = Array2::zeros(x.raw_dim());
        for (tokens, (outputs, limited)) in used.values().zip(outputs) {
            for ((token, share), output) in tokens.iter().zip(outputs.rows()) {
                sum.row_mut(*token).scaled_add(*share, &output);
            }
            self.limited |= limited;
        }
        self.residual += &sum;
        Ok(())
    }

    /// `x [n, hidden]` through one expert, and whether a value reached SwiGLU's limit.
    fn expert(&self, n: usize, expert: usize, x: &Array2<F>) -> Result<(Array2<F>, bool)> {
        let expert = &self.model.layers[n].experts[expert];
        let both = expert.gate_up.apply(x)?;
        let halves = [0, 1].map(|first| both.slice_axis(Axis(1), Slice::new(first, None, 2)));
        let [limit, alpha] = [self.model.numbers.swiglu_limit, ALPHA].map(F::of);
        let mut limited = false;
        let inner = Array2::from_shape_fn(halves[0].raw_dim(), |(token, at)| {
            let [gate, up] = halves.map(|half| half[[token, at]]);
            limited |= gate > limit || up > limit || up < -limit;
            // Comparisons keep NaN, which `min` would replace by the limit.
            let gate = if gate > limit { limit } else { gate };
            let up = if up > limit { limit } else { up };
            let up = if up < -limit { -limit } else { up };
            gate / (F::one() + (-alpha * gate).exp()) * (up + F::one())
        });
        Ok((expert.down.apply(&inner)?, limited))
    }
}

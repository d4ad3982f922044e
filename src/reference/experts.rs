//! The experts: each that some token uses is decoded once, and sees its tokens
//! alone.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::linear::expert_linear;
use super::real::Real;
use super::routing::shares;
use super::stored::Stored;
use super::{Error, Result};
use crate::checkpoint::{Config, MlpWeights};
use crate::progress::Progress;

/// How steep the sigmoid of SwiGLU is.
const SLOPE: f64 = 1.702;

/// That an expert takes a token, and with which share of the sum.
struct Use<F> {
    token: usize,
    share: F,
}

/// What experts make.
pub struct Mixed<F> {
    /// What is added to the residual stream, `[tokens, hidden]`.
    pub sum: Array2<F>,
    /// How many experts some token uses.
    pub used: usize,
    /// Whether some number reached SwiGLU's limit.
    pub limited: bool,
}

/// What the experts that were chosen for each token add to the residual stream:
/// `x [tokens, hidden]`, normed, to the same, by `scores [tokens, experts]`.
pub fn mix<F: Real>(
    x: &ArrayView2<F>,
    scores: &Array2<F>,
    chosen: &[Vec<usize>],
    weights: &MlpWeights,
    config: &Config,
    progress: &dyn Progress,
) -> Result<Mixed<F>> {
    let mut uses: Vec<Vec<Use<F>>> = (0..scores.ncols()).map(|_| Vec::new()).collect();
    for (token, (scores, chosen)) in scores.rows().into_iter().zip(chosen).enumerate() {
        for (expert, share) in chosen.iter().zip(shares(scores, chosen)) {
            uses[*expert].push(Use { token, share });
        }
    }
    let used: Vec<_> = uses.into_iter().enumerate().filter(|(_, uses)| !uses.is_empty()).collect();
    let one = |(expert, uses): &(usize, Vec<Use<F>>)| {
        if progress.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let tokens: Vec<usize> = uses.iter().map(|taken| taken.token).collect();
        output(&x.select(Axis(0), &tokens).view(), *expert as u64, weights, config)
    };
    let outputs = used.par_iter().map(one).collect::<Result<Vec<_>>>()?;
    let limited = outputs.iter().any(|(_, limited)| *limited);
    // In the order of experts, so that a sum does not depend on which was done first.
    let mut sum = Array2::zeros(x.raw_dim());
    for ((_, uses), (outputs, _)) in used.iter().zip(outputs) {
        for (taken, output) in uses.iter().zip(outputs.rows()) {
            sum.row_mut(taken.token).scaled_add(taken.share, &output);
        }
    }
    Ok(Mixed { sum, used: used.len(), limited })
}

/// `x [n, hidden]` through one expert, and whether a number reached the limit.
fn output<F: Real>(
    x: &ArrayView2<F>,
    expert: u64,
    weights: &MlpWeights,
    config: &Config,
) -> Result<(Array2<F>, bool)> {
    let mut stored = Stored::default();
    let both = expert_linear(x, &weights.gate_up, expert, &mut stored)?;
    let [limit, slope] = [config.swiglu_limit, SLOPE].map(F::of);
    let pair = |token: usize, at: usize| (both[[token, 2 * at]], both[[token, 2 * at + 1]]);
    let inner = Array2::from_shape_fn((both.nrows(), both.ncols() / 2), |(token, at)| {
        let (gate, up) = pair(token, at);
        // Comparisons and not `min`, which takes the limit for NaN.
        let gate = if gate > limit { limit } else { gate };
        let up = if up > limit { limit } else { up };
        let up = if up < -limit { -limit } else { up };
        gate / (F::one() + (-slope * gate).exp()) * (up + F::one())
    });
    let beyond = |(at, number): (usize, &F)| *number > limit || at % 2 == 1 && *number < -limit;
    let limited = both.rows().into_iter().any(|row| row.iter().enumerate().any(beyond));
    Ok((expert_linear(&inner.view(), &weights.down, expert, &mut stored)?, limited))
}

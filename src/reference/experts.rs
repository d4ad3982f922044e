//! The experts: each that some token uses is decoded once, and sees its tokens
//! alone.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use super::linear::{expert_linear, linear};
use super::stored::Stored;
use super::{Error, Result};
use crate::checkpoint::{Config, MlpWeights};
use crate::progress::Progress;

/// How steep the sigmoid of SwiGLU is.
const SLOPE: f32 = 1.702;

/// That an expert takes a token, and with which share of the sum.
struct Use {
    expert: u64,
    token: usize,
    share: f32,
}

/// By how much a token's last chosen expert is ahead of the first that is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    /// The two experts, the chosen one first.
    pub experts: [usize; 2],
    /// The difference of their scores, divided by the largest score's magnitude;
    /// infinite where every expert is chosen.
    pub relative: f32,
}

/// What [`mix`] makes.
pub struct Mixed {
    /// What is added to the residual stream, `[tokens, hidden]`.
    pub sum: Array2<f32>,
    /// For each token, how its choice was decided.
    pub margins: Vec<Margin>,
    /// How many experts some token uses.
    pub used: usize,
}

/// What the experts add to the residual stream: `x [tokens, hidden]`, normed, to
/// the same. The tokens in `swapped` take the first expert that was not chosen for
/// the last that was.
pub fn mix(
    x: &ArrayView2<f32>,
    weights: &MlpWeights,
    config: &Config,
    swapped: &[usize],
    progress: &dyn Progress,
) -> Result<Mixed> {
    let scores = linear(x, &weights.router)?;
    let mut uses: Vec<Vec<Use>> = (0..scores.ncols()).map(|_| Vec::new()).collect();
    let mut margins = Vec::with_capacity(x.nrows());
    for (token, scores) in scores.rows().into_iter().enumerate() {
        let (order, margin) = rank(scores, config.experts_per_token, swapped.contains(&token));
        margins.push(margin);
        for (expert, share) in order.iter().zip(softmax(scores, &order)) {
            uses[*expert].push(Use { expert: *expert as u64, token, share });
        }
    }
    uses.retain(|uses| !uses.is_empty());
    let one = |uses: &Vec<Use>| {
        if progress.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let tokens: Vec<usize> = uses.iter().map(|taken| taken.token).collect();
        expert(&x.select(Axis(0), &tokens).view(), uses[0].expert, weights, config)
    };
    let outputs = uses.par_iter().map(one).collect::<Result<Vec<_>>>()?;
    // In the order of experts, so that a sum does not depend on which was done first.
    let mut sum = Array2::zeros(x.raw_dim());
    for (uses, outputs) in uses.iter().zip(outputs) {
        for (taken, output) in uses.iter().zip(outputs.rows()) {
            sum.row_mut(taken.token).scaled_add(taken.share, &output);
        }
    }
    Ok(Mixed { sum, margins, used: uses.len() })
}

/// The experts with the largest scores, of equal ones the first.
fn rank(scores: ArrayView1<f32>, count: u64, swapped: bool) -> (Vec<usize>, Margin) {
    let count = count as usize;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|one, other| scores[*other].total_cmp(&scores[*one]));
    let last = order[count - 1];
    let margin = match order.get(count) {
        Some(next) => {
            let largest =
                scores.iter().fold(f32::MIN_POSITIVE, |most, score| most.max(score.abs()));
            Margin { experts: [last, *next], relative: (scores[last] - scores[*next]) / largest }
        }
        None => Margin { experts: [last; 2], relative: f32::INFINITY },
    };
    if swapped && count < order.len() {
        order.swap(count - 1, count);
    }
    order.truncate(count);
    (order, margin)
}

/// The softmax of the chosen experts' scores alone.
fn softmax(scores: ArrayView1<f32>, chosen: &[usize]) -> Vec<f32> {
    let largest = scores[chosen[0]];
    let weights: Vec<f32> = chosen.iter().map(|expert| (scores[*expert] - largest).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// `x [n, hidden]` through one expert.
fn expert(
    x: &ArrayView2<f32>,
    expert: u64,
    weights: &MlpWeights,
    config: &Config,
) -> Result<Array2<f32>> {
    let mut stored = Stored::default();
    let both = expert_linear(x, &weights.gate_up, expert, &mut stored)?;
    let limit = config.swiglu_limit as f32;
    let inner = Array2::from_shape_fn((both.nrows(), both.ncols() / 2), |(token, at)| {
        // Not `min`, which takes the limit for NaN.
        let gate = both[[token, 2 * at]].clamp(f32::NEG_INFINITY, limit);
        let up = both[[token, 2 * at + 1]].clamp(-limit, limit);
        gate / (1.0 + (-SLOPE * gate).exp()) * (up + 1.0)
    });
    expert_linear(&inner.view(), &weights.down, expert, &mut stored)
}

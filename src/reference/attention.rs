//! Attention: one row of tokens and one query head at a time.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use super::linear::linear;
use super::real::Real;
use super::rope::Rotation;
use super::stored::Stored;
use super::{Error, Result};
use crate::checkpoint::{AttentionWeights, Config};
use crate::progress::Progress;

/// Queries whose scores are computed at once.
const QUERIES: usize = 64;

/// What attention adds to the residual stream: `x [tokens, hidden]`, normed, to
/// the same. `lengths` are those of the rows that the tokens are of.
pub fn attend<F: Real>(
    x: &ArrayView2<F>,
    weights: &AttentionWeights,
    config: &Config,
    window: Option<u64>,
    rotation: &Rotation<F>,
    lengths: &[usize],
    progress: &dyn Progress,
) -> Result<Array2<F>> {
    let width = config.head_dim as usize;
    let (heads, kv) = (config.num_heads as usize, config.num_kv_heads as usize);
    let parts = weights.qkv.iter().map(|part| linear(x, part)).collect::<Result<Vec<_>>>()?;
    let parts: Vec<ArrayView2<F>> = parts.iter().map(|part| part.view()).collect();
    let qkv = concatenate(Axis(1), &parts).expect("a row for each token");
    let sinks: Array1<F> = Stored::default().vector(&weights.sinks)?;

    let window = window.map_or(usize::MAX, |window| window as usize);
    let mut mixed = Array2::zeros((x.nrows(), heads * width));
    let mut start = 0;
    for length in lengths {
        let row = qkv.slice_axis(Axis(0), (start..start + length).into());
        let part = |at: usize| row.slice_axis(Axis(1), (at * width..(at + 1) * width).into());
        let keys: Vec<Array2<F>> = (0..kv).map(|at| rotation.turned(&part(heads + at))).collect();
        let head = |at: usize| {
            let (queries, group) = (rotation.turned(&part(at)), at / (heads / kv));
            let head = Head { queries, keys: keys[group].view(), values: part(heads + kv + group) };
            head.mixed(sinks[at], window, progress)
        };
        let all = (0..heads).into_par_iter().map(head).collect::<Result<Vec<_>>>()?;
        let all: Vec<ArrayView2<F>> = all.iter().map(|values| values.view()).collect();
        let values = concatenate(Axis(1), &all).expect("a row for each token");
        mixed.slice_axis_mut(Axis(0), (start..start + length).into()).assign(&values);
        start += length;
    }
    linear(&mixed.view(), &weights.out)
}

/// One query head with the keys and values of its group, `[T, D]` each.
struct Head<'h, F> {
    queries: Array2<F>,
    keys: ArrayView2<'h, F>,
    values: ArrayView2<'h, F>,
}

impl<F: Real> Head<'_, F> {
    /// Values mixed by the softmax of scores over the keys that a query may see:
    /// itself and those before it, as many as the window has. The sink takes its
    /// share of the softmax and gives nothing.
    fn mixed(&self, sink: F, window: usize, progress: &dyn Progress) -> Result<Array2<F>> {
        let (length, width) = self.queries.dim();
        let mut mixed = Array2::zeros((length, width));
        for start in (0..length).step_by(QUERIES) {
            if progress.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let here = start..length.min(start + QUERIES);
            let seen = (start + 1).saturating_sub(window)..here.end;
            let part = |x: &ArrayView2<F>| x.slice_axis(Axis(0), seen.clone().into()).to_owned();
            let queries = self.queries.slice_axis(Axis(0), here.clone().into());
            let mut shares = queries.dot(&part(&self.keys).t()) / F::of((width as f64).sqrt());
            for (position, mut shares) in here.clone().zip(shares.rows_mut()) {
                let visible = (position + 1).saturating_sub(window)..position + 1;
                let shares = shares.as_slice_mut().expect("a row lies in one piece");
                let [begin, end] = [visible.start, visible.end].map(|key| key - seen.start);
                shares[..begin].fill(F::zero());
                shares[end..].fill(F::zero());
                softmax(&mut shares[begin..end], sink);
            }
            mixed.slice_axis_mut(Axis(0), here.into()).assign(&shares.dot(&part(&self.values)));
        }
        Ok(mixed)
    }
}

/// Scores to the shares that a sink leaves them.
fn softmax<F: Real>(scores: &mut [F], sink: F) {
    let largest = scores.iter().copied().fold(sink, F::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum = scores.iter().copied().sum::<F>() + (sink - largest).exp();
    scores.iter_mut().for_each(|score| *score /= sum);
}

//! Attention: one row of tokens and one query head at a time.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use super::Result;
use super::linear::linear;
use super::rope::Rotation;
use super::stored::Stored;
use crate::checkpoint::{AttentionWeights, Config};

/// Queries whose scores are computed at once.
const QUERIES: usize = 64;

/// What attention adds to the residual stream: `x [tokens, hidden]`, normed, to
/// the same. `lengths` are those of the rows that the tokens are of.
pub fn attend(
    x: &ArrayView2<f32>,
    weights: &AttentionWeights,
    config: &Config,
    window: Option<u64>,
    rotation: &Rotation,
    lengths: &[usize],
) -> Result<Array2<f32>> {
    let width = config.head_dim as usize;
    let (heads, kv) = (config.num_heads as usize, config.num_kv_heads as usize);
    let parts = weights.qkv.iter().map(|part| linear(x, part)).collect::<Result<Vec<_>>>()?;
    let parts: Vec<ArrayView2<f32>> = parts.iter().map(|part| part.view()).collect();
    let qkv = concatenate(Axis(1), &parts).expect("a row for each token");
    let sinks: Array1<f32> = Stored::default().vector(&weights.sinks)?;

    let window = window.map_or(usize::MAX, |window| window as usize);
    let mut mixed = Array2::zeros((x.nrows(), heads * width));
    let mut start = 0;
    for length in lengths {
        let row = qkv.slice_axis(Axis(0), (start..start + length).into());
        let part = |at: usize| row.slice_axis(Axis(1), (at * width..(at + 1) * width).into());
        let keys: Vec<Array2<f32>> = (0..kv).map(|at| rotation.turned(&part(heads + at))).collect();
        let head = |head: usize| {
            let group = head / (heads / kv);
            let queries = rotation.turned(&part(head));
            one_head(&queries, &keys[group], &part(heads + kv + group), sinks[head], window)
        };
        let all: Vec<Array2<f32>> = (0..heads).into_par_iter().map(head).collect();
        let all: Vec<ArrayView2<f32>> = all.iter().map(|values| values.view()).collect();
        let values = concatenate(Axis(1), &all).expect("a row for each token");
        mixed.slice_axis_mut(Axis(0), (start..start + length).into()).assign(&values);
        start += length;
    }
    linear(&mixed.view(), &weights.out)
}

/// Values `[T, D]` mixed by the softmax of scores over the keys that a query may
/// see: itself and those before it, as many as the window has. The sink takes
/// its share of the softmax and gives nothing.
fn one_head(
    queries: &Array2<f32>,
    keys: &Array2<f32>,
    values: &ArrayView2<f32>,
    sink: f32,
    window: usize,
) -> Array2<f32> {
    let (length, scale) = (queries.nrows(), 1.0 / (queries.ncols() as f32).sqrt());
    let mut mixed = Array2::zeros(queries.raw_dim());
    for start in (0..length).step_by(QUERIES) {
        let here = start..length.min(start + QUERIES);
        let seen = (start + 1).saturating_sub(window)..here.end;
        let of = |x: &ArrayView2<f32>| x.slice_axis(Axis(0), seen.clone().into()).to_owned();
        let queries = queries.slice_axis(Axis(0), here.clone().into());
        let mut shares = queries.dot(&of(&keys.view()).t());
        for (position, mut shares) in here.clone().zip(shares.rows_mut()) {
            let visible = (position + 1).saturating_sub(window)..position + 1;
            let shares = shares.as_slice_mut().expect("a row lies in one piece");
            let [begin, end] = [visible.start, visible.end].map(|key| key - seen.start);
            shares[..begin].fill(0.0);
            shares[end..].fill(0.0);
            softmax(&mut shares[begin..end], scale, sink);
        }
        mixed.slice_axis_mut(Axis(0), here.into()).assign(&shares.dot(&of(values)));
    }
    mixed
}

/// Scores, yet to be scaled, to the shares that a sink leaves them.
fn softmax(scores: &mut [f32], scale: f32, sink: f32) {
    scores.iter_mut().for_each(|score| *score *= scale);
    let largest = scores.iter().copied().fold(sink, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum = scores.iter().sum::<f32>() + (sink - largest).exp();
    scores.iter_mut().for_each(|score| *score /= sum);
}

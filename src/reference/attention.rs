//! Attention: one row of tokens and one query head at a time.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use super::linear::linear;
use super::real::Real;
use super::rope::RotaryEmbedding;
use super::weight_reader::WeightReader;
use crate::checkpoint::{AttentionWeights, Config};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Queries whose scores are computed at once.
const QUERIES: usize = 64;

/// The attention of a layer.
pub struct Attention<'w, F> {
    pub weights: &'w AttentionWeights,
    pub config: &'w Config,
    /// Keys that a query sees, itself included.
    pub window: Option<u64>,
    pub rope: &'w RotaryEmbedding<F>,
}

impl<F: Real> Attention<'_, F> {
    /// What is added to the residual stream for the normed `x [tokens of all rows, hidden]`,
    /// with rows of these lengths.
    pub fn output(
        &self,
        x: &ArrayView2<F>,
        lengths: &[usize],
        progress: &dyn Progress,
    ) -> Result<Array2<F>> {
        let Self { weights, config, rope, .. } = self;
        let width = config.head_dim as usize;
        let (heads, kv) = (config.num_heads as usize, config.num_kv_heads as usize);
        let parts = weights.qkv.iter().map(|part| linear(x, part)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<ArrayView2<F>> = parts.iter().map(|part| part.view()).collect();
        let qkv = concatenate(Axis(1), &parts).expect("a row for each token");
        let sinks: Array1<F> = WeightReader::default().vector(&weights.sinks)?;

        let window = self.window.map_or(usize::MAX, |window| window as usize);
        let mut mixed = Array2::zeros((x.nrows(), heads * width));
        let mut start = 0;
        for length in lengths {
            let row = qkv.slice_axis(Axis(0), (start..start + length).into());
            let part = |at: usize| row.slice_axis(Axis(1), (at * width..(at + 1) * width).into());
            let keys: Vec<Array2<F>> = (0..kv).map(|at| rope.rotate(&part(heads + at))).collect();
            let one = |at: usize| {
                let (queries, group) = (rope.rotate(&part(at)), at / (heads / kv));
                let values = part(heads + kv + group);
                let head = Head { queries, keys: keys[group].view(), values };
                head.output(sinks[at], window, progress)
            };
            let outputs = (0..heads).into_par_iter().map(one).collect::<Result<Vec<_>>>()?;
            let outputs: Vec<ArrayView2<F>> = outputs.iter().map(|it| it.view()).collect();
            let outputs = concatenate(Axis(1), &outputs).expect("a row for each token");
            mixed.slice_axis_mut(Axis(0), (start..start + length).into()).assign(&outputs);
            start += length;
        }
        linear(&mixed.view(), &weights.out)
    }
}

/// One query head with the keys and values of its group, `[T, D]` each.
struct Head<'h, F> {
    queries: Array2<F>,
    keys: ArrayView2<'h, F>,
    values: ArrayView2<'h, F>,
}

impl<F: Real> Head<'_, F> {
    /// Values weighted by the softmax of scores over the keys in the window. The sink takes
    /// part in the softmax and adds no value.
    fn output(&self, sink: F, window: usize, progress: &dyn Progress) -> Result<Array2<F>> {
        let (length, width) = self.queries.dim();
        let mut mixed = Array2::zeros((length, width));
        for start in (0..length).step_by(QUERIES) {
            if progress.is_cancelled() {
                return Err(Error::interrupted());
            }
            let here = start..length.min(start + QUERIES);
            let seen = (start + 1).saturating_sub(window)..here.end;
            let part = |x: &ArrayView2<F>| x.slice_axis(Axis(0), seen.clone().into()).to_owned();
            let queries = self.queries.slice_axis(Axis(0), here.clone().into());
            let mut shares = queries.dot(&part(&self.keys).t()) / F::of((width as f64).sqrt());
            for (position, mut row) in here.clone().zip(shares.rows_mut()) {
                let visible = (position + 1).saturating_sub(window)..position + 1;
                let scores = row.as_slice_mut().expect("a contiguous row");
                let [begin, end] = [visible.start, visible.end].map(|key| key - seen.start);
                scores[..begin].fill(F::zero());
                scores[end..].fill(F::zero());
                softmax_with_sink(&mut scores[begin..end], sink);
            }
            mixed.slice_axis_mut(Axis(0), here.into()).assign(&shares.dot(&part(&self.values)));
        }
        Ok(mixed)
    }
}

fn softmax_with_sink<F: Real>(scores: &mut [F], sink: F) {
    let largest = scores.iter().copied().fold(sink, F::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum = scores.iter().copied().sum::<F>() + (sink - largest).exp();
    scores.iter_mut().for_each(|score| *score /= sum);
}

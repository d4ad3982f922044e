//! Attention: one row of tokens and one query head at a time.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::matrix::Real;
use super::pass::{Pass, norm};
use crate::error::Result;
use crate::progress::Progress;

/// Queries whose scores are computed at once.
const QUERIES: usize = 64;

impl<F: Real> Pass<'_, F> {
    /// Adds the attention of layer `n`.
    pub fn attention(&mut self, n: usize) -> Result<()> {
        let (numbers, layer) = (&self.model.numbers, &self.model.layers[n]);
        let width = numbers.head_dim as usize;
        let (heads, kv) = (numbers.heads as usize, numbers.kv_heads as usize);
        let x = norm(self.model, self.residual.clone(), &layer.attention_norm)?;
        let qkv = layer.qkv.apply(&x)?;
        let sinks: Array2<F> = layer.sinks.values()?;
        let window = numbers.windows[n].map_or(usize::MAX, |window| window as usize);

        let mut mixed = Array2::zeros((x.nrows(), heads * width));
        let mut start = 0;
        for length in &self.lengths {
            let tokens = start..start + length;
            let columns = |at: usize| (at * width..(at + 1) * width).into();
            let here = qkv.slice_axis(Axis(0), tokens.clone().into());
            let part = |at: usize| here.slice_axis(Axis(1), columns(at));
            let rotated = |at: usize| self.rope.rotate(&part(at));
            let keys: Vec<Array2<F>> = (heads..heads + kv).map(rotated).collect();
            let one = |at: usize| {
                let group = at / (heads / kv);
                let (keys, values) = (&keys[group], part(heads + kv + group));
                head(&rotated(at), keys, values, sinks[[0, at]], window, self.progress)
            };
            let outputs = (0..heads).into_par_iter().map(one).collect::<Result<Vec<_>>>()?;
            let mut mixed = mixed.slice_axis_mut(Axis(0), tokens.clone().into());
            for (at, output) in outputs.iter().enumerate() {
                mixed.slice_axis_mut(Axis(1), columns(at)).assign(output);
            }
            start = tokens.end;
        }
        self.residual += &layer.out.apply(&mixed)?;
        Ok(())
    }
}

/// For the queries of a head, with the keys and values of its group, `[T, D]` each: values
/// weighted by the softmax of scores over the keys in the window. The sink takes part in the
/// softmax and adds no value.
fn head<F: Real>(
    queries: &Array2<F>,
    keys: &Array2<F>,
    values: ArrayView2<F>,
    sink: F,
    window: usize,
    progress: &dyn Progress,
) -> Result<Array2<F>> {
    let (length, width) = queries.dim();
    let mut mixed = Array2::zeros((length, width));
    for start in (0..length).step_by(QUERIES) {
        progress.check_cancelled()?;
        let end = length.min(start + QUERIES);
        let first = (start + 1).saturating_sub(window);
        let seen = |x: ArrayView2<F>| x.slice_axis(Axis(0), (first..end).into()).to_owned();
        let (keys, values) = (seen(keys.view()), seen(values));
        let mut shares = queries.slice_axis(Axis(0), (start..end).into()).dot(&keys.t());
        shares /= F::of((width as f64).sqrt());
        for (position, mut row) in (start..end).zip(shares.rows_mut()) {
            let scores = row.as_slice_mut().expect("a contiguous row");
            let visible = (position + 1).saturating_sub(window) - first..position + 1 - first;
            scores[..visible.start].fill(F::zero());
            scores[visible.end..].fill(F::zero());
            softmax_with_sink(&mut scores[visible], sink);
        }
        mixed.slice_axis_mut(Axis(0), (start..end).into()).assign(&shares.dot(&values));
    }
    Ok(mixed)
}

fn softmax_with_sink<F: Real>(scores: &mut [F], sink: F) {
    let largest = scores.iter().copied().fold(sink, F::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum = scores.iter().copied().sum::<F>() + (sink - largest).exp();
    scores.iter_mut().for_each(|score| *score /= sum);
}

//! Rotary position embedding with YaRN (Peng et al., 2023), as in OpenAI's implementation.

use std::f64::consts::TAU;

use ndarray::{Array2, ArrayView2};

use super::weight_reader::Real;
use crate::checkpoint::Rope;

/// Cosines and sines of every position and pair of a head's dimensions, `[T, D/2]`.
pub struct RotaryEmbedding<F> {
    cos: Array2<F>,
    sin: Array2<F>,
}

impl<F: Real> RotaryEmbedding<F> {
    /// Angles are float32 products in both types, as the model's definition has it: far from
    /// the beginning their rounding moves logits more than anything else in the model, and is
    /// the same wherever they are computed.
    pub fn new(rope: &Rope, head_dim: u64, positions: usize) -> Self {
        let frequencies = frequencies(rope, head_dim as usize / 2);
        // YaRN sharpens the scores of a stretched context.
        let concentration = if rope.factor > 1.0 { 0.1 * rope.factor.ln() + 1.0 } else { 1.0 };
        let table = |function: fn(f64) -> f64| {
            Array2::from_shape_fn((positions, frequencies.len()), |(position, pair)| {
                let angle = position as f32 * frequencies[pair] as f32;
                F::of(function(f64::from(angle)) * concentration)
            })
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// A head `[T, D]` rotated by its positions: dimension `i` is paired with `i + D/2`.
    pub fn rotate(&self, head: &ArrayView2<F>) -> Array2<F> {
        let half = self.cos.ncols();
        Array2::from_shape_fn(head.raw_dim(), |(position, at)| {
            let pair = at % half;
            let (cos, sin) = (self.cos[[position, pair]], self.sin[[position, pair]]);
            let (first, second) = (head[[position, pair]], head[[position, pair + half]]);
            if at < half { first * cos - second * sin } else { second * cos + first * sin }
        })
    }
}

/// Radians per position. A pair that turns often within the original context keeps its
/// frequency, a slow one has it divided by the factor, and those between are interpolated by
/// the pair's index.
fn frequencies(rope: &Rope, half: usize) -> Vec<f64> {
    // The fractional index of the pair with so many turns within the context.
    let index_of =
        |turns: f64| half as f64 * (rope.initial_context / (turns * TAU)).ln() / rope.theta.ln();
    let (kept, stretched) = (index_of(rope.fast), index_of(rope.slow));
    let frequency = |pair: usize| {
        let plain = rope.theta.powf(-(pair as f64) / half as f64);
        let share = ((pair as f64 - kept) / (stretched - kept)).clamp(0.0, 1.0);
        if rope.factor > 1.0 { plain * (share / rope.factor + 1.0 - share) } else { plain }
    };
    (0..half).map(frequency).collect()
}

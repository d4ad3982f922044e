//! Rotary position embedding with YaRN (Peng et al., 2023), as in OpenAI's implementation.

use std::f64::consts::TAU;

use ndarray::{Array2, ArrayView2};

use super::matrix::Real;
use super::model::{Hyperparameters, Yarn};

/// Cosines and sines of every position and pair of a head's dimensions, `[T, D/2]`.
pub struct RotaryEmbedding<F> {
    cos: Array2<F>,
    sin: Array2<F>,
}

impl<F: Real> RotaryEmbedding<F> {
    /// Angles are float32 products in both types, as the model's definition has it: far from
    /// the beginning their rounding moves logits more than anything else in the model, and is
    /// the same wherever they are computed.
    pub fn new(numbers: &Hyperparameters, positions: usize) -> Self {
        let frequencies = frequencies(numbers);
        // YaRN sharpens the scores of a stretched context.
        let concentration = numbers.yarn.as_ref().map_or(1.0, |yarn| 0.1 * yarn.factor.ln() + 1.0);
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

/// Radians per position. With YaRN a pair that turns often within the original context keeps its
/// frequency, a slow one has it divided by the factor, and those between are interpolated by
/// the pair's index.
fn frequencies(numbers: &Hyperparameters) -> Vec<f64> {
    let (theta, half) = (numbers.theta, numbers.head_dim as usize / 2);
    let plain = |pair: usize| theta.powf(-(pair as f64) / half as f64);
    let Some(Yarn { factor, fast, slow, context }) = numbers.yarn else {
        return (0..half).map(plain).collect();
    };
    // The fractional index of the pair with so many turns within the context.
    let index_of = |turns: f64| half as f64 * (context / (turns * TAU)).ln() / theta.ln();
    let (kept, stretched) = (index_of(fast), index_of(slow));
    let frequency = |pair: usize| {
        let share = ((pair as f64 - kept) / (stretched - kept)).clamp(0.0, 1.0);
        plain(pair) * (share / factor + 1.0 - share)
    };
    (0..half).map(frequency).collect()
}

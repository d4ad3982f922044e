//! Rotary position embedding with YaRN (Peng et al., 2023), as in OpenAI's
//! implementation.

use std::f64::consts::TAU;

use ndarray::{Array2, ArrayView2};

use super::real::Real;
use crate::checkpoint::Rope;

/// Cosines and sines for every position and pair of a head's numbers, `[T, D/2]`.
pub struct Rotation<F> {
    cos: Array2<F>,
    sin: Array2<F>,
}

impl<F: Real> Rotation<F> {
    /// For so many positions. An angle is a float32 product whatever the type, as
    /// the model's definition has it: far from the beginning its rounding turns more
    /// than anything else in the model, and is the same wherever it is computed.
    pub fn new(rope: &Rope, head_dim: u64, positions: usize) -> Self {
        let frequencies = frequencies(rope, head_dim as usize / 2);
        // What is stretched loses entropy, which sharper scores give back.
        let sharpness = if rope.factor > 1.0 { 0.1 * rope.factor.ln() + 1.0 } else { 1.0 };
        let turn = |function: fn(f64) -> f64| {
            Array2::from_shape_fn((positions, frequencies.len()), |(position, pair)| {
                let angle = position as f32 * frequencies[pair] as f32;
                F::of(function(f64::from(angle)) * sharpness)
            })
        };
        Self { cos: turn(f64::cos), sin: turn(f64::sin) }
    }

    /// A head's numbers `[T, D]`, turned by their positions: number `i` of the
    /// first half belongs to number `i` of the second.
    pub fn turned(&self, head: &ArrayView2<F>) -> Array2<F> {
        let half = self.cos.ncols();
        Array2::from_shape_fn(head.raw_dim(), |(position, at)| {
            let pair = at % half;
            let (cos, sin) = (self.cos[[position, pair]], self.sin[[position, pair]]);
            let (first, second) = (head[[position, pair]], head[[position, pair + half]]);
            if at < half { first * cos - second * sin } else { second * cos + first * sin }
        })
    }
}

/// Radians a position. A pair that turns often over the original context keeps
/// its frequency, one that turns seldom has it divided by the factor, and in
/// between it is mixed in proportion to the pair's index.
fn frequencies(rope: &Rope, half: usize) -> Vec<f64> {
    let plain = |pair: usize| rope.theta.powf(-(pair as f64) / half as f64);
    // The index, not rounded, of the pair that turns so often over the context.
    let index_of =
        |turns: f64| half as f64 * (rope.initial_context / (turns * TAU)).ln() / rope.theta.ln();
    let (kept, stretched) = (index_of(rope.fast), index_of(rope.slow));
    let share = |pair: usize| ((pair as f64 - kept) / (stretched - kept)).clamp(0.0, 1.0);
    (0..half)
        .map(|pair| match rope.factor > 1.0 {
            true => plain(pair) * (share(pair) / rope.factor + 1.0 - share(pair)),
            false => plain(pair),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The released models: of 32 pairs those up to 8 turn as they did, those from
    /// 18 on 32 times slower.
    #[test]
    fn the_released_models_frequencies() {
        let rope =
            Rope { theta: 150_000.0, factor: 32.0, initial_context: 4096.0, slow: 1.0, fast: 32.0 };
        let found = frequencies(&rope, 32);
        let plain = |pair: i32| 150_000f64.powf(-f64::from(pair) / 32.0);
        assert_eq!(found[0], 1.0);
        assert!((found[8] / plain(8) - 1.0).abs() < 1e-12);
        assert!((found[18] / plain(18) * 32.0 - 1.0).abs() < 1e-12);
        // (9 - 8.0928) / (17.3980 - 8.0928) of the way.
        let way = 0.9072 / 9.3052;
        assert!((found[9] / plain(9) - (1.0 - way + way / 32.0)).abs() < 1e-4);
    }
}

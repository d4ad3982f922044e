//! Which experts take a token: those with the largest scores in float64.
//!
//! Where scores are closer than float32 can tell, another correct program may choose
//! otherwise. How close that is, is measured: the same scores are computed in float32 too.
//! Within that bound the choices of another program can be followed, and no further.

use std::fmt;

use ndarray::{Array2, ArrayView1};
use serde::Serialize;

use super::matrix::Real;

/// Distance between neighboring float32 numbers, relative to them.
const ULP: f64 = f32::EPSILON as f64;

/// The experts that take each token in each layer, `[layer][token]`. Tokens are counted over
/// all rows.
pub type ExpertChoices = Vec<Vec<Vec<usize>>>;

/// A token of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    pub row: usize,
    pub token: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}, token {}", self.row, self.token)
    }
}

/// A choice of experts that float32 does not decide.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tie {
    pub position: Position,
    pub layer: usize,
    /// Own experts that were dropped for those of another program.
    pub dropped: Vec<usize>,
    /// Experts of another program that were taken for them.
    pub taken: Vec<usize>,
    /// Score of the last chosen expert minus that of the first one left out.
    pub margin: f64,
    /// The margin that float32 could tell.
    pub bound: f64,
}

/// What choices are compared with.
pub struct Rivals<'c> {
    /// Noise of the scores in float32, if it is known.
    pub noise: Option<f64>,
    /// Scores within so many times the noise are ties.
    pub factor: f64,
    /// Choices to follow in ties.
    pub others: Option<&'c [Vec<usize>]>,
}

/// Chooses `count` experts for each token, the best first, by `scores [tokens, experts]` in
/// float64.
pub fn choose(
    layer: usize,
    positions: &[Position],
    scores: &Array2<f64>,
    count: usize,
    Rivals { noise, factor, others }: &Rivals,
) -> (Vec<Vec<usize>>, Vec<Tie>) {
    let bound = noise.map_or(f64::NEG_INFINITY, |noise| factor * noise);
    let (mut chosen, mut ties) = (Vec::with_capacity(positions.len()), Vec::new());
    for (token, (scores, position)) in scores.rows().into_iter().zip(positions).enumerate() {
        let mut own = ranked(scores.iter().copied());
        let rest = own.split_off(count);
        let margin =
            rest.first().map_or(f64::INFINITY, |next| scores[own[count - 1]] - scores[*next]);
        if margin <= bound {
            let other = others.map_or_else(|| own.clone(), |others| others[token].clone());
            let followed = follow(scores, &own, &other, bound);
            if followed.is_some() {
                own = other;
            }
            let [dropped, taken] = followed.unwrap_or_default();
            ties.push(Tie { position: *position, layer, dropped, taken, margin, bound });
        }
        chosen.push(own);
    }
    (chosen, ties)
}

/// The largest difference between scores of two runs, at least a unit in the last place of
/// the largest score.
pub fn noise(scores: &Array2<f64>, single: &Array2<f32>) -> f64 {
    scores.iter().zip(single).fold(0.0, |most, (score, single)| {
        most.max((score - f64::from(*single)).abs()).max(score.abs() * ULP)
    })
}

/// Experts by falling score, of equal ones the first before: so does TopK by definition, and
/// QMoE of onnxruntime 1.32 with experts in MXFP4.
pub fn ranked(scores: impl Iterator<Item = f64>) -> Vec<usize> {
    // In the total order 0 is above -0, and their sum is 0.
    let mut order: Vec<(usize, f64)> = scores.map(|score| score + 0.0).enumerate().collect();
    order.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    order.into_iter().map(|(expert, _)| expert).collect()
}

/// The experts that another choice drops and takes; `None` if it is the same choice, or drops
/// an expert that is ahead of one that it takes by more than the bound.
fn follow(
    scores: ArrayView1<f64>,
    own: &[usize],
    other: &[usize],
    bound: f64,
) -> Option<[Vec<usize>; 2]> {
    let without = |these: &[usize], those: &[usize]| -> Vec<usize> {
        these.iter().filter(|expert| !those.contains(expert)).copied().collect()
    };
    let (dropped, taken) = (without(own, other), without(other, own));
    let score = |expert: &usize| scores[*expert];
    let best = dropped.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
    let worst = taken.iter().map(score).fold(f64::INFINITY, f64::min);
    (!taken.is_empty() && best - worst <= bound).then_some([dropped, taken])
}

/// The softmax of the chosen experts' scores alone.
pub fn shares<F: Real>(scores: ArrayView1<F>, chosen: &[usize]) -> Vec<F> {
    let largest = chosen.iter().map(|expert| scores[*expert]).fold(F::neg_infinity(), F::max);
    let weights: Vec<F> = chosen.iter().map(|expert| (scores[*expert] - largest).exp()).collect();
    let sum: F = weights.iter().copied().sum();
    weights.iter().map(|weight| *weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ndarray::array;

    use super::*;

    /// The second and third expert of the first token are a thousandth apart, as is the
    /// noise.
    #[test]
    fn follows_others_in_ties_only() {
        let scores = array![[3.0, 2.0, 1.999, 0.0], [3.0, 2.0, 1.0, 0.0]];
        let mut single = scores.mapv(|score| score as f32);
        single[[1, 3]] = 0.001;
        let positions = [0, 1].map(|token| Position { row: 0, token });
        for (factor, others, first, swaps) in [
            (2.0, [[2, 0], [0, 2]], [2, 0], vec![[vec![1], vec![2]]]),
            // Too far behind, although another choice at the same token is a tie.
            (2.0, [[0, 3], [1, 0]], [0, 1], vec![[vec![], vec![]]]),
            // Decided.
            (0.5, [[2, 0], [0, 2]], [0, 1], vec![]),
            // Two at once, where all are close.
            (4000.0, [[3, 2], [1, 0]], [3, 2], vec![[vec![0, 1], vec![3, 2]], [vec![], vec![]]]),
        ] {
            let others = others.map(Vec::from);
            let noise = Some(noise(&scores, &single));
            let rivals = Rivals { noise, factor, others: Some(&others) };
            let (chosen, ties) = choose(5, &positions, &scores, 2, &rivals);
            assert_eq!(chosen, [first, [0, 1]], "{others:?}");
            for (token, tie) in ties.iter().enumerate() {
                assert_eq!((tie.layer, tie.position), (5, positions[token]), "{others:?}");
            }
            let found: Vec<_> = ties.into_iter().map(|tie| [tie.dropped, tie.taken]).collect();
            assert_eq!(found, swaps, "{others:?}");
        }
    }

    #[test]
    fn ranks_equal_scores_in_order_and_any_number_of_nans() {
        assert_eq!(ranked([-0.0, 1.0, 0.0, 1.0].into_iter()), [1, 3, 0, 2]);
        let scores = (0..128).map(|at| at * at * 5 % 211);
        let damaged = scores.map(|it| if it % 5 == 0 { f64::NAN } else { f64::from(it) });
        assert_eq!(BTreeSet::from_iter(ranked(damaged)).len(), 128);
    }

    #[test]
    fn equal_scores_choose_the_first_and_are_a_tie() {
        let scores = array![[-0.0, 0.0, 0.0]];
        let rivals = Rivals { noise: Some(0.0), factor: 1.0, others: None };
        let choose = |count| choose(0, &[Position::default()], &scores, count, &rivals);
        let (chosen, ties) = choose(1);
        assert_eq!((&chosen[0], ties[0].margin), (&vec![0], 0.0));
        assert!(choose(3).1.is_empty(), "no expert is left out");
    }
}

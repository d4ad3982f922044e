//! Which token comes next, by the logits of all.

use fastrand::Rng;

use crate::error::{Result, ensure};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 is always the likeliest token.
    pub temperature: f64,
    /// The likeliest tokens of which one is chosen, at least one; all if `None`.
    pub top_k: Option<usize>,
    /// The least probability that these have together; 1 leaves out none.
    pub top_p: f64,
    /// Of the random choices: the same seed makes the same ones.
    pub seed: u64,
}

/// Chooses one token after the other.
pub struct Sampler {
    sampling: Sampling,
    random: Rng,
}

impl Sampler {
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, random: Rng::with_seed(sampling.seed) }
    }

    /// The id of a token. Of equally likely ones the first comes first.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        ensure!(
            logits.iter().all(|logit| logit.is_finite()),
            "the model's logits are infinite or NaN: it is damaged, or its values are too large for how it computes; a verification tells which"
        );
        if temperature == 0.0 {
            let largest = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            return Ok(largest.unwrap_or(0) as u32);
        }
        let mut likeliest: Vec<usize> = (0..logits.len()).collect();
        likeliest.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        likeliest.truncate(top_k.unwrap_or(usize::MAX).max(1));
        let largest = f64::from(logits[likeliest[0]]);
        let weight = |id: &usize| ((f64::from(logits[*id]) - largest) / temperature).exp();
        let mut weights: Vec<f64> = likeliest.iter().map(weight).collect();
        let enough = top_p * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        // Those before which the others have too little together.
        let count = weights.iter().take_while(|weight| {
            let is_needed = sum < enough;
            sum += *weight;
            is_needed
        });
        weights.truncate(count.count().max(1));
        let mut left = self.random.f64() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        Ok(likeliest[chosen.unwrap_or(weights.len() - 1)] as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequencies of 40,000 choices against their definition: `exp(logit / temperature)` of the
    /// likeliest tokens that are left, divided by their sum.
    #[test]
    fn samples_as_defined() {
        const LOGITS: [f32; 5] = [1.0, 3.0, -2.0, 2.0, 3.0];
        const COUNT: usize = 40_000;
        let likely = |temperature: f64, kept: &[usize]| {
            let weight = |id: &usize| (f64::from(LOGITS[*id]) / temperature).exp();
            let sum: f64 = kept.iter().map(weight).sum();
            let is_kept = |id: usize| kept.contains(&id).then(|| weight(&id) / sum);
            (0..LOGITS.len()).map(|id| is_kept(id).unwrap_or(0.0)).collect::<Vec<_>>()
        };
        // At temperature 1 tokens 0 to 4 have 0.054, 0.398, 0.003, 0.147 and 0.398.
        for (temperature, top_k, top_p, kept) in [
            (1.0, None, 1.0, &[0, 1, 2, 3, 4][..]),
            (0.5, None, 1.0, &[0, 1, 2, 3, 4]),
            (2.0, Some(3), 1.0, &[1, 4, 3]),
            (1.0, Some(1), 1.0, &[1]),
            (1.0, Some(9), 0.3, &[1]),
            (1.0, None, 0.5, &[1, 4]),
            (1.0, None, 0.85, &[1, 4, 3]),
            // Of the three likeliest the first two have 0.85.
            (1.0, Some(3), 0.83, &[1, 4]),
            (1.0, None, 0.0, &[1]),
            (0.0, None, 1.0, &[1]),
        ] {
            let sampling = Sampling { temperature, top_k, top_p, seed: 7 };
            let choices = || {
                let mut sampler = Sampler::new(sampling);
                (0..COUNT).map(|_| sampler.choose(&LOGITS).unwrap()).collect::<Vec<_>>()
            };
            let chosen = choices();
            assert_eq!(chosen, choices());
            for (id, expected) in likely(temperature.max(1e-2), kept).into_iter().enumerate() {
                let count = chosen.iter().filter(|it| **it as usize == id).count();
                let found = count as f64 / COUNT as f64;
                assert!((found - expected).abs() < 0.01, "{sampling:?}: {id} {found} {expected}");
            }
        }
        let mut sampler =
            Sampler::new(Sampling { temperature: 1.0, top_k: None, top_p: 1.0, seed: 0 });
        assert!(sampler.choose(&[0.0, f32::NAN]).is_err());
    }
}

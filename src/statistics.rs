//! What text costs a model, and how far its distribution of the next token is from another one.
//!
//! At a position the model gives each token `i` the probability `q_i`, the reference `p_i`; `t` is
//! the token that the text has there.
//!
//! ```text
//! negative log-likelihood   -ln q_t
//! perplexity                exp(mean of -ln q_t)
//! ratio of perplexities     exp(mean of ln p_t - ln q_t)
//! KL divergence             Σ p_i · (ln p_i - ln q_i), in nats
//! change of probability     q_t - p_t
//! ```
//!
//! Standard errors are those of independent positions; neighbors in a text are not quite that.

use std::fmt;

use serde::Serialize;

/// A figure with its standard error, `None` where a sample does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Estimate {
    pub value: f64,
    pub error: Option<f64>,
}

impl Estimate {
    /// The mean, with `√(Σ(x - mean)² / (n - 1) / n)`.
    pub fn mean(sample: &[f64]) -> Self {
        let count = sample.len() as f64;
        let value = sample.iter().sum::<f64>() / count;
        let squares = sample.iter().map(|x| (x - value).powi(2)).sum::<f64>();
        let error = (squares / (count - 1.0) / count).sqrt();
        Self { value, error: (sample.len() > 1).then_some(error) }
    }

    /// `exp(x)`, whose derivative is itself.
    pub fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, error: self.error.map(|error| value * error) }
    }

    /// `√x`, whose derivative is `1 / (2·√x)`.
    pub fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        let error = self.error.map(|error| if value > 0.0 { error / (2.0 * value) } else { 0.0 });
        Self { value, error }
    }

    /// The share of positions at which something holds, with `√(share · (1 - share) / (n - 1))`.
    pub fn share(holds: impl Iterator<Item = bool>) -> Self {
        Self::mean(&holds.map(|it| f64::from(u8::from(it))).collect::<Vec<_>>())
    }

    /// The smallest value that is not below a share `q` of an ascending sample. Its rank varies by
    /// `√(n · q · (1 - q))`, and the error is half of the distance between the values at either
    /// end; a sample that ends before tells none.
    pub fn quantile(ascending: &[f64], q: f64) -> Self {
        let count = ascending.len() as f64;
        let at = |rank: f64| ascending.get((rank - 1.0) as usize).copied();
        let rank = (count * q).ceil().max(1.0);
        let spread = (count * q * (1.0 - q)).sqrt();
        let [low, high] = [(rank - spread).floor(), (rank + spread).ceil()];
        let error = (low >= 1.0).then(|| Some((at(high)? - at(low)?) / 2.0)).flatten();
        Self { value: at(rank).unwrap_or(f64::NAN), error }
    }
}

impl Estimate {
    /// As a percentage.
    pub fn percent(self) -> String {
        let Self { value, error } =
            Self { value: self.value * 100.0, error: self.error.map(|it| it * 100.0) };
        format!("{} %", Self { value, error })
    }
}

impl fmt::Display for Estimate {
    /// With the digits that the error leaves certain, and one more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, error } = *self;
        let is_plain = value == 0.0 || (1e-3..1e6).contains(&value.abs());
        match error.filter(|error| error.is_finite()) {
            Some(error) if is_plain => {
                let digits =
                    if error > 0.0 { (1.0 - error.log10().floor()).clamp(0.0, 8.0) } else { 4.0 };
                let digits = digits as usize;
                write!(f, "{value:.digits$} ± {error:.digits$}")
            }
            Some(error) => write!(f, "{value:.3e} ± {error:.1e}"),
            None if is_plain => write!(f, "{value:.4}"),
            None => write!(f, "{value:.3e}"),
        }
    }
}

/// `ln` of the softmax of a row of logits.
pub fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|x| x - log_sum).collect()
}

/// `Σ p · (ln p - ln q)` of two distributions that are given by their logarithms.
pub fn kl_divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The first token with the largest logit; `None` if a logit is NaN.
pub fn top(logits: &[f64]) -> Option<usize> {
    let best = |best, at| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).reduce(best).filter(|_| logits.iter().all(|logit| !logit.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: Estimate, value: f64, error: f64) {
        assert!((found.value - value).abs() < 1e-12, "{found:?}");
        assert!((found.error.unwrap() - error).abs() < 1e-12, "{found:?}");
    }

    /// By hand: 1, 2, 3, 6 have a mean of 3 and squared distances of 14.
    #[test]
    fn estimates_by_hand() {
        let mean = Estimate::mean(&[1.0, 2.0, 3.0, 6.0]);
        let error = (14f64 / 3.0 / 4.0).sqrt();
        assert_close(mean, 3.0, error);
        assert_close(mean.exp(), 3f64.exp(), 3f64.exp() * error);
        assert_close(mean.sqrt(), 3f64.sqrt(), error / (2.0 * 3f64.sqrt()));
        let share = Estimate::share([true, true, true, false].into_iter());
        assert_close(share, 0.75, (0.75 * 0.25 / 3f64).sqrt());
        assert_eq!(Estimate::mean(&[2.0]), Estimate { value: 2.0, error: None });
        assert_eq!(Estimate::mean(&[0.0, 0.0]).sqrt(), Estimate { value: 0.0, error: Some(0.0) });
    }

    /// Of 1 to 100 the median has rank 50 ± 5, and the 99th percentile has no rank 99 + 1 above
    /// which the sample goes on.
    #[test]
    fn quantiles_of_ranks() {
        let ranks: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_close(Estimate::quantile(&ranks, 0.5), 50.0, 5.0);
        assert_close(Estimate::quantile(&ranks, 0.99), 99.0, 1.0);
        assert_eq!(Estimate::quantile(&ranks, 0.999), Estimate { value: 100.0, error: None });
        assert_eq!(Estimate::quantile(&[7.0], 0.5).value, 7.0);
    }

    /// Probabilities of 1/2, 1/4, 1/4 and of 1/4, 1/2, 1/4.
    #[test]
    fn compares_distributions_by_hand() {
        let ln2 = 2f64.ln();
        let [p, q] = [[ln2, 0.0, 0.0], [7.0, 7.0 + ln2, 7.0]].map(|logits| log_softmax(&logits));
        assert!((p[0] + ln2).abs() < 1e-12 && (q[0] + 2.0 * ln2).abs() < 1e-12);
        assert!((kl_divergence(&p, &q) - 0.25 * ln2).abs() < 1e-12);
        assert_eq!(kl_divergence(&p, &p), 0.0);
        assert_eq!([top(&p), top(&q)], [Some(0), Some(1)]);
        assert_eq!([top(&[0.0, f64::NAN]), top(&[1.0, 1.0])], [None, Some(0)]);
    }
}

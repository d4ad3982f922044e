//! How well a model predicts a text, beside the reference: the figures that llama.cpp's
//! `llama-perplexity --kl-divergence` made common.

use serde::Serialize;

use crate::reference::Position;
use crate::statistics::{Estimate, kl_divergence, top};

/// What a model and the reference say of one token of a text.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// Where the logits are that predict it.
    pub position: Position,
    /// `ln` of the probabilities that the model and the reference give it.
    log_likelihood: [f64; 2],
    /// Of the model's distribution from the reference's, in nats.
    pub kl_divergence: f64,
    /// Whether both have the same likeliest token.
    same_top: bool,
}

/// How well a model predicts a text, and how the reference does.
#[derive(Clone, Debug, Serialize)]
pub struct TextQuality {
    /// Tokens of a window, of which each predicts all but its first.
    pub window: usize,
    /// Predicted tokens, which all figures are of.
    pub predicted: usize,
    /// Of the model.
    pub perplexity: Estimate,
    /// Of the reference.
    pub reference_perplexity: Estimate,
    /// That of the model over that of the reference, token by token: its error is that of the
    /// difference.
    pub perplexity_ratio: Estimate,
    /// Kullback-Leibler divergence of the model from the reference, in nats.
    pub kl_divergence: KlDivergence,
    /// The share of tokens for which both have the same likeliest one.
    pub same_top: Estimate,
    /// Root mean square of the change of the right token's probability.
    pub probability_change: Estimate,
}

/// How the divergence varies over predicted tokens.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct KlDivergence {
    pub mean: Estimate,
    pub median: Estimate,
    /// 99 % are not above it.
    pub p99: Estimate,
    /// 99.9 % are not above it.
    pub p999: Estimate,
    /// A largest value has no standard error.
    pub max: f64,
}

impl Prediction {
    /// Of a token, by `ln` of the distributions of the model and of the reference.
    pub fn new(position: Position, token: u32, model: &[f64], reference: &[f64]) -> Self {
        Self {
            position,
            log_likelihood: [model, reference].map(|it| it[token as usize]),
            kl_divergence: kl_divergence(reference, model),
            same_top: top(model) == top(reference),
        }
    }
}

impl TextQuality {
    /// `None` without predictions. Positions count from the beginning of a window.
    pub fn new(predictions: &[Prediction]) -> Option<Self> {
        let last = predictions.iter().map(|it| it.position.token).max()?;
        let all = |of: fn(&Prediction) -> f64| predictions.iter().map(of).collect::<Vec<f64>>();
        let mut divergences = all(|it| it.kl_divergence);
        let mean = Estimate::mean(&divergences);
        divergences.sort_by(f64::total_cmp);
        let quantile = |q| Estimate::quantile(&divergences, q);
        let kl_divergence = KlDivergence {
            mean,
            median: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: quantile(1.0).value,
        };
        let change = |it: &Prediction| {
            let [model, reference] = it.log_likelihood.map(f64::exp);
            (model - reference).powi(2)
        };
        Some(Self {
            window: last + 2,
            predicted: predictions.len(),
            perplexity: Estimate::mean(&all(|it| -it.log_likelihood[0])).exp(),
            reference_perplexity: Estimate::mean(&all(|it| -it.log_likelihood[1])).exp(),
            perplexity_ratio: Estimate::mean(&all(|it| {
                it.log_likelihood[1] - it.log_likelihood[0]
            }))
            .exp(),
            kl_divergence,
            same_top: Estimate::share(predictions.iter().map(|it| it.same_top)),
            probability_change: Estimate::mean(&all(change)).sqrt(),
        })
    }
}

//! Runs the reference and the model on the same tokens, and compares them.

use std::time::Instant;

use serde::Serialize;

use super::expert_use::ExpertUse;
use super::logits::{LogitComparison, LogitDifferences};
use super::quality::TextQuality;
use super::session::ModelSession;
use super::tolerance::{FACTOR, Tolerance, ToleranceSource, allowed};
use super::trace::Trace;
use crate::error::Result;
use crate::reference::{
    self, ExpertChoices, ExpertCoverage, PassOptions, Position, ReferenceModel, Tie, ranked,
};

/// A model, and what the reference computes with.
pub struct Verifier<'v> {
    pub reference: &'v ReferenceModel,
    pub session: ModelSession<'v>,
    /// How many inner values of the session are the residual stream: the first.
    pub residuals: usize,
    pub tolerance: Tolerance,
    pub seconds: Seconds,
}

/// How a model differs from the reference.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Comparison {
    pub experts: ExpertCoverage,
    #[serde(skip)]
    pub expert_use: ExpertUse,
    pub logits: LogitDifferences,
    /// How well the model predicts the text, if it was given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<TextQuality>,
    pub tolerance: Tolerance,
    pub ties: Ties,
    /// The residual stream, if a trace was requested or most logits are unknown.
    pub trace: Option<Trace>,
    pub seconds: Seconds,
}

/// Choices of experts that float32 does not decide.
///
/// If two experts score the same but for noise, a model may take either, and its logits then
/// differ by far more than noise. That is told from a fault by asking the model: its router
/// scores say what it chose, and the reference follows, in ties and nowhere else. If the model
/// was right, the rest agrees.
#[derive(Clone, Debug, Serialize)]
pub struct Ties {
    /// Their number.
    pub close: usize,
    /// Whose choices the reference took in them.
    pub followed: Followed,
    /// Those in which the model chose otherwise.
    pub flips: Vec<Tie>,
    #[serde(skip)]
    positions: Vec<Position>,
}

/// Whose choices of experts the reference took in ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Followed {
    /// Its own: the model agreed, or ties do not explain the difference.
    NotNeeded,
    /// Its own: the model does not list its router scores.
    NotShown,
    /// The model's.
    TheModel,
}

/// Wall time of each part; comparing logits counts as the reference's.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Seconds {
    pub reference: f64,
    pub weights: f64,
    pub load: f64,
    pub run: f64,
}

/// The seconds since `clock`, which begins anew.
pub fn lap(clock: &mut Instant) -> f64 {
    std::mem::replace(clock, Instant::now()).elapsed().as_secs_f64()
}

impl Comparison {
    /// Whether logits agree, and the residual stream if it is known. A requested tolerance is
    /// one of logits alone.
    pub(super) fn passed(&self) -> bool {
        let departs = self.trace.as_ref().is_some_and(|trace| trace.first.is_some());
        let is_within = self.logits.max <= self.tolerance.bound;
        is_within && (!departs || self.tolerance.from == ToleranceSource::Requested)
    }

    /// Whether there is a tie where the model departs first, in each row by its logits and by the
    /// residual stream, or at an earlier token of the row.
    fn ties_may_explain(&self) -> bool {
        let mut departures = self.logits.first_beyond(self.tolerance.bound);
        let stage = self.trace.as_ref().and_then(Trace::first_beyond);
        departures.extend(stage.map(|(_, stage)| stage.worst));
        let explains = |tie: &Position, it: &Position| tie.row == it.row && tie.token <= it.token;
        self.ties.positions.iter().any(|tie| departures.iter().any(|it| explains(tie, it)))
    }
}

impl Ties {
    fn new(ties: Vec<Tie>, followed: Followed) -> Self {
        let (close, positions) = (ties.len(), ties.iter().map(|tie| tie.position).collect());
        let flips = ties.into_iter().filter(|tie| !tie.taken.is_empty()).collect();
        Self { close, followed, flips, positions }
    }
}

impl Verifier<'_> {
    /// Compares, and if the model departs and ties may be why, once more with the model's own
    /// choices of experts in ties.
    pub fn run(mut self) -> Result<Comparison> {
        let mut comparison = self.compare(Followed::NotNeeded, None)?;
        if comparison.passed() || !comparison.ties_may_explain() {
            return Ok(comparison);
        }
        let routers = self.session.subject.model.routers();
        if routers.is_empty() {
            comparison.ties.followed = Followed::NotShown;
            return Ok(comparison);
        }
        let mut clock = Instant::now();
        self.session = self.session.with_inner(routers)?;
        self.seconds.load += lap(&mut clock);
        let choices = self.choices_of_model()?;
        self.seconds.run += lap(&mut clock);
        self.compare(Followed::TheModel, Some(choices))
    }

    /// Runs both, the reference with these choices of experts in ties.
    fn compare(&mut self, followed: Followed, follow: Option<ExpertChoices>) -> Result<Comparison> {
        let Self { reference, session, seconds, .. } = self;
        let inputs = session.inputs;
        let mut clock = Instant::now();
        let traced_rows = if self.residuals > 0 { inputs.rows.len() } else { 0 };
        let (with_noise, tie_factor) = (true, FACTOR);
        let options = PassOptions { traced_rows, with_noise, tie_factor, follow };
        let activations = reference::run(reference, &inputs.rows, &options, session.progress)?;
        let mut comparison = LogitComparison::new(&activations, inputs);
        let mut trace = Trace::begin(&activations.residuals);
        seconds.reference += lap(&mut clock);
        session.run(|outputs| {
            seconds.run += lap(&mut clock);
            comparison.add(outputs)?;
            let mut trace = trace.iter_mut();
            trace.try_for_each(|it| it.add(outputs, &activations.residuals, inputs))?;
            seconds.reference += lap(&mut clock);
            Ok(())
        })?;
        seconds.run += lap(&mut clock);
        let (logits, predictions) = comparison.finish()?;
        seconds.reference += lap(&mut clock);

        let mut tolerance = self.tolerance;
        if tolerance.from != ToleranceSource::Requested {
            tolerance.bound = allowed(logits.noise, logits.largest_logit);
        }
        let (experts, quality) = (activations.coverage(), TextQuality::new(&predictions));
        let expert_use = ExpertUse::new(&activations);
        let (ties, seconds) = (Ties::new(activations.ties, followed), *seconds);
        Ok(Comparison { experts, expert_use, logits, quality, tolerance, ties, trace, seconds })
    }

    /// The experts that the model chooses for each token, by its router scores.
    fn choices_of_model(&mut self) -> Result<ExpertChoices> {
        let (reference, inputs) = (self.reference, self.session.inputs);
        let all_tokens = inputs.lengths.iter().sum();
        let mut choices = vec![vec![Vec::new(); all_tokens]; reference.layers.len()];
        self.session.run(|outputs| {
            for (layer, at) in (self.residuals..outputs.inner.len()).enumerate() {
                let experts = reference.layers[layer].experts.len();
                let scores = outputs.by_token(at, experts, "router scores")?;
                for (position, scores) in scores {
                    let choice = &mut choices[layer][inputs.index(position)];
                    // Without a cache a token comes again, and keeps its choice.
                    if choice.is_empty() {
                        *choice = ranked(scores.iter().copied().map(f64::from));
                        choice.truncate(reference.numbers.experts_per_token as usize);
                    }
                }
            }
            Ok(())
        })?;
        Ok(choices)
    }
}

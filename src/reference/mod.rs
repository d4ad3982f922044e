//! A second implementation of GPT-OSS, to check the first: a plain forward pass, written from
//! the model's definition (`gpt_oss/torch/model.py` in openai/gpt-oss) and not from the graph,
//! with which it shares nothing. It reads checkpoints by a reader of its own, [`read`].
//!
//! It runs twice, layer by layer: in float64, which models are compared with, and in float32
//! with the same choices of experts. Their difference is the noise of float32 for this
//! checkpoint and these tokens.
//!
//! Weights are decoded when they are needed and dropped, of the experts those that some token
//! uses. Memory holds a few activations of the tokens that go through the model together, and on
//! each processor some rows of a matrix; of all tokens it holds the end of the residual stream.

mod attention;
mod linear;
mod matrix;
mod model;
mod moe;
mod pass;
mod reading;
mod rope;
mod routing;

use std::error::Error as _;
use std::ops::Range;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

pub use matrix::{EncodedNumbers, Encoding};
pub use model::{Hyperparameters, LayerMatrices, ReferenceModel};
pub use pass::ExpertCoverage;
pub use reading::{AdapterToRead, ReadOptions, read};
pub use routing::{ExpertChoices, Position, Tie, ranked};

use crate::error::{Error, Result};
use crate::progress::{Progress, Unit, phase};
use pass::{Pass, logits};
use routing::{Rivals, choose, noise};

/// Tokens of rows that go through the model together.
const TOKENS: usize = 1024;

/// What to keep and to measure, and whose choices of experts to follow.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// The residual stream of the first rows is kept.
    pub traced_rows: usize,
    /// Whether to run in float32 too. Otherwise no noise is known, and no choice is a tie.
    pub with_noise: bool,
    /// Choices of experts within so many times the noise of float32 are ties.
    pub tie_factor: f64,
    /// Choices to follow in ties.
    pub follow: Option<ExpertChoices>,
}

/// The outcome of a pass over rows of tokens, which do not see each other.
pub struct Activations<'c> {
    /// The residual stream of traced rows: the embedding, then after each layer. Its noise is
    /// relative to the largest magnitude in a token.
    pub residuals: Vec<ExactValues>,
    /// Choices of experts that float32 does not decide, layer by layer.
    pub ties: Vec<Tie>,
    /// How many tokens chose each expert, `[layer][expert]`.
    pub expert_use: Vec<Vec<u64>>,
    /// Whether some value reached SwiGLU's limit.
    limited: bool,
    model: &'c ReferenceModel,
    /// The residual stream after all layers, `[tokens, hidden]`.
    exact: Array2<f64>,
    single: Option<Array2<f32>>,
}

/// What a model should compute.
pub struct ExactValues {
    /// A row for each token.
    pub exact: Array2<f64>,
    /// Noise of float32: the largest difference, 0 if it is not measured.
    pub noise: f64,
}

/// Runs the model on rows of token ids, some rows after the others.
pub fn run<'c>(
    model: &'c ReferenceModel,
    rows: &[Vec<u32>],
    options: &PassOptions,
    progress: &dyn Progress,
) -> Result<Activations<'c>> {
    start_threads()?;
    let groups = groups(rows);
    let bytes: u64 = model.layers.iter().map(LayerMatrices::bytes).sum();
    let total = bytes * groups.len() as u64;
    let _phase = phase(progress, "computing the reference", Unit::Bytes, total);
    let mut found = Activations::new(model, options);
    for group in groups {
        found.add(rows, group, options, progress)?;
    }
    Ok(found)
}

/// Rows that go through the model together, so that they share each decoded matrix: as many as
/// have [`TOKENS`] tokens, and one at least.
fn groups(rows: &[Vec<u32>]) -> Vec<Range<usize>> {
    let (mut groups, mut tokens) = (Vec::<Range<usize>>::new(), 0);
    for (row, ids) in rows.iter().enumerate() {
        tokens += ids.len();
        if let Some(group) = groups.last_mut().filter(|_| tokens <= TOKENS) {
            group.end = row + 1;
        } else {
            groups.push(row..row + 1);
            tokens = ids.len();
        }
    }
    groups
}

/// Starts rayon's threads, which would panic where they cannot be started.
fn start_threads() -> Result<()> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    // An error without a cause says that they run already.
    let failed = started.err().filter(|error| error.source().is_some());
    failed.map_or(Ok(()), |error| Err(Error::no_thread(error)))
}

impl<'c> Activations<'c> {
    fn new(model: &'c ReferenceModel, options: &PassOptions) -> Self {
        let width = model.numbers.hidden as usize;
        Self {
            residuals: Vec::new(),
            ties: Vec::new(),
            expert_use: model.layers.iter().map(|it| vec![0; it.experts.len()]).collect(),
            limited: false,
            model,
            exact: Array2::zeros((0, width)),
            single: options.with_noise.then(|| Array2::zeros((0, width))),
        }
    }

    /// Runs the model on a group of rows.
    fn add(
        &mut self,
        rows: &[Vec<u32>],
        group: Range<usize>,
        options: &PassOptions,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (model, count) = (self.model, self.model.numbers.experts_per_token as usize);
        let (before, ids) = (self.exact.nrows(), &rows[group.clone()]);
        let of_row = |row: usize| (0..rows[row].len()).map(move |token| Position { row, token });
        let positions: Vec<Position> = group.clone().flat_map(of_row).collect();
        let traced = positions.iter().filter(|it| it.row < options.traced_rows).count();
        let mut exact = Pass::<f64>::new(model, ids, progress)?;
        let single = options.with_noise.then(|| Pass::<f32>::new(model, ids, progress));
        let mut single = single.transpose()?;
        self.trace(0, traced, &exact, single.as_ref());
        for (n, layer) in model.layers.iter().enumerate() {
            // One layer in both types, so that its weights come from the disk once.
            exact.attention(n)?;
            single.iter_mut().try_for_each(|it| it.attention(n))?;
            let x = exact.router(n)?;
            let x32 = single.as_ref().map(|it| it.router(n)).transpose()?;
            let tokens = before..before + positions.len();
            let rivals = Rivals {
                noise: x32.as_ref().map(|it| noise(&x[1], &it[1])),
                factor: options.tie_factor,
                others: options.follow.as_ref().map(|choices| &choices[n][tokens]),
            };
            let (chosen, close) = choose(n, &positions, &x[1], count, &rivals);
            exact.experts(n, &x, &chosen)?;
            if let (Some(single), Some(x32)) = (&mut single, x32) {
                single.experts(n, &x32, &chosen)?;
            }
            chosen.into_iter().flatten().for_each(|expert| self.expert_use[n][expert] += 1);
            self.ties.extend(close);
            self.trace(n + 1, traced, &exact, single.as_ref());
            progress.advance(layer.bytes());
        }
        self.limited |= exact.limited;
        append(&mut self.exact, &exact.residual.view());
        if let (Some(all), Some(single)) = (&mut self.single, single) {
            append(all, &single.residual.view());
        }
        Ok(())
    }

    /// Keeps the first tokens of a group's residual stream at a stage.
    fn trace(&mut self, at: usize, tokens: usize, exact: &Pass<f64>, single: Option<&Pass<f32>>) {
        if tokens == 0 {
            return;
        }
        let largest =
            |row: ArrayView1<f64>| row.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let first = exact.residual.slice_axis(Axis(0), (..tokens).into());
        let single = single.map(|it| it.residual.slice_axis(Axis(0), (..tokens).into()));
        let found = ExactValues::new(first.to_owned(), single, largest);
        match self.residuals.get_mut(at) {
            None => self.residuals.push(found),
            Some(all) => {
                append(&mut all.exact, &found.exact.view());
                all.noise = all.noise.max(found.noise);
            }
        }
    }

    /// Experts that each token chose in a layer.
    pub fn experts_per_token(&self) -> u64 {
        self.model.numbers.experts_per_token
    }

    /// How many experts were used, over all layers.
    pub fn coverage(&self) -> ExpertCoverage {
        let used = self.expert_use.iter().flatten().filter(|count| **count > 0).count();
        let there = self.expert_use.iter().map(|layer| layer.len() as u64).sum();
        let (limit, limited) = (self.model.numbers.swiglu_limit, self.limited);
        ExpertCoverage { used, there, limit, limited }
    }

    /// The logits of some tokens, counted over all rows.
    pub fn logits(&self, tokens: &[usize]) -> Result<ExactValues> {
        let exact = logits(self.model, self.exact.select(Axis(0), tokens))?;
        let single = self.single.as_ref().map(|it| it.select(Axis(0), tokens));
        let single = single.map(|it| logits(self.model, it)).transpose()?;
        Ok(ExactValues::new(exact, single.as_ref().map(|it| it.view()), |_| 1.0))
    }
}

fn append<F: Clone>(all: &mut Array2<F>, more: &ArrayView2<F>) {
    all.append(Axis(0), more.view()).expect("rows of one width");
}

impl ExactValues {
    /// Differences count relative to a scale of each row.
    fn new(
        exact: Array2<f64>,
        single: Option<ArrayView2<f32>>,
        scale: fn(ArrayView1<f64>) -> f64,
    ) -> Self {
        let mut noise = 0f64;
        let single = single.iter().flat_map(|it| it.rows());
        for (exact, single) in exact.rows().into_iter().zip(single) {
            let pairs = exact.iter().zip(single);
            let differences = pairs.map(|(exact, single)| (exact - f64::from(*single)).abs());
            noise = noise.max(differences.fold(0.0, f64::max) / scale(exact));
        }
        Self { exact, noise }
    }
}

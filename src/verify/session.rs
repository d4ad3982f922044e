//! A model in onnxruntime, and what it returns for rows of tokens.

use std::time::Instant;

use super::inputs::Inputs;
use super::steps::Step;
use super::subject::Subject;
use crate::error::{Result, ensure};
use crate::exported::{ExportedModel, InnerValue, RunningModel};
use crate::model::Target;
use crate::progress::{Progress, Unit, phase};
use crate::reference::Position;
use crate::runtime::TensorValue;

/// A loaded model, and what it is given.
pub struct ModelSession<'m> {
    pub subject: &'m Subject<'m>,
    pub inputs: &'m Inputs,
    pub progress: &'m dyn Progress,
    /// Inner values that are outputs too.
    inner: Vec<InnerValue>,
    running: RunningModel<'m>,
}

/// What a step returns.
pub struct StepOutputs<'o> {
    model: &'o ExportedModel,
    pub step: &'o Step,
    /// The row of the inputs that is the first of the step.
    first_row: usize,
    /// Wall time.
    pub seconds: f64,
    /// `[rows, width, vocab]`, or `[rows, 1, vocab]`.
    pub logits: &'o [f32],
    /// Inner values, `[rows · width, size]` each.
    pub inner: Vec<&'o [f32]>,
}

impl<'m> ModelSession<'m> {
    /// Loads a model with these inner values as outputs too.
    pub fn load(
        subject: &'m Subject,
        inputs: &'m Inputs,
        inner: Vec<InnerValue>,
        progress: &'m dyn Progress,
    ) -> Result<Self> {
        let Subject { model, library, adapters, .. } = subject;
        let running = RunningModel::load(model, library, &inner, &adapters.factors, progress)?;
        Ok(Self { subject, inputs, progress, inner, running })
    }

    /// The same model for other inputs.
    pub fn with_inputs(self, inputs: &'m Inputs) -> Self {
        Self { inputs, ..self }
    }

    /// Loads the model again with more inner values as outputs. Memory never holds it twice.
    pub fn with_inner(self, more: Vec<InnerValue>) -> Result<Self> {
        let Self { subject, inputs, progress, inner, running } = self;
        drop(running);
        Self::load(subject, inputs, [inner, more].concat(), progress)
    }

    /// Runs all steps of all rows, and hands out what each returns.
    pub fn run(&mut self, mut visit: impl FnMut(&StepOutputs) -> Result<()>) -> Result<()> {
        let inputs = self.inputs;
        let _phase = phase(self.progress, "running the model", Unit::Tokens, inputs.total());
        for (at, rows) in inputs.rows.chunks(inputs.batch).enumerate() {
            self.run_batch(at * inputs.batch, rows, &mut visit)?;
        }
        Ok(())
    }

    /// Runs all steps of the rows of a batch.
    fn run_batch(
        &mut self,
        first_row: usize,
        rows: &[Vec<u32>],
        visit: &mut impl FnMut(&StepOutputs) -> Result<()>,
    ) -> Result<()> {
        let Self { subject, inputs, progress, inner, running } = self;
        let (batch, model) = (rows.len(), &subject.model);
        running.begin(batch, None)?;
        let mut masks = vec![Vec::new(); batch];
        for step in &inputs.steps {
            if !model.signature.cache {
                masks.iter_mut().for_each(Vec::clear);
            }
            // Padding has an id too.
            let mut ids = Vec::with_capacity(batch * step.width());
            for ((mask, tokens), row) in masks.iter_mut().zip(&step.rows).zip(rows) {
                mask.extend(tokens.iter().map(|token| i64::from(token.is_some())));
                ids.extend(tokens.iter().map(|token| token.map_or(0, |it| i64::from(row[it]))));
            }
            let ids = TensorValue::i64(&[batch, step.width()], ids)?;
            let mask = TensorValue::i64(&[batch, masks[0].len()], masks.concat())?;
            let started = Instant::now();
            let values = running.step(&ids, &mask, *progress)?;
            let seconds = started.elapsed().as_secs_f64();
            let inner = inner.iter().map(|it| values.inner(it).values()).collect::<Result<_>>()?;
            let logits = values.logits().values()?;
            visit(&StepOutputs { model, step, first_row, seconds, logits, inner })?;
            progress.advance((batch * step.width()) as u64);
        }
        Ok(())
    }
}

impl StepOutputs<'_> {
    /// The elements of each token in inner value `at`, which has `size` for each; the error
    /// of a smaller one calls it `what`.
    pub fn by_token(&self, at: usize, size: usize, what: &str) -> Result<Vec<(Position, &[f32])>> {
        // The operators of `ort` have the tokens of each row before its padding.
        let is_packed = self.model.options.target == Target::Ort;
        let mut before = vec![0; self.step.rows.len()];
        let one = |(position, column): (Position, usize)| {
            let before = &mut before[position.row];
            let column = if is_packed { *before } else { column };
            *before += 1;
            let start = (position.row * self.step.width() + column) * size;
            Some((self.of_inputs(position), self.inner[at].get(start..start + size)?))
        };
        let tokens: Option<Vec<_>> = self.step.tokens().map(one).collect();
        tokens.ok_or_else(|| self.model.unexpected(format!("{what} of another size")))
    }

    /// The logits of each token that is compared.
    pub fn logits_by_token(&self) -> Result<Vec<(Position, &[f32])>> {
        let vocab = self.model.signature.vocab as usize;
        let (rows, width) = (self.step.rows.len(), self.step.width());
        let columns = self.logits.len() / vocab / rows;
        ensure!(
            self.logits.len() == columns * vocab * rows && [1, width].contains(&columns),
            "the model returned {} logits for {rows} rows of {width} tokens, expected {vocab} for each token or for each row",
            self.logits.len()
        );
        let one = |(position, column): (Position, usize)| {
            let column = if columns == width { column } else { 0 };
            let start = (position.row * columns + column) * vocab;
            (self.of_inputs(position), &self.logits[start..start + vocab])
        };
        Ok(self.step.compared().into_iter().map(one).collect())
    }

    /// The position in the inputs of one in the step.
    fn of_inputs(&self, Position { row, token }: Position) -> Position {
        Position { row: self.first_row + row, token }
    }
}

//! A model that continues one text: its caches, and the logits of what comes next.

use crate::error::{Result, ensure, err};
use crate::exported::{ExportedModel, RunningModel, Signature, StepValues};
use crate::model::Target;
use crate::package::chunk_size;
use crate::progress::{Progress, Unit, phase};
use crate::runtime::TensorValue;

/// Heads of the released models, by which prompts are split: others have fewer.
const NUM_HEADS: u64 = 64;

/// Most tokens in all rows, padding included: a model may claim any fixed size.
const MAX_TOKENS: usize = 1 << 24;

/// A model that has been given a part of a text, in each of its rows.
pub struct Decoder<'d> {
    signature: Signature,
    model: RunningModel<'d>,
    /// The tokens of the mask: all that a cache holds, or those of this step.
    mask: Vec<i64>,
    /// The text so far, for a model without a cache.
    text: Vec<u32>,
    /// Most tokens of a step.
    chunk: usize,
    progress: &'d dyn Progress,
}

/// The logits that a step returns, `[rows, tokens or 1, vocab]`.
pub struct Logits {
    values: StepValues,
    /// Where those of the last token begin.
    start: usize,
    vocab: usize,
}

impl<'d> Decoder<'d> {
    /// Begins a text with a prompt and at most so many more tokens, in a model that is loaded.
    pub fn begin(
        model: &ExportedModel,
        mut running: RunningModel<'d>,
        [prompt, more]: [usize; 2],
        progress: &'d dyn Progress,
    ) -> Result<Self> {
        let signature = model.signature;
        let chunk = match signature.length {
            _ if !signature.cache => usize::MAX,
            Some(length) => length,
            None => chunk_size(NUM_HEADS, (prompt + more) as u64) as usize,
        };
        let (rows, width) = (signature.batch.unwrap_or(1), signature.length.unwrap_or(1));
        let tokens = rows.checked_mul(width.max(prompt));
        ensure!(
            tokens.is_some_and(|tokens| tokens <= MAX_TOKENS),
            "the model computes {rows} rows of {width} tokens at a time, and the limit for a prompt of {prompt} is {MAX_TOKENS} tokens in all: export it with smaller sizes"
        );
        // A step of fixed width has places for padding too.
        let steps = if width == 1 { prompt + more } else { prompt.div_ceil(width) + more };
        let places = steps.saturating_mul(width);
        let is_in_place = model.options.target == Target::Ort;
        running.begin(rows, is_in_place.then_some(places))?;
        let (mask, text) = (Vec::new(), Vec::new());
        Ok(Self { signature, model: running, mask, text, chunk, progress })
    }

    /// Appends a prompt, in steps of a suitable size; returns the logits of what comes next.
    pub fn read(&mut self, prompt: &[u32]) -> Result<Logits> {
        let _phase = phase(self.progress, "reading the prompt", Unit::Tokens, prompt.len() as u64);
        let (rest, last) = prompt.split_at((prompt.len() - 1) / self.chunk * self.chunk);
        for chunk in rest.chunks(self.chunk) {
            self.append(chunk)?;
            self.progress.advance(chunk.len() as u64);
        }
        self.append(last)
    }

    /// Appends some tokens in one step; returns the logits of what comes next.
    pub fn append(&mut self, tokens: &[u32]) -> Result<Logits> {
        let Signature { batch, length, cache, last, .. } = self.signature;
        if !cache {
            self.text.extend(tokens);
            self.mask.clear();
        }
        let tokens = if cache { tokens } else { &self.text };
        let (rows, width) = (batch.unwrap_or(1), length.unwrap_or(tokens.len()));
        let is_token = |column: usize| i64::from(column < tokens.len());
        self.mask.extend((0..width).map(is_token));
        // Padding has an id too.
        let mut ids: Vec<i64> = tokens.iter().copied().map(i64::from).collect();
        ids.resize(width, 0);
        let ids = TensorValue::i64(&[rows, width], ids.repeat(rows))?;
        let mask = TensorValue::i64(&[rows, self.mask.len()], self.mask.repeat(rows))?;
        let values = self.model.step(&ids, &mask, self.progress)?;
        let vocab = self.signature.vocab as usize;
        Ok(Logits { values, start: if last { 0 } else { (tokens.len() - 1) * vocab }, vocab })
    }
}

impl Logits {
    /// `[vocab]`.
    pub fn of_last(&self) -> Result<&[f32]> {
        let rest = self.values.logits().values()?.get(self.start..);
        rest.and_then(|rest| rest.get(..self.vocab)).ok_or_else(|| {
            err!("the model returns fewer logits than it says: it was changed; export it again")
        })
    }
}

//! Random tokens or those of a text, in rows that go through a model.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::request::InputOptions;
use super::steps::{Step, plan_steps};
use super::windows::Windows;
use crate::checkpoint::Config;
use crate::display::{plural, size};
use crate::error::{Result, bail, ensure};
use crate::exported::Signature;
use crate::files::lossy_path;
use crate::memory;
use crate::model::SLACK;
use crate::reference::Position;

/// Rows of tokens, and how they go through a model.
#[derive(Clone, Debug, Serialize)]
pub struct Inputs {
    /// Tokens of each row, the longest first.
    pub lengths: Vec<usize>,
    /// Decode steps of one token, at the end.
    pub decoded: usize,
    #[serde(serialize_with = "count")]
    pub(super) steps: Vec<Step>,
    /// Positions whose logits are compared.
    pub compared: usize,
    /// Seed of random tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The file with the text whose windows are the rows.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "lossy_file")]
    pub text: Option<PathBuf>,
    /// Token ids of each row.
    #[serde(skip)]
    pub(crate) rows: Vec<Vec<u32>>,
    /// Rows that take the steps together.
    #[serde(skip)]
    pub(super) batch: usize,
    #[serde(skip)]
    pub(super) signature: Signature,
}

fn count<S: Serializer>(steps: &[Step], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(steps.len() as u64)
}

#[allow(clippy::ref_option)] // as serde calls it
fn lossy_file<S: Serializer>(file: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    lossy_path(file.as_deref().unwrap_or(Path::new("")), serializer)
}

/// Default number of rows of a model with a mask: padded on neither side, left and right.
const MASKED_ROWS: usize = 3;
/// Default number of decode steps.
const DECODED: usize = 16;
/// The same without a cache, where each is a run from the beginning.
const DECODED_UNCACHED: usize = 4;
/// Default number of tokens beyond the sliding window, of which limited caches drop some.
const BEYOND_WINDOW: usize = 2 * SLACK as usize;
/// Largest default number of tokens.
const MAX_DEFAULT: usize = 8192;
/// Most tokens in all steps together: a model may claim any fixed size.
const MAX_TOTAL: usize = 1 << 24;

/// The keys that a query sees through the widest sliding window of a model, 0 without any, and its
/// context, both in tokens.
pub fn limits(config: &Config) -> [usize; 2] {
    let window = config.windows.iter().flatten().max().copied().unwrap_or_default();
    [window as usize, config.rope.context() as usize]
}

impl Inputs {
    /// Random tokens. Limits are the keys that a query sees through the widest sliding window, and
    /// the tokens of the longest row. By default the longest row goes past the window: most of
    /// it as a prompt, the rest token by token. The others are shorter.
    pub fn random(
        signature: Signature,
        options: InputOptions,
        [window, context]: [usize; 2],
    ) -> Result<Self> {
        let default = signature.batch.unwrap_or(if signature.mask { MASKED_ROWS } else { 1 });
        let batch = options.batch.unwrap_or(default);
        if let Some(fixed) = signature.batch.filter(|fixed| *fixed != batch) {
            bail!("the model takes {fixed} rows, and {batch} were requested: request {fixed}");
        }
        ensure!(batch > 0, "no rows were requested");
        let default = window.saturating_add(BEYOND_WINDOW).min(MAX_DEFAULT);
        let default = signature.longest_row().unwrap_or(default).min(context);
        let tokens = options.tokens.unwrap_or(default);
        signature.check_row(tokens, context)?;
        let default = match (signature.cache, signature.last) {
            (true, _) => DECODED,
            (false, true) => DECODED_UNCACHED,
            (false, false) => 0,
        };
        let decoded = options.decode.unwrap_or(default.min(tokens / 2));
        ensure!(
            decoded < tokens,
            "{decoded} decode steps need a text of more than {decoded} tokens, found {tokens}: request fewer steps or more tokens"
        );
        let steps = 1 + decoded;
        let width = signature.length.unwrap_or(tokens).max(tokens);
        let total = batch.checked_mul(width).and_then(|step| step.checked_mul(steps));
        ensure!(
            total.is_some_and(|total| total <= MAX_TOTAL),
            "{} of {batch} rows of {width} tokens are too many to verify: the limit is {MAX_TOTAL} tokens in all; take fewer of them, or export the model with smaller sizes",
            plural(steps, "step")
        );
        let mut random = fastrand::Rng::with_seed(options.seed);
        let row = |row: usize| {
            let prompt = ((tokens - decoded) * (batch - row)).div_ceil(batch);
            (0..prompt + decoded).map(|_| random.u64(0..signature.vocab) as u32).collect()
        };
        let rows = (0..batch).map(row).collect();
        let seed = Some(options.seed);
        Ok(Self { seed, ..Self::planned(signature, rows, batch, decoded)? })
    }

    /// The windows of a text, one after the other, or as many together as a model of a fixed
    /// number of rows takes. A model that gives the last logits alone takes token by token.
    pub fn of_text(signature: Signature, Windows { file, rows, .. }: &Windows) -> Result<Self> {
        let (batch, tokens) = (signature.batch.unwrap_or(1), rows[0].len());
        ensure!(
            rows.len().is_multiple_of(batch),
            "the model takes {batch} rows at a time, and `{}` has {} of {tokens} tokens: take a text with a multiple of {batch}, or a model without a fixed number of rows",
            file.display(),
            plural(rows.len(), "window")
        );
        ensure!(
            signature.cache || !signature.last,
            "the model has no cache and gives the logits of each last token alone, so a window of {tokens} tokens would take as many passes over all before it: export it with a cache, or with the logits of all tokens"
        );
        let decoded = if signature.last { tokens - 1 } else { 0 };
        let text = Some(file.clone());
        Ok(Self { text, ..Self::planned(signature, rows.clone(), batch, decoded)? })
    }

    /// The first rows that take the steps together, with so many decode steps at the end.
    pub fn first_rows(&self, decoded: usize) -> Result<Self> {
        let rows = self.rows[..self.batch].to_vec();
        Self::planned(self.signature, rows, self.batch, decoded)
    }

    /// Runs of the model for each batch.
    pub fn step_count(&self) -> usize {
        self.steps.len()
    }

    /// Rows of which so many take the steps together; later ones are as long as the first. Refuses
    /// logits that do not fit the free memory.
    fn planned(
        signature: Signature,
        rows: Vec<Vec<u32>>,
        batch: usize,
        decoded: usize,
    ) -> Result<Self> {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let prompts: Vec<usize> = lengths[..batch].iter().map(|row| row - decoded).collect();
        let steps = plan_steps(signature, &prompts, decoded);
        let width = |step: &Step| if signature.last { 1 } else { step.width() };
        let width = steps.iter().map(width).max().unwrap_or_default();
        let logits = ((batch * width) as u64).saturating_mul(signature.vocab).saturating_mul(4);
        let free = memory::available().unwrap_or(u64::MAX);
        ensure!(
            logits <= free,
            "the logits of {batch} rows of {width} tokens take {}, and {} of memory are free: take fewer of them, or export the model with smaller sizes",
            size(logits),
            size(free)
        );
        let of_batch: usize = steps.iter().map(|step| step.compared().len()).sum();
        let compared = rows.len() / batch * of_batch;
        let (seed, text) = (None, None);
        Ok(Self { lengths, decoded, steps, compared, seed, text, rows, batch, signature })
    }

    /// Puts tokens that chance would hardly choose at every second place, as far as there is room.
    pub fn include(&mut self, tokens: impl Iterator<Item = u32>) {
        let places = self.rows.iter_mut().flat_map(|row| row.iter_mut().skip(1).step_by(2));
        places.zip(tokens).for_each(|(place, token)| *place = token);
    }

    /// The index of a token when tokens are counted over all rows.
    pub fn index(&self, Position { row, token }: Position) -> usize {
        self.lengths[..row].iter().sum::<usize>() + token
    }

    /// The token of a text that the logits at a position predict; those of its last token
    /// predict none.
    pub fn predicted(&self, Position { row, token }: Position) -> Option<u32> {
        self.text.as_ref().and_then(|_| self.rows[row].get(token + 1).copied())
    }

    /// Tokens of all steps of all rows, padding included.
    pub fn total(&self) -> u64 {
        self.steps.iter().map(|step| (self.rows.len() * step.width()) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::steps::Step;
    use super::*;

    const CACHED: Signature =
        Signature { batch: None, length: None, cache: true, mask: true, last: false, vocab: 10 };
    const UNCACHED: Signature = Signature { cache: false, mask: false, ..CACHED };

    fn inputs(signature: Signature, tokens: usize, batch: usize, decode: usize) -> Inputs {
        let (tokens, batch, decode) = (Some(tokens), Some(batch), Some(decode));
        let options = InputOptions { tokens, batch, decode, seed: 0 };
        Inputs::random(signature, options, [128, 4096]).unwrap()
    }

    fn default_inputs(signature: Signature, context: usize) -> Inputs {
        Inputs::random(signature, InputOptions::default(), [128, context]).unwrap()
    }

    proptest! {
        /// With a cache each token comes once and in order, without one each step has all
        /// earlier ones. Every row ends with its last token.
        #[test]
        fn steps_contain_every_token_in_order(
            (batch, tokens, decoded) in (1..4usize, 2..40usize, 0..5usize),
            length in proptest::option::of(1..9usize),
            (cache, last) in any::<(bool, bool)>(),
        ) {
            let signature = Signature { length: length.filter(|_| cache), cache, last, ..CACHED };
            let inputs = inputs(signature, tokens, batch, decoded.min(tokens - 1));
            let mut next = vec![0; batch];
            for step in &inputs.steps {
                prop_assert!(step.rows.iter().all(|row| row.len() == step.width()));
                if !cache {
                    next = vec![0; batch];
                }
                for (position, _) in step.tokens() {
                    prop_assert_eq!(position.token, next[position.row]);
                    next[position.row] += 1;
                }
            }
            prop_assert_eq!(&next, &inputs.lengths);
            prop_assert_eq!(inputs.lengths[0], tokens);
            let compared = inputs.steps.iter().flat_map(Step::compared);
            let compared: BTreeSet<_> = compared.map(|(position, _)| position).collect();
            let is_last = |it: &&Position| it.token + 1 == inputs.lengths[it.row];
            prop_assert_eq!(compared.iter().filter(is_last).count(), batch);
            prop_assert!(last || compared.len() == inputs.lengths.iter().sum::<usize>());
        }
    }

    #[test]
    fn pads_both_sides_with_mask() {
        let row = |signature, batch, row: usize| -> Vec<_> {
            let steps = inputs(signature, 4, batch, 0).steps;
            steps.iter().flat_map(|step| step.rows[row].clone()).collect()
        };
        assert_eq!(row(CACHED, 2, 0), [0, 1, 2, 3].map(Some));
        assert_eq!(row(CACHED, 2, 1), [None, None, Some(0), Some(1)]);
        assert_eq!(row(CACHED, 3, 1), [None, Some(0), Some(1), Some(2)]);
        assert_eq!(row(CACHED, 3, 2), [Some(0), Some(1), None, None]);
        assert_eq!(row(UNCACHED, 2, 1), [Some(0), Some(1), None, None]);
    }

    #[test]
    fn defaults_go_past_the_window_and_not_beyond_the_context() {
        // Two steps with the prompts and 16 decode steps.
        let cached = default_inputs(CACHED, 4096);
        assert_eq!((&cached.lengths[..], cached.steps.len()), (&[160, 112, 64][..], 18));
        assert_eq!([0, 1].map(|step| cached.steps[step].width()), [96, 48]);
        let uncached = default_inputs(UNCACHED, 4096);
        assert_eq!((&uncached.lengths[..], uncached.steps.len()), (&[160][..], 1));
        let fixed = Signature { length: Some(9), batch: Some(2), ..UNCACHED };
        assert_eq!(default_inputs(fixed, 4096).lengths, [9, 5]);
        let last = Signature { last: true, mask: true, ..UNCACHED };
        assert_eq!(default_inputs(last, 4096).compared, 15);
        for signature in [CACHED, Signature { length: Some(1000), ..UNCACHED }] {
            assert_eq!(default_inputs(signature, 100).lengths[0], 100);
        }
    }

    #[test]
    fn refuses_no_rows_and_huge_sizes_before_allocating() {
        let none = InputOptions { batch: Some(0), ..InputOptions::default() };
        let outcome = Inputs::random(CACHED, none, [128, 4096]);
        assert_eq!(outcome.unwrap_err().to_string(), "no rows were requested");
        for (batch, length) in
            [(1 << 40, 1), (1, 1 << 40), (1 << 19, 1), (1 << 20, 1 << 20), (usize::MAX, usize::MAX)]
        {
            let signature = Signature { batch: Some(batch), length: Some(length), ..CACHED };
            let outcome = Inputs::random(signature, InputOptions::default(), [128, 4096]);
            assert!(outcome.unwrap_err().to_string().contains("too many"), "{batch} {length}");
        }
    }
}

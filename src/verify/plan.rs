//! Which tokens a model is given in which step.

use super::compare::Position;
use crate::error::{Result, bail};

/// What a model's inputs and outputs allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Rows of a batch, where they are fixed.
    pub batch: Option<usize>,
    /// Places of a row in a step, where they are fixed.
    pub length: Option<usize>,
    /// Whether steps go on where earlier ones ended.
    pub cache: bool,
    /// Whether padding can be anywhere, and not only behind the tokens.
    pub mask: bool,
    /// Whether logits are those of each row's last token alone.
    pub last: bool,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Tokens of the longest row.
    pub tokens: Option<usize>,
    /// Rows.
    pub batch: Option<usize>,
    /// How many of the tokens come one by one.
    pub decode: Option<usize>,
}

/// How far tokens see.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Keys that a query sees through the widest sliding window.
    pub window: usize,
    /// Tokens of the longest text.
    pub context: usize,
}

/// How texts go through a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of each row.
    pub lengths: Vec<usize>,
    /// Tokens of each row that come one by one, after those that come at once.
    pub decoded: usize,
    /// One after the other.
    pub steps: Vec<Step>,
}

/// A step: for each row, and each of its places, which token is there or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// As many places in every row.
    pub rows: Vec<Vec<Option<usize>>>,
    /// Whether each row's last token alone is of interest.
    last: bool,
}

/// Where in a step's logits those of a token are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Reading {
    pub row: usize,
    pub token: usize,
    pub place: usize,
}

/// Rows where a mask tells tokens from padding, unless said.
const PADDED: usize = 3;
/// Tokens that come one by one, unless said.
const DECODED: usize = 16;
/// The same where each needs a run from the beginning.
const RUN_AGAIN: usize = 4;
/// Tokens beyond a sliding window, unless said, where that is not far.
const BEYOND: usize = 32;
/// No longer unless said.
const LONGEST: usize = 8192;
/// Most places of tokens in all steps: a model says itself how many it takes, and may say
/// anything.
const MOST_PLACES: usize = 1 << 24;

impl Plan {
    /// By default a text that goes past the sliding window, most of it at once and
    /// then token by token. Rows have unequal lengths.
    pub fn new(form: Form, asked: Asked, Reach { window, context }: Reach) -> Result<Self> {
        let batch = match (form.batch, asked.batch) {
            (Some(fixed), Some(asked)) if fixed != asked => {
                bail!("the model takes {fixed} rows, and {asked} were asked for");
            }
            // One without padding, one with it on the left and one on the right.
            (fixed, asked) => fixed.or(asked).unwrap_or(if form.mask { PADDED } else { 1 }),
        };
        let room = form.length.filter(|_| !form.cache);
        let usual = room.unwrap_or(window.saturating_add(BEYOND).min(LONGEST));
        let tokens = asked.tokens.unwrap_or(usual.min(context));
        if let Some(room) = room.filter(|room| tokens > *room) {
            bail!("the model takes at most {room} tokens, and {tokens} were asked for");
        }
        if tokens > context {
            bail!("the model's context is {context} tokens, and {tokens} were asked for");
        }
        let by_default = match form {
            Form { cache: true, .. } => DECODED,
            Form { last: true, .. } => RUN_AGAIN,
            _ => 0,
        };
        let decoded = asked.decode.unwrap_or(by_default.min(tokens / 2));
        if decoded >= tokens {
            bail!("{decoded} decode steps leave no prompt of {tokens} tokens");
        }
        let (width, steps) = (form.length.unwrap_or(tokens).max(tokens), 1 + decoded);
        let places = batch.checked_mul(width).and_then(|step| step.checked_mul(steps));
        if places.is_none_or(|places| places > MOST_PLACES) {
            bail!(
                "{steps} steps of {batch} rows of {width} tokens are too many to verify: the limit is {MOST_PLACES} tokens in all"
            );
        }
        let prompt = tokens - decoded;
        let prompts: Vec<usize> =
            (0..batch).map(|row| (prompt * (batch - row)).div_ceil(batch)).collect();
        let steps = match form.cache {
            true => cached(form, &prompts, decoded),
            false => (0..=decoded).map(|more| whole(form, &prompts, more)).collect(),
        };
        let lengths = prompts.iter().map(|prompt| prompt + decoded).collect();
        Ok(Self { lengths, decoded, steps })
    }

    /// A token that is counted over all rows.
    pub fn position(&self, mut token: usize) -> Position {
        let mut row = 0;
        while token >= self.lengths[row] {
            token -= self.lengths[row];
            row += 1;
        }
        Position { row, token }
    }

    /// How many tokens there are before a row's.
    pub fn start(&self, row: usize) -> usize {
        self.lengths[..row].iter().sum()
    }
}

/// The prompts in as many steps as they take, and then a token in each.
fn cached(form: Form, prompts: &[usize], decoded: usize) -> Vec<Step> {
    // In steps of a fixed length, or in two of unequal ones: the second has a past.
    let width = form.length.unwrap_or(prompts[0] - prompts[0] / 3);
    let places = form.length.map_or(prompts[0], |width| prompts[0].next_multiple_of(width));
    let padded: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(row, prompt)| padded(row, *prompt, places, form))
        .collect();
    let prefill = (0..places).step_by(width).map(|start| Step {
        rows: padded.iter().map(|row| row[start..places.min(start + width)].to_vec()).collect(),
        last: form.last,
    });
    let single = |at: usize| {
        let row = |prompt: &usize| {
            let mut row = vec![None; form.length.unwrap_or(1)];
            *row.last_mut().expect("a step has places") = Some(prompt + at);
            row
        };
        Step { rows: prompts.iter().map(row).collect(), last: form.last }
    };
    prefill.chain((0..decoded).map(single)).collect()
}

/// The texts from their beginning, with so many tokens more than the prompts.
fn whole(form: Form, prompts: &[usize], more: usize) -> Step {
    let width = form.length.unwrap_or(prompts[0] + more);
    let rows = prompts.iter().enumerate();
    let rows = rows.map(|(row, prompt)| padded(row, prompt + more, width, form)).collect();
    Step { rows, last: form.last || more > 0 }
}

/// A row's first tokens: every other row, beginning with the second, has its padding
/// on the left, where the model allows it. The first is the longest.
fn padded(row: usize, tokens: usize, places: usize, form: Form) -> Vec<Option<usize>> {
    let before = if form.mask && !row.is_multiple_of(2) { places - tokens } else { 0 };
    (0..places).map(|place| place.checked_sub(before).filter(|token| *token < tokens)).collect()
}

impl Step {
    /// Places of a row.
    pub fn width(&self) -> usize {
        self.rows[0].len()
    }

    /// The tokens in it with their rows and places.
    pub fn tokens(&self) -> impl Iterator<Item = Reading> {
        self.rows.iter().enumerate().flat_map(|(row, places)| {
            let tokens = places.iter().enumerate();
            tokens.filter_map(move |(place, token)| Some(Reading { row, token: (*token)?, place }))
        })
    }

    /// Those whose logits are of interest.
    pub fn readings(&self) -> Vec<Reading> {
        let all: Vec<Reading> = self.tokens().collect();
        let is_last = |at: usize| all.get(at + 1).is_none_or(|next| next.row != all[at].row);
        let wanted = (0..all.len()).filter(|at| !self.last || is_last(*at));
        wanted.map(|at| all[at]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const REACH: Reach = Reach { window: 8, context: 4096 };
    const FREE: Form = Form { batch: None, length: None, cache: true, mask: true, last: false };

    fn read(plan: &Plan) -> Vec<(usize, usize)> {
        let all = plan.steps.iter().flat_map(Step::readings);
        all.map(|reading| (reading.row, reading.token)).collect()
    }

    proptest! {
        /// With a cache, each token comes once and in order; without, each step has
        /// all that came before. In both every row ends with its last token.
        #[test]
        fn every_token_comes_when_it_is_its_turn(
            (batch, tokens, decoded) in (1..4usize, 2..40usize, 0..5usize),
            length in proptest::option::of(1..9usize),
            (cache, last) in any::<(bool, bool)>(),
        ) {
            let form = Form { length: length.filter(|_| cache), cache, last, ..FREE };
            let decode = Some(decoded.min(tokens - 1));
            let asked = Asked { tokens: Some(tokens), batch: Some(batch), decode };
            let plan = Plan::new(form, asked, REACH).unwrap();
            let mut seen = vec![0; batch];
            for step in &plan.steps {
                prop_assert!(step.rows.iter().all(|row| row.len() == step.width()));
                if !cache {
                    seen = vec![0; batch];
                }
                for reading in step.tokens() {
                    prop_assert_eq!(reading.token, seen[reading.row]);
                    seen[reading.row] += 1;
                }
            }
            prop_assert_eq!(&seen, &plan.lengths);
            prop_assert_eq!(plan.lengths[0], tokens);
            let read: BTreeSet<_> = read(&plan).into_iter().collect();
            let all = plan.lengths.iter().enumerate().flat_map(|(row, length)| {
                (0..*length).map(move |token| (row, token))
            });
            let wanted: BTreeSet<_> = match last {
                true => plan.lengths.iter().enumerate().map(|(row, length)| (row, length - 1)).collect(),
                false => all.collect(),
            };
            prop_assert!(read.is_superset(&wanted));
            prop_assert!(last || read == wanted);
        }
    }

    #[test]
    fn rows_are_padded_on_both_sides_where_there_is_a_mask() {
        let rows = |form, batch| {
            let asked = Asked { tokens: Some(4), batch: Some(batch), decode: Some(0) };
            let plan = Plan::new(form, asked, REACH).unwrap();
            let row =
                |row: usize| plan.steps.iter().flat_map(|step| step.rows[row].clone()).collect();
            (0..batch).map(row).collect::<Vec<Vec<_>>>()
        };
        let (all, right) = ([0, 1, 2, 3].map(Some).to_vec(), vec![Some(0), Some(1), None, None]);
        let left = vec![None, None, Some(0), Some(1)];
        assert_eq!(rows(FREE, 2), [all.clone(), left]);
        let three = vec![None, Some(0), Some(1), Some(2)];
        assert_eq!(rows(FREE, 3), [all, three, right.clone()]);
        assert_eq!(rows(Form { cache: false, mask: false, ..FREE }, 2)[1], right);
    }

    #[test]
    fn the_defaults_go_past_the_window() {
        let reach = Reach { window: 128, ..REACH };
        let plan = |form| Plan::new(form, Asked::default(), reach).unwrap();
        // Two steps with the prompts, of which the second has a past, and one a token.
        assert_eq!((plan(FREE).lengths, plan(FREE).steps.len()), (vec![160, 112, 64], 18));
        assert_eq!([0, 1].map(|step| plan(FREE).steps[step].width()), [96, 48]);
        let uncached = Form { cache: false, mask: false, ..FREE };
        assert_eq!((plan(uncached).lengths, plan(uncached).steps.len()), (vec![160], 1));
        let fixed = Form { length: Some(9), batch: Some(2), ..uncached };
        assert_eq!(plan(fixed).lengths, [9, 5]);
        let last = Form { last: true, mask: true, ..uncached };
        assert_eq!(read(&plan(last)).len(), 15);
        // No text goes beyond the context, however many tokens a model takes.
        let short = Reach { context: 100, ..reach };
        for form in [FREE, Form { length: Some(1000), ..uncached }] {
            assert_eq!(Plan::new(form, Asked::default(), short).unwrap().lengths[0], 100);
        }
    }

    /// What a model says of itself may be anything.
    #[test]
    fn steps_of_any_size_are_refused_before_there_is_room_for_them() {
        for (batch, length) in
            [(1 << 40, 1), (1, 1 << 40), (1 << 19, 1), (1 << 20, 1 << 20), (usize::MAX, usize::MAX)]
        {
            let form = Form { batch: Some(batch), length: Some(length), ..FREE };
            let outcome = Plan::new(form, Asked::default(), REACH);
            assert!(outcome.unwrap_err().to_string().contains("too many"), "{batch} {length}");
        }
    }
}

//! The steps in which a model takes rows of tokens.

use crate::exported::Signature;
use crate::reference::Position;

/// One run of a model.
#[derive(Clone, Debug)]
pub struct Step {
    /// For each row and column the token's index in the row, or `None` for padding. All rows
    /// have the same width.
    pub rows: Vec<Vec<Option<usize>>>,
    /// Whether only the logits of each row's last token are compared.
    last: bool,
}

/// With a cache the prompts come in steps of the fixed length, or in two of unequal length, of
/// which the second has a past; then the decode steps. Without a cache each step has all rows
/// from their beginning.
pub fn plan_steps(
    Signature { length, cache, mask, last, .. }: Signature,
    prompts: &[usize],
    decoded: usize,
) -> Vec<Step> {
    // The first row is the longest. With a mask every second row is padded on the left.
    let padded = |more: usize, width: usize| -> Vec<Vec<Option<usize>>> {
        let row = |(row, prompt): (usize, &usize)| {
            let tokens = prompt + more;
            let left = if mask && row % 2 == 1 { width - tokens } else { 0 };
            let token = |column: usize| column.checked_sub(left).filter(|token| *token < tokens);
            (0..width).map(token).collect()
        };
        prompts.iter().enumerate().map(row).collect()
    };
    if !cache {
        let whole = |more| Step {
            rows: padded(more, length.unwrap_or(prompts[0] + more)),
            last: last || more > 0,
        };
        return (0..=decoded).map(whole).collect();
    }
    let width = length.unwrap_or(prompts[0] - prompts[0] / 3);
    let columns = length.map_or(prompts[0], |width| prompts[0].next_multiple_of(width));
    let whole = padded(0, columns);
    let prefill = (0..columns).step_by(width).map(|start| {
        whole.iter().map(|row| row[start..columns.min(start + width)].to_vec()).collect()
    });
    let decode = (0..decoded).map(|at| {
        let padding = vec![None; length.unwrap_or(1) - 1];
        prompts.iter().map(|prompt| [&padding[..], &[Some(prompt + at)]].concat()).collect()
    });
    prefill.chain(decode).map(|rows| Step { rows, last }).collect()
}

impl Step {
    pub fn width(&self) -> usize {
        self.rows[0].len()
    }

    /// All tokens with their columns, row by row.
    pub fn tokens(&self) -> impl Iterator<Item = (Position, usize)> {
        self.rows.iter().enumerate().flat_map(|(row, columns)| {
            let tokens = columns.iter().enumerate();
            tokens.filter_map(move |(column, token)| {
                Some((Position { row, token: (*token)? }, column))
            })
        })
    }

    /// The tokens whose logits are compared, with their columns.
    pub fn compared(&self) -> Vec<(Position, usize)> {
        let mut tokens: Vec<_> = self.tokens().collect();
        if self.last {
            tokens.reverse();
            tokens.dedup_by_key(|(position, _)| position.row);
            tokens.reverse();
        }
        tokens
    }
}

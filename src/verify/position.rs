//! Positions of tokens.

use std::fmt;

use serde::Serialize;

/// A token of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub struct Position {
    pub row: usize,
    pub token: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}, token {}", self.row, self.token)
    }
}

//! Mistakes in wiring, found at the line that makes them.

use super::{Dim, Fact};
use crate::tensor::DType;

/// Why a node cannot be wired. `node` is its path, `op` its operator.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("graph name `{0}` is used twice")]
    DuplicateName(String),
    #[error("node `{node}` ({op}) expects rank {expected}, found {found}")]
    Rank { node: String, op: String, expected: usize, found: Fact },
    #[error("node `{node}` ({op}) expects dtype {expected}, found {found}")]
    Dtype { node: String, op: String, expected: DType, found: Fact },
    #[error("node `{node}` ({op}) cannot combine {left} with {right}")]
    Mismatch { node: String, op: String, left: Fact, right: Fact },
    #[error("node `{node}` ({op}) has no axis {axis} in {found}")]
    Axis { node: String, op: String, axis: usize, found: Fact },
    #[error("node `{0}` uses a value that is not visible there")]
    Invisible(String),
    #[error(
        "dimension `{0}` is not an axis of any graph input, so its size is unknown when the graph runs"
    )]
    Unbound(Dim),
}

/// The result of wiring.
pub type Result<T> = std::result::Result<T, Error>;

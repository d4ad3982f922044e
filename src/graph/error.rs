//! Mistakes in wiring: bugs of this program, whatever the checkpoint.

use std::fmt::Display;

use crate::error::{Error, err};

pub(super) fn wiring_error(sentence: impl Display) -> Error {
    err!("the graph could not be wired: {sentence} (please report this)")
}

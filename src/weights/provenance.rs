//! Where experts come from: what became of their numbers since the checkpoint.

use serde::{Deserialize, Serialize};

use crate::tensor::Rounding;

/// What became of the experts' numbers on their way from the checkpoint. A weights
/// file and a model carry it along, so that it is known what they can promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Their format in the checkpoint; where they have several, in words.
    pub origin: String,
    /// Their format now.
    pub format: String,
    /// How many numbers were rounded; after several conversions, at most.
    pub rounded: u64,
    /// The norm of what all are off, divided by their norm; after several
    /// conversions, at most.
    pub relative_error: f64,
}

impl Provenance {
    /// Of numbers as the checkpoint has them.
    pub fn unchanged(format: String) -> Self {
        Self { origin: format.clone(), format, rounded: 0, relative_error: 0.0 }
    }

    /// After a conversion that rounded so much. Errors of several add up at most:
    /// ‖x − z‖ ≤ ‖x − y‖ + ‖y − z‖, and ‖y‖ ≤ ‖x‖ + ‖x − y‖.
    pub fn after(&self, rounding: &Rounding) -> Self {
        let (before, now) = (self.relative_error, rounding.relative_error());
        Self {
            rounded: self.rounded.saturating_add(rounding.changed),
            relative_error: before + now * (1.0 + before),
            ..self.clone()
        }
    }

    /// Whether every number is the checkpoint's, bit for bit.
    pub fn is_lossless(&self) -> bool {
        self.rounded == 0
    }

    /// Whether they have been in one format only, and nothing was rounded.
    pub fn is_unchanged(&self) -> bool {
        self.origin == self.format && self.is_lossless()
    }

    /// As JSON, with keys in the order of these fields.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }
}

//! Where matrices come from: what became of their numbers since the checkpoint.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::{Format, Role};
use crate::tensor::Rounding;

/// Of all matrices. A weights file and a model carry it along, so that it is known
/// what they can promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenances {
    /// Of those of experts.
    pub experts: Provenance,
    /// Of those of attention and of the logits.
    pub dense: Provenance,
}

/// What a conversion rounds of all matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Roundings {
    pub experts: Rounding,
    pub dense: Rounding,
}

impl AddAssign for Roundings {
    fn add_assign(&mut self, other: Self) {
        self.experts += other.experts;
        self.dense += other.dense;
    }
}

impl Roundings {
    /// Of what has this role.
    pub fn of(&mut self, role: Role) -> &mut Rounding {
        match role {
            Role::Experts => &mut self.experts,
            Role::Dense => &mut self.dense,
        }
    }
}

impl Provenances {
    /// After a conversion that rounded so much.
    pub fn after(&self, roundings: &Roundings) -> Self {
        Self {
            experts: self.experts.after(&roundings.experts),
            dense: self.dense.after(&roundings.dense),
        }
    }

    /// Says what is wrong with those that were written down, of matrices in these formats.
    pub fn check(&self, experts: &str, dense: &str) -> std::result::Result<(), String> {
        for (what, said, found) in
            [("experts", &self.experts, experts), ("dense", &self.dense, dense)]
        {
            let Provenance { origin, format, relative_error, .. } = said;
            if format != found {
                return Err(format!("`{what}` are in {found}, and it says {format:?}"));
            }
            if !Format::are(origin) {
                return Err(format!("`{what}` come from {origin:?}, which is no format"));
            }
            if !(relative_error.is_finite() && *relative_error >= 0.0) {
                return Err(format!("`{what}` have the relative error {relative_error}"));
            }
        }
        Ok(())
    }

    /// What belongs to the weights' identity: nothing where all are as they were.
    pub fn canonical(&self) -> String {
        match self.experts.is_unchanged() && self.dense.is_unchanged() {
            true => String::new(),
            false => serde_json::to_string(self).expect("plain data"),
        }
    }
}

/// What became of numbers on their way from the checkpoint.
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

    /// Of those that are left, in this format: of several, some may have been in one alone.
    pub fn are_now(&mut self, format: String) {
        match self.is_unchanged() {
            true => *self = Self::unchanged(format),
            false => self.format = format,
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

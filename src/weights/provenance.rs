//! What became of the values of matrices since the checkpoint.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use super::{FormatSet, Role};
use crate::error::{Result, ensure};
use crate::tensor::Rounding;

/// One value for the matrices of experts, one for dense matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerRole<T> {
    pub experts: T,
    pub dense: T,
}

impl<T> Index<Role> for PerRole<T> {
    type Output = T;

    fn index(&self, role: Role) -> &T {
        match role {
            Role::Experts => &self.experts,
            Role::Dense => &self.dense,
        }
    }
}

impl<T> IndexMut<Role> for PerRole<T> {
    fn index_mut(&mut self, role: Role) -> &mut T {
        match role {
            Role::Experts => &mut self.experts,
            Role::Dense => &mut self.dense,
        }
    }
}

/// What became of values between the checkpoint and a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Formats in the checkpoint.
    pub origin: FormatSet,
    pub format: FormatSet,
    /// Number of values that were rounded; after several conversions an upper bound.
    pub rounded: u64,
    /// Norm of the error divided by the norm of the values; after several conversions an
    /// upper bound.
    pub relative_error: f64,
}

impl Provenance {
    /// Of values as the checkpoint has them.
    pub fn unchanged(format: FormatSet) -> Self {
        Self { origin: format.clone(), format, rounded: 0, relative_error: 0.0 }
    }

    /// After another conversion. By the triangle inequality errors add up to at most
    /// ‖x − z‖ ≤ ‖x − y‖ + ‖y − z‖, with ‖y‖ ≤ ‖x‖ + ‖x − y‖.
    pub fn after(&self, rounding: &Rounding) -> Self {
        let (before, now) = (self.relative_error, rounding.relative_error());
        Self {
            rounded: self.rounded.saturating_add(rounding.changed),
            relative_error: before + now * (1.0 + before),
            ..self.clone()
        }
    }

    /// After matrices were dropped, which may have been the only ones in some format.
    pub fn retain_formats(&mut self, format: FormatSet) {
        if self.is_unchanged() {
            *self = Self::unchanged(format);
        } else {
            self.format = format;
        }
    }

    /// Whether every value is the checkpoint's, bit for bit.
    pub fn is_lossless(&self) -> bool {
        self.rounded == 0
    }

    /// Whether values are off by no more than what f32 rounds.
    pub fn is_within_f32(&self) -> bool {
        self.relative_error <= f64::from(f32::EPSILON) / 2.0
    }

    /// Whether nothing was converted or rounded.
    pub fn is_unchanged(&self) -> bool {
        self.origin == self.format && self.is_lossless()
    }
}

impl PerRole<Provenance> {
    pub fn formats(&self) -> PerRole<FormatSet> {
        PerRole { experts: self.experts.format.clone(), dense: self.dense.format.clone() }
    }

    pub fn after(&self, rounding: &PerRole<Rounding>) -> Self {
        Self {
            experts: self.experts.after(&rounding.experts),
            dense: self.dense.after(&rounding.dense),
        }
    }

    /// Checks what a file claims against the formats of its matrices.
    pub fn check(&self, found: &Self) -> Result<()> {
        for role in Role::ALL {
            let (claimed, found) = (&self[role], &found[role].format);
            ensure!(claimed.format == *found, "{role} are in {found}, expected {}", claimed.format);
            let error = claimed.relative_error;
            ensure!(error.is_finite() && error >= 0.0, "the relative error of {role} is {error}");
        }
        Ok(())
    }

    /// What belongs to the identity of the weights: nothing if they are unchanged.
    pub fn canonical(&self) -> String {
        if self.experts.is_unchanged() && self.dense.is_unchanged() {
            return String::new();
        }
        serde_json::to_string(self).expect("plain data")
    }
}

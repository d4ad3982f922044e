//! How far a model may be from the reference.
//!
//! A model whose values are all the checkpoint's may differ by the noise of float32: sums of
//! thousands of products in another order. How much that is depends on the weights, so it is
//! measured: the reference runs in float32 too, and its distance from itself in float64 is
//! what one correct program is off. Another one may be off by a few times as much;
//! docs/verify.md has measurements. A model whose matrices were rounded by the export is
//! compared with a reference of the rounded values, within the same bound.

use serde::Serialize;

use crate::exported::ModelMetadata;
use crate::weights::{PerRole, Provenance, Role};

/// How many times the noise of float32 a model may be off.
pub const FACTOR: f64 = 8.0;

/// The largest difference of logits that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Tolerance {
    pub bound: f64,
    pub from: ToleranceSource,
}

/// Where a tolerance comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToleranceSource {
    /// It was requested.
    #[serde(rename = "asked")]
    Requested,
    /// The noise of float32, with the values of the checkpoint.
    Float32,
    /// The noise of float32, with the model's own rounded values.
    #[serde(rename = "own_numbers")]
    ModelValues,
}

impl Tolerance {
    /// For a model with this metadata and a checkpoint with these provenances. The bound is
    /// known from the beginning if it is requested.
    pub(super) fn new(
        metadata: Option<&ModelMetadata>,
        checkpoint: &PerRole<Provenance>,
        requested: Option<f64>,
    ) -> Self {
        let is_rounded = |model: &ModelMetadata| {
            let mut roles = Role::ALL.into_iter();
            // What a merge into f32 rounds is noise of float32.
            let has_merged = model.adapters.iter().any(|it| it.merged);
            roles.any(|role| {
                let it = &model.provenances[role];
                it.rounded > checkpoint[role].rounded && !(has_merged && it.is_within_f32())
            })
        };
        let from = match requested {
            Some(_) => ToleranceSource::Requested,
            None if metadata.is_some_and(is_rounded) => ToleranceSource::ModelValues,
            None => ToleranceSource::Float32,
        };
        Self { bound: requested.unwrap_or_default(), from }
    }
}

/// The largest difference allowed between values up to `largest`, with this noise of float32. A
/// unit in their last place is assumed at least: a single measurement may be small by chance.
pub fn allowed(noise: f64, largest: f64) -> f64 {
    FACTOR * noise.max(largest * f64::from(f32::EPSILON))
}

//! How far a model may be from the reference.
//!
//! A model whose numbers are all the checkpoint's promises float32's own noise: sums
//! of thousands of products in another order. How much that is depends on the
//! weights, so it is measured: the reference runs in float32 too, and how far that
//! takes it from itself in float64 is what one right program is off. Another right
//! one may be off by some times as much; docs/verify.md has what was measured.

use serde::Serialize;

use super::opening::Opening;
use super::{Error, Result};
use crate::weights::Provenance;

/// How many times the noise a model may be off.
pub const FACTOR: f64 = 8.0;

/// The least noise that is assumed, relative to the largest number: it is measured
/// once, and may be small by luck.
const ULP: f64 = f32::EPSILON as f64;

/// What a difference of logits is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// The largest absolute difference allowed.
    pub bound: f64,
    /// Where it comes from.
    pub from: Source,
}

/// Where a tolerance comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Source {
    Asked,
    Float32,
}

/// What a tolerance depends on besides the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    /// Nothing: this was asked for.
    Asked(f64),
    /// All numbers are the checkpoint's.
    Float32,
}

impl Promise {
    /// What was asked for, else what the model promises. One whose experts were
    /// rounded on the way from the checkpoint promises nothing about logits.
    pub fn of(model: &Opening, checkpoint: &Provenance, asked: Option<f64>) -> Result<Self> {
        if let Some(bound) = asked {
            return Ok(Self::Asked(bound));
        }
        let said = model.property("experts").and_then(|said| serde_json::from_str(said).ok());
        match said {
            Some(Provenance { rounded, relative_error, .. }) if rounded > checkpoint.rounded => {
                Err(Error::Rounded { rounded, relative_error })
            }
            _ => Ok(Self::Float32),
        }
    }

    /// For logits that are at most so large, and that float32 computes with so much
    /// noise.
    pub fn tolerance(self, noise: f64, largest: f64) -> Tolerance {
        match self {
            Self::Asked(bound) => Tolerance { bound, from: Source::Asked },
            Self::Float32 => Tolerance { bound: allowed(noise, largest), from: Source::Float32 },
        }
    }
}

/// How far numbers may be off that are at most so large, and that float32 computes
/// with so much noise.
pub fn allowed(noise: f64, largest: f64) -> f64 {
    FACTOR * noise.max(largest * ULP)
}

//! How far a model may be from the reference.
//!
//! A model whose numbers are all the checkpoint's promises float32's own noise:
//! sums of thousands of products in another order. It grows with the magnitude of
//! logits and, as independent errors add up, with the root of the number of layers;
//! docs/verify.md has what was measured.

use serde::Serialize;

use super::model::Model;
use super::{Error, Result};
use crate::weights::Provenance;

/// Units in the last place of the largest number, for a model without layers.
const ULPS: f64 = 128.0;

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
    pub fn of(model: &Model, checkpoint: &Provenance, asked: Option<f64>) -> Result<Self> {
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

    /// For a model of so many layers whose logits are at most so large.
    pub fn tolerance(self, layers: usize, largest: f64) -> Tolerance {
        match self {
            Self::Asked(bound) => Tolerance { bound, from: Source::Asked },
            Self::Float32 => Tolerance { bound: noise(layers) * largest, from: Source::Float32 },
        }
    }
}

/// float32's own noise after so many layers, relative to the largest number.
pub fn noise(layers: usize) -> f64 {
    ULPS * (layers as f64 + 1.0).sqrt() * f64::from(f32::EPSILON)
}

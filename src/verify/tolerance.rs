//! How far a model may be from the reference.
//!
//! A model whose numbers are all the checkpoint's promises float32's own noise: sums
//! of thousands of products in another order. How much that is depends on the
//! weights, so it is measured: the reference runs in float32 too, and how far that
//! takes it from itself in float64 is what one right program is off. Another right
//! one may be off by some times as much; docs/verify.md has what was measured. One whose
//! matrices were rounded when it was made promises the same of its own numbers.

use serde::Serialize;

use super::opening::Opening;
use crate::error::{Error, Result, Setting, err};
use crate::model::GraphOptions;
use crate::tensor::DType;
use crate::weights::{MatrixFormat, PerRole, Provenance, Role};

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
    OwnNumbers,
}

/// What a tolerance depends on besides the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    /// Nothing: this was asked for.
    Asked(f64),
    /// All numbers are the checkpoint's.
    Float32,
    /// They are what rounding made of the checkpoint's.
    OwnNumbers,
}

impl Promise {
    /// What was asked for, else what the model promises. One that does not compute in
    /// float32 throughout promises nothing about logits.
    pub fn of(
        model: &Opening,
        checkpoint: &PerRole<Provenance>,
        asked: Option<f64>,
    ) -> Result<Self> {
        if let Some(bound) = asked {
            return Ok(Self::Asked(bound));
        }
        let Some(metadata) = &model.metadata else { return Ok(Self::Float32) };
        let formats = Role::ALL.map(|role| metadata.provenances[role].format.clone());
        let has_integers = formats.iter().any(|it| it.contains(MatrixFormat::is_int));
        if let Some(reason) = rounds_on_the_way(&metadata.options, has_integers) {
            return Err(no_promise(reason));
        }
        let is_rounded =
            |role: &Role| metadata.provenances[*role].rounded > checkpoint[*role].rounded;
        Ok(if Role::ALL.iter().any(is_rounded) { Self::OwnNumbers } else { Self::Float32 })
    }

    /// For logits that are at most so large, and that float32 computes with so much
    /// noise.
    pub fn tolerance(self, noise: f64, largest: f64) -> Tolerance {
        match self {
            Self::Asked(bound) => Tolerance { bound, from: Source::Asked },
            Self::Float32 => Tolerance { bound: allowed(noise, largest), from: Source::Float32 },
            Self::OwnNumbers => {
                Tolerance { bound: allowed(noise, largest), from: Source::OwnNumbers }
            }
        }
    }
}

/// That a tolerance must be given.
fn no_promise(reason: &str) -> Error {
    err!("there is no default tolerance for the model, because {reason}")
        .with_remedy(Setting::Tolerance, "X")
}

const F16: &str = "it computes in f16";
const BF16: &str = "it computes in bf16";
const ACTIVATIONS: &str = "onnxruntime rounds activations to 8 bits where weights are integers (unless they are kept in float)";

/// How a model rounds while it computes: by its dtype, or because onnxruntime's kernels for
/// integers quantize activations.
fn rounds_on_the_way(options: &GraphOptions, has_integers: bool) -> Option<&'static str> {
    match options.compute {
        DType::F32 => (options.quantizes_activations() && has_integers).then_some(ACTIVATIONS),
        DType::F16 => Some(F16),
        _ => Some(BF16),
    }
}

/// Refuses a verification without a tolerance of models that have no default one.
pub fn check_promise(options: &GraphOptions, formats: [Option<MatrixFormat>; 2]) -> Result<()> {
    let has_integers = formats.into_iter().flatten().any(MatrixFormat::is_int);
    rounds_on_the_way(options, has_integers).map_or(Ok(()), |how| Err(no_promise(how)))
}

/// How far numbers may be off that are at most so large, and that float32 computes
/// with so much noise.
pub fn allowed(noise: f64, largest: f64) -> f64 {
    FACTOR * noise.max(largest * ULP)
}

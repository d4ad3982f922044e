//! What a verification found.

use std::path::PathBuf;

use serde::Serialize;

use super::compare::{Differences, Position};
use super::identity::Identity;
use super::plan::{Plan, Step};
use super::tolerance::Tolerance;
use super::trace::Trace;
use super::weights::Bytes;
use crate::reference::Tie;
use crate::runtime::Library;

/// The outcome of a verification.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The ONNX file.
    pub model: PathBuf,
    /// The checkpoint's folder, or a staged file.
    pub checkpoint: PathBuf,
    /// The checkpoint's layout.
    pub layout: &'static str,
    /// Layers of the model.
    pub layers: usize,
    /// Layers of the checkpoint.
    pub layers_there: usize,
    /// Whether the model says that it is of this checkpoint.
    pub identity: Identity,
    /// What ran the model.
    pub runtime: Runtime,
    /// What it was given.
    pub texts: Texts,
    /// How its weights differ.
    pub weights: Bytes,
    /// The experts that took part: of the others nothing is known.
    pub experts: Coverage,
    /// Whether logits agree within the tolerance; unless that was asked for, also
    /// the residual stream, and the weights: every byte, all of them, and no others.
    pub passed: bool,
    /// How they differ.
    pub logits: Differences,
    /// By how much they may.
    pub tolerance: Tolerance,
    /// Choices of experts that float32 does not decide.
    pub ties: Ties,
    /// The residual stream, if it was asked for or there is little else to compare.
    pub trace: Option<Trace>,
    /// Wall time.
    pub seconds: Seconds,
    /// The most bytes in memory at once, mapped files counted, where it is known.
    pub peak_rss: Option<u64>,
}

/// An onnxruntime.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Runtime {
    pub version: Option<String>,
    pub path: PathBuf,
}

/// What the model was given.
#[derive(Clone, Debug, Serialize)]
pub struct Texts {
    /// Tokens of each row.
    pub lengths: Vec<usize>,
    /// How many of each row's came one by one.
    pub decoded: usize,
    /// Steps.
    pub steps: usize,
    /// Positions whose logits were compared.
    pub compared: usize,
    /// Which random tokens they were.
    pub seed: u64,
    /// Whether the model gives each row's last logits alone.
    #[serde(skip)]
    pub(super) last: bool,
}

/// Some of all, in all layers together.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Coverage {
    pub used: usize,
    pub there: u64,
    /// SwiGLU's.
    pub limit: f64,
    /// Whether some number reached it: else it is not tested.
    pub limited: bool,
}

/// Choices of experts that float32 does not decide.
#[derive(Clone, Debug, Serialize)]
pub struct Ties {
    /// How many there are.
    pub close: usize,
    /// Whose choices the reference took in them.
    pub followed: Followed,
    /// Those that the model made otherwise.
    pub flips: Vec<Flip>,
}

/// Whose choices of experts the reference took in ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Followed {
    /// Its own: the model agreed, or ties do not explain why it did not.
    NotNeeded,
    /// Its own, as the model does not show what it chose.
    NotShown,
    /// The model's.
    TheModel,
}

/// A choice of experts that the model made otherwise, where float32 does not decide.
#[derive(Clone, Debug, Serialize)]
pub struct Flip {
    /// The token.
    pub position: Position,
    /// The layer.
    pub layer: usize,
    /// The experts that the reference had chosen, and the model had not.
    pub dropped: Vec<usize>,
    /// Those that the model had chosen instead.
    pub taken: Vec<usize>,
    /// By how much the last expert that is chosen is ahead of the first that is not.
    pub margin: f64,
    /// By how much it would have to be.
    pub bound: f64,
}

/// Wall time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Of the reference, comparing included.
    pub reference: f64,
    /// Of comparing weights.
    pub weights: f64,
    /// Of loading the model.
    pub load: f64,
    /// Of running it.
    pub run: f64,
}

impl Texts {
    pub(super) fn new(plan: &Plan, last: bool, seed: u64) -> Self {
        Self {
            lengths: plan.lengths.clone(),
            decoded: plan.decoded,
            steps: plan.steps.len(),
            compared: plan.steps.iter().map(|step: &Step| step.readings().len()).sum(),
            seed,
            last,
        }
    }
}

impl Runtime {
    pub(super) fn of(library: &Library) -> Self {
        let version = library.version.map(|version| version.to_string());
        Self { version, path: library.path.clone() }
    }
}

impl Ties {
    pub(super) fn new(ties: &[Tie], followed: Followed, plan: &Plan) -> Self {
        let flip = |tie: &Tie| {
            let Tie { layer, token, margin, bound, .. } = *tie;
            let [dropped, taken] = tie.followed.clone()?;
            Some(Flip { position: plan.position(token), layer, dropped, taken, margin, bound })
        };
        Self { close: ties.len(), followed, flips: ties.iter().filter_map(flip).collect() }
    }
}

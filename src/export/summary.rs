//! What an export has done, for people and for programs.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::graph::Model;
use crate::hub;
use crate::model::{GraphOptions, Provider, Target};
use crate::onnx::{OPSET, ValueInfo, ir_version};
use crate::package::{GenaiSummary, TransformersJsSummary};
use crate::tensor::{Rounding, mxfp4};
use crate::weights::{Matrix, PerRole, Provenance, Role, Weight};

/// The outcome of an export.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The checkpoint's layout.
    pub layout: &'static str,
    /// Layers exported.
    pub layers: usize,
    /// Layers of the checkpoint.
    pub layers_there: usize,
    /// What identifies the weights; unknown while they are on the hub.
    pub fingerprint: Option<String>,
    /// What came from the hub, if the checkpoint did.
    pub hub: Option<HubSummary>,
    /// The folder or staged file that the weights are from.
    pub source: PathBuf,
    /// The model, unless only weights were staged.
    pub model: Option<ModelSummary>,
    /// The package for onnxruntime-genai, if one was asked for.
    pub genai: Option<GenaiSummary>,
    /// The package for transformers.js, if one was asked for.
    pub transformers_js: Option<TransformersJsSummary>,
    /// The format of the experts.
    pub experts: ExpertsSummary,
    /// The format of the matrices of attention and of the logits.
    pub dense: MatricesSummary,
    /// The weights.
    pub weights: WeightsSummary,
    /// Wall time.
    pub seconds: f64,
}

/// A checkpoint from the hub.
#[derive(Clone, Debug, Serialize)]
pub struct HubSummary {
    /// The repository at its commit, and the folder in it.
    pub source: String,
    /// Where it was put.
    pub folder: PathBuf,
    /// Files that were fetched, from the repository's root.
    pub fetched: Vec<String>,
    /// Their bytes.
    pub bytes_fetched: u64,
    /// Files of weights that are still on the hub.
    pub awaited: Vec<String>,
    /// Their bytes.
    pub bytes_awaited: u64,
}

impl HubSummary {
    pub(super) fn new(repository: &hub::Repository, folder: &Path) -> Self {
        let paths =
            |files: &[hub::RemoteFile]| files.iter().map(|file| file.path.clone()).collect();
        let bytes = |files: &[hub::RemoteFile]| files.iter().map(|file| file.size).sum();
        let hub::Repository { fetched, missing_weights: awaited, .. } = repository;
        Self {
            source: repository.source(),
            folder: folder.to_owned(),
            fetched: paths(fetched),
            bytes_fetched: bytes(fetched),
            awaited: paths(awaited),
            bytes_awaited: bytes(awaited),
        }
    }
}

/// The numbers of the experts.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertsSummary {
    /// Their matrices.
    #[serde(flatten)]
    pub matrices: MatricesSummary,
    /// How many each layer has.
    pub counts: Vec<u64>,
    /// What MXFP4 would take, where rows fill its blocks.
    pub mxfp4_bytes: Option<u64>,
}

/// The numbers of some matrices.
#[derive(Clone, Debug, Serialize)]
pub struct MatricesSummary {
    /// What became of them since the checkpoint, in this export or one before.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// How many numbers there are.
    pub numbers: u64,
    /// Bytes that they take in the model.
    pub bytes: u64,
    /// How they came through a conversion in this export, if there was one.
    pub converted: Option<Converted>,
    /// Whether a conversion was asked for, and there was nothing to do.
    pub already: bool,
}

/// How numbers came through a conversion.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Converted {
    /// How many there are.
    pub numbers: u64,
    /// How many of them came out different.
    pub rounded: u64,
    /// Whether none did.
    pub lossless: bool,
    /// The error's norm, divided by that of the numbers.
    pub relative_error: f64,
}

impl ExpertsSummary {
    pub(super) fn new(checkpoint: &Checkpoint, asked: bool, roundings: &PerRole<Rounding>) -> Self {
        let (matrices, provenance) =
            (|| checkpoint.weights.matrices(Role::Experts), &checkpoint.provenances.experts);
        let matrices_summary =
            MatricesSummary::new(matrices(), provenance, asked, &roundings.experts);
        let fit = matrices().all(Matrix::fills_blocks);
        let mxfp4_bytes = matrices_summary.numbers / mxfp4::BLOCK * (mxfp4::BLOCK / 2 + 1);
        Self {
            matrices: matrices_summary,
            counts: checkpoint.config.experts.clone(),
            mxfp4_bytes: fit.then_some(mxfp4_bytes),
        }
    }
}

impl MatricesSummary {
    pub(super) fn new<'m>(
        matrices: impl Iterator<Item = &'m Matrix>,
        provenance: &Provenance,
        asked: bool,
        rounding: &Rounding,
    ) -> Self {
        let matrices: Vec<&Matrix> = matrices.collect();
        let weights = matrices.iter().flat_map(|matrix| matrix.weights());
        Self {
            provenance: provenance.after(rounding),
            numbers: matrices.iter().map(|matrix| matrix.num_elements()).sum(),
            bytes: weights.map(Weight::bytes).sum(),
            already: asked && rounding.numbers == 0,
            converted: (rounding.numbers > 0).then(|| Converted {
                numbers: rounding.numbers,
                rounded: rounding.changed,
                lossless: rounding.is_lossless(),
                relative_error: rounding.relative_error(),
            }),
        }
    }
}

/// The ONNX file.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSummary {
    /// Where it is.
    pub path: PathBuf,
    /// Its size: the graph alone.
    pub bytes: usize,
    /// ONNX's IR version.
    pub ir_version: i64,
    /// Version of the standard operators.
    pub opset: i64,
    /// What runs it.
    pub requires: &'static str,
    /// The execution provider that it is for.
    #[serde(skip)]
    pub(super) provider: Provider,
    /// Whose operators it is made of.
    #[serde(skip)]
    pub(super) target: Target,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// Names of the model-local functions, callees first.
    pub functions: Vec<String>,
    /// What it takes.
    pub inputs: Vec<ValueInfo>,
    /// What it gives.
    pub outputs: Vec<ValueInfo>,
}

/// Where the weights are.
#[derive(Clone, Debug, Serialize)]
pub struct WeightsSummary {
    /// Whether the model reads the source's own files.
    pub in_place: bool,
    /// What kept it from doing so, when nobody asked for a copy.
    pub obstacle: Option<String>,
    /// The files that the model reads, relative to its folder.
    pub files: Vec<String>,
    /// Weights files that were written.
    pub written: Vec<PathBuf>,
    /// Weights files that were there with the very bytes.
    pub reused: Vec<PathBuf>,
    /// Bytes of all weights.
    pub bytes_referenced: u64,
    /// Bytes of weights files that were written.
    pub bytes_written: u64,
}

impl ModelSummary {
    pub(super) fn new(path: &Path, model: &Model, bytes: usize, options: &GraphOptions) -> Self {
        let values = &model.main.values;
        let value_info = |id: &usize| ValueInfo::new(&values[*id].0, &values[*id].1);
        Self {
            path: path.to_owned(),
            bytes,
            ir_version: ir_version(model),
            opset: OPSET,
            requires: options.requires(),
            provider: options.provider,
            target: options.target,
            nodes: model.main.body.nodes.len(),
            functions: model.functions.iter().map(|function| function.name.clone()).collect(),
            inputs: model.main.body.inputs.iter().map(value_info).collect(),
            outputs: model.main.body.outputs.iter().map(value_info).collect(),
        }
    }
}

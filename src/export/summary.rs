//! What an export has done: JSON as it stands, text by `text.rs`.
#![allow(missing_docs)] // names that say everything

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use serde::Serialize;

use super::{GenaiSummary, Preset, TransformersJsSummary};
use crate::adapter::{AdaptedModules, FittedAdapter};
use crate::checkpoint::{AdapterRecord, Config, IgnoredNames, ModelWeights};
use crate::error::Result;
use crate::files::{FileRange, lossy_path, lossy_paths};
use crate::hub;
use crate::model::{GraphOptions, LimitedCaches, ModelPart};
use crate::onnx::ValueInfo;
use crate::tensor::{Rounding, mxfp4};
use crate::weights::{Matrix, Provenance, Weight, Zeros};

/// What an export has done.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Summary {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    #[serde(skip)]
    pub(super) preset_changes: Vec<String>,
    pub layout: String,
    /// What was left out or decided when the checkpoint was read.
    pub notes: Vec<String>,
    /// Layers exported.
    pub layers: usize,
    /// Layers of the checkpoint.
    pub layers_there: usize,
    /// What was ignored of the checkpoint.
    pub ignored: IgnoredNames,
    /// Fingerprint of the weights; `None` while they are on the hub.
    pub fingerprint: Option<String>,
    /// Weights that seem to be of zeros alone.
    #[serde(skip_serializing_if = "Zeros::is_empty")]
    pub zeros: Zeros,
    pub hub: Option<HubSummary>,
    /// Adapters that this export added, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterSummary>,
    /// Adapters that the model has, of a staged file too.
    #[serde(skip)]
    pub(super) adapter_records: Vec<AdapterRecord>,
    /// The folder or staged file of the weights.
    #[serde(serialize_with = "lossy_path")]
    pub source: PathBuf,
    /// The model or a part of it, unless it was cut into stages, or weights alone were staged.
    pub model: Option<ModelSummary>,
    /// The stages of the model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<ModelSummary>,
    pub genai: Option<GenaiSummary>,
    pub transformers_js: Option<TransformersJsSummary>,
    /// Configs for onnxruntime-genai that were written for the model that this one replaces.
    #[serde(serialize_with = "lossy_paths", skip_serializing_if = "Vec::is_empty")]
    pub outdated: Vec<PathBuf>,
    pub experts: ExpertsSummary,
    /// The matrices of attention and lm_head.
    pub dense: MatricesSummary,
    pub weights: WeightsSummary,
    /// Wall time.
    pub seconds: f64,
}

/// A checkpoint from the hub.
#[derive(Clone, Debug, Serialize)]
pub struct HubSummary {
    /// Repository, commit and folder.
    pub source: String,
    /// Local folder of the repository's files.
    #[serde(serialize_with = "lossy_path")]
    pub folder: PathBuf,
    pub fetched: Vec<String>,
    pub bytes_fetched: u64,
    /// Weights files that are still on the hub.
    pub awaited: Vec<String>,
    pub bytes_awaited: u64,
}

/// An adapter.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterSummary {
    /// As the model's metadata lists it.
    #[serde(flatten)]
    pub record: AdapterRecord,
    /// Whether a runtime adds it.
    #[serde(skip)]
    pub(super) is_apart: bool,
    /// The file from which a runtime adds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Several, for the stages that it changes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// The part of a model that the file is for; other stages need files of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<ModelPart>,
    /// The base that its config names.
    pub base: Option<String>,
    /// In the layers exported.
    pub modules: Vec<AdaptedModules>,
    /// Bytes of its values.
    pub bytes: u64,
    /// What is told if it changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// The matrices of experts.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertsSummary {
    #[serde(flatten)]
    pub matrices: MatricesSummary,
    /// Number of experts in each layer.
    pub counts: Vec<u64>,
    /// Their size in MXFP4, if rows are whole blocks.
    pub mxfp4_bytes: Option<u64>,
}

/// Some matrices.
#[derive(Clone, Debug, Serialize)]
pub struct MatricesSummary {
    /// What became of their values since the checkpoint.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Number of values.
    pub numbers: u64,
    /// Size in the model.
    pub bytes: u64,
    /// The conversion in this export.
    pub converted: Option<Converted>,
    /// Whether they had the requested format already.
    pub already: bool,
}

/// The result of a conversion.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Converted {
    /// Number of values.
    pub numbers: u64,
    /// Values that changed.
    pub rounded: u64,
    pub lossless: bool,
    /// Norm of the error divided by the norm of the values.
    pub relative_error: f64,
}

/// The ONNX file.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSummary {
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// What it has of a model, if that is not all.
    #[serde(rename = "stage", skip_serializing_if = "Option::is_none")]
    pub part: Option<PartSummary>,
    /// Without external data.
    pub bytes: usize,
    pub ir_version: i64,
    pub opset: i64,
    pub requires: &'static str,
    /// What its runtime rounds while it computes; the rounding of weights is in their provenance.
    pub rounding: Vec<&'static str>,
    #[serde(skip)]
    pub(super) options: GraphOptions,
    /// Numbers of the layers, from 0, whose experts run in a Loop of standard operators although the
    /// target has a faster one for the checkpoint's: adapters change them, or may change them at run
    /// time, or were merged into formats that it does not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slowed_layers: Vec<usize>,
    /// Caches that keep the last tokens alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limited_caches: Vec<LimitedCaches>,
    /// What a runtime may change by adapters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub swappable: Vec<AdaptedModules>,
    /// Number of nodes in the main graph.
    pub nodes: usize,
    /// Model-local functions, callees first.
    pub functions: Vec<String>,
    pub inputs: Vec<ValueInfo>,
    pub outputs: Vec<ValueInfo>,
}

/// A part of a model, and the weights that it reads.
#[derive(Clone, Debug, Serialize)]
pub struct PartSummary {
    #[serde(flatten)]
    pub part: ModelPart,
    /// Bytes of its weights.
    pub weights_bytes: u64,
    /// Files that it reads, relative to its folder.
    pub files: BTreeSet<String>,
}

/// Where the weights are.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WeightsSummary {
    /// Whether the model reads the source's own files.
    pub in_place: bool,
    /// Why the source is not read in place, unless a copy was asked for.
    pub obstacle: Option<String>,
    /// Files that the model reads, relative to its folder.
    pub files: Vec<String>,
    /// New weights files.
    #[serde(serialize_with = "lossy_paths")]
    pub written: Vec<PathBuf>,
    /// Existing weights files with the same bytes.
    #[serde(serialize_with = "lossy_paths")]
    pub reused: Vec<PathBuf>,
    /// Weights files of former exports that no model beside them reads any more.
    #[serde(serialize_with = "lossy_paths", skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<PathBuf>,
    /// Bytes of all weights.
    pub bytes_referenced: u64,
    /// Bytes of the new weights files.
    pub bytes_written: u64,
}

impl HubSummary {
    pub(super) fn new(repository: &hub::Repository) -> Self {
        let paths =
            |files: &[hub::RemoteFile]| files.iter().map(|file| file.path.clone()).collect();
        let bytes = |files: &[hub::RemoteFile]| files.iter().map(|file| file.size).sum();
        let hub::Repository { fetched, missing_weights: awaited, .. } = repository;
        Self {
            source: repository.source(),
            folder: repository.root().to_owned(),
            fetched: paths(fetched),
            bytes_fetched: bytes(fetched),
            awaited: paths(awaited),
            bytes_awaited: bytes(awaited),
        }
    }
}

impl AdapterSummary {
    /// Of an adapter that will be in files, or in the model.
    pub(super) fn new(
        adapter: FittedAdapter,
        is_apart: bool,
        mut files: Vec<PathBuf>,
    ) -> Result<Self> {
        let FittedAdapter { file: read, changes, record, modules, .. } = adapter;
        let tensors = read.modules.values().flat_map(|parts| parts.values());
        let bytes = tensors.map(|it| it.data.len()).sum();
        let (base, warning) = (read.config.base.clone(), read.warning(Some(changes.layers))?);
        let file = if files.len() == 1 { files.pop() } else { None };
        Ok(Self { record, is_apart, file, files, base, part: None, modules, bytes, warning })
    }
}

impl ModelSummary {
    /// A model, or its stages as one.
    pub(super) fn joined<'s>(models: impl Iterator<Item = &'s Self> + Clone) -> Option<Self> {
        let slowed = models.clone().flat_map(|it| &it.slowed_layers).copied();
        let caches = models.clone().flat_map(|it| &it.limited_caches);
        let swappable = models.clone().flat_map(|it| &it.swappable);
        Some(Self {
            slowed_layers: slowed.collect(),
            limited_caches: LimitedCaches::joined(caches),
            swappable: AdaptedModules::joined(swappable),
            ..models.clone().next()?.clone()
        })
    }
}

impl PartSummary {
    pub(super) fn new(
        part: &ModelPart,
        weights: &ModelWeights,
        ranges: &HashMap<String, FileRange>,
    ) -> Self {
        Self {
            part: part.clone(),
            weights_bytes: part.weights(weights).map(Weight::bytes).sum(),
            files: ranges.values().map(|it| it.file.to_string_lossy().into_owned()).collect(),
        }
    }

    /// Whether it is one of the stages of a model.
    pub(super) fn is_stage(&self) -> bool {
        self.part.stage.is_some()
    }
}

impl ExpertsSummary {
    pub(super) fn new(config: &Config, matrices: MatricesSummary, fit_mxfp4: bool) -> Self {
        let mxfp4_bytes = matrices.numbers / mxfp4::BLOCK * (mxfp4::BLOCK / 2 + 1);
        Self {
            matrices,
            counts: config.experts.clone(),
            mxfp4_bytes: fit_mxfp4.then_some(mxfp4_bytes),
        }
    }
}

impl MatricesSummary {
    pub(super) fn new(
        matrices: &[&Matrix],
        provenance: &Provenance,
        asked: bool,
        rounding: &Rounding,
    ) -> Self {
        Self {
            provenance: provenance.after(rounding),
            numbers: matrices.iter().map(|it| it.num_elements()).sum(),
            bytes: matrices.iter().flat_map(|it| &it.parts).map(Weight::bytes).sum(),
            already: asked && rounding.values == 0,
            converted: (rounding.values > 0).then(|| Converted {
                numbers: rounding.values,
                rounded: rounding.changed,
                lossless: rounding.is_lossless(),
                relative_error: rounding.relative_error(),
            }),
        }
    }
}

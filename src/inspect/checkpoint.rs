//! A checkpoint or a staged weights file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::scan::{Scan, scan};
use super::tensors::{Filter, ListedFile, ListedTensor, Selection, Total, totals};
use crate::checkpoint::{Checkpoint, Config, IgnoredNames};
use crate::container::Header;
use crate::error::{Error, Result};
use crate::files::{FileRange, lossy_path, parent_dir};
use crate::model::{GraphOptions, ModelPart, Target, decoder};
use crate::progress::Progress;
use crate::weights::{self, FileCache, Fingerprint, PerRole, Provenance, Samples, Weight, Zeros};

/// What a checkpoint is.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct CheckpointInspection {
    /// Folder or staged file.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    pub layout: String,
    /// What was left out or decided when it was read.
    pub notes: Vec<String>,
    /// What was ignored of it.
    pub ignored: IgnoredNames,
    pub fingerprint: Fingerprint,
    /// Weights that seem to be of zeros alone.
    #[serde(skip_serializing_if = "Zeros::is_empty")]
    pub zeros: Zeros,
    pub config: Config,
    /// Formats and history of matrices.
    #[serde(flatten)]
    pub provenances: PerRole<Provenance>,
    pub files: Vec<ListedFile>,
    pub targets: Vec<TargetSupport>,
    /// Bytes of all weights.
    pub bytes: u64,
    /// Bytes that a model in this folder cannot reference in place.
    pub bytes_to_write: u64,
    /// Why a model in this folder cannot reference all weights in place.
    pub obstacle: Option<String>,
    pub totals: Vec<Total>,
    pub tensors: Selection,
    /// Result of the scan, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
    /// What keeps its weights from being exported, as far as samples tell.
    #[serde(skip)]
    pub refusal: Option<Error>,
}

/// Whether a target supports a checkpoint.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct TargetSupport {
    /// `onnx` or `ort`.
    pub target: String,
    /// What runs the model.
    pub requires: &'static str,
    /// Why it is not supported.
    pub refused: Option<String>,
}

/// Describes a checkpoint in a folder, or in a staged weights file that records a fingerprint.
/// With `progress` all values are scanned too. Unless it `allows_zeros`, zeros in the place of vital
/// weights keep it from being exported.
pub fn inspect(
    path: &Path,
    checkpoint: Checkpoint,
    recorded: Option<Fingerprint>,
    filter: &Filter,
    allows_zeros: bool,
    progress: Option<&dyn Progress>,
) -> Result<CheckpointInspection> {
    let samples = match recorded {
        None => checkpoint.samples()?,
        Some(fingerprint) => {
            let stored = checkpoint.weights.iter();
            Samples { fingerprint, ..Samples::of_stored(stored, &mut FileCache::default())? }
        }
    };
    let Samples { fingerprint, faults } = samples;
    let has_vital = || if allows_zeros { Ok(()) } else { faults.zeros.require_vital() };
    let refusal = faults.require_finite().and_then(|()| has_vital()).err();
    let folder = if path.is_dir() { path } else { parent_dir(path) };
    let weights = || checkpoint.weights.iter();
    let relative = |file: &Path| file.strip_prefix(folder).unwrap_or(file).to_owned();
    let mut headers = BTreeMap::new();
    for FileRange { file, .. } in weights().flat_map(|weight| weight.recipe.sources()) {
        if !headers.contains_key(file) {
            headers.insert(file.clone(), Header::read(file)?);
        }
    }
    let stored = headers.values().flat_map(|header| &header.tensors);
    let names: HashMap<(&Path, u64), &String> =
        stored.map(|it| ((&*it.data.file, it.data.range.start), &it.name)).collect();
    let files = headers.iter().map(|(file, header)| ListedFile {
        file: relative(file).display().to_string(),
        tensors: header.tensors.len(),
        bytes: header.tensors.iter().map(|tensor| tensor.data.len()).sum(),
    });
    let tensors = weights().map(|weight| {
        let sources = weight.recipe.sources();
        let stored_as = sources.iter().filter_map(|it| names.get(&(&*it.file, it.range.start)));
        let stored_as = stored_as.copied().filter(|name| **name != weight.name).cloned();
        let place = |it: &&FileRange| FileRange {
            file: relative(&it.file).into(),
            range: it.range.clone(),
        };
        ListedTensor {
            name: weight.name.clone(),
            stored_as: stored_as.collect(),
            dtype: weight.dtype.to_string(),
            shape: weight.shape.clone(),
            places: sources.iter().map(place).collect(),
        }
    });
    let tensors: Vec<ListedTensor> = tensors.collect();
    let references = weights::reference(weights(), folder)?;
    let obstacle = references.obstacle.map(|(file, obstacle)| {
        let of_file = format!("`{}`: {obstacle}", file.display());
        if obstacle.concerns_file() { of_file } else { obstacle.to_string() }
    });
    let part = ModelPart::whole(checkpoint.config.num_layers());
    let support = |target: Target| {
        let options = GraphOptions { target, ..GraphOptions::default() };
        let refused = decoder(&checkpoint.config, &checkpoint.weights, &part, options).err();
        TargetSupport {
            target: target.to_string(),
            requires: options.requires(),
            refused: refused.map(|error| error.to_string()),
        }
    };
    Ok(CheckpointInspection {
        path: path.to_owned(),
        layout: checkpoint.layout.clone(),
        notes: checkpoint.notes.clone(),
        ignored: checkpoint.ignored.clone(),
        fingerprint,
        refusal,
        zeros: faults.zeros,
        provenances: checkpoint.provenances.clone(),
        files: files.collect(),
        targets: [Target::Onnx, Target::Ort].map(support).into(),
        bytes: weights().map(Weight::bytes).sum(),
        bytes_to_write: references.others.iter().map(|weight| weight.bytes()).sum(),
        obstacle,
        totals: totals(&tensors),
        scan: progress.map(|progress| scan(weights(), &tensors, progress)).transpose()?,
        tensors: filter.apply(tensors),
        config: checkpoint.config,
    })
}

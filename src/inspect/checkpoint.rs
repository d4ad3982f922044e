//! A checkpoint or a staged weights file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tensors::{Filter, ListedTensor, SourceFile, SourceFiles, Total, totals};
use crate::checkpoint::{Checkpoint, Config, IgnoredNames};
use crate::error::Result;
use crate::files::parent_dir;
use crate::model::{GraphOptions, Target, decoder};
use crate::progress::{Progress, Unit, phase};
use crate::weights::{self, FileCache, Fingerprint, Provenance, Weight, count_non_finite};

/// What a checkpoint is.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointInspection {
    /// Folder or staged file.
    pub path: PathBuf,
    /// Name of the layout.
    pub layout: &'static str,
    /// Fingerprint of its weights.
    pub fingerprint: String,
    /// The model's config.
    pub config: Config,
    /// Format and history of the experts.
    pub experts: Provenance,
    /// Format and history of attention and lm_head.
    pub dense: Provenance,
    /// SafeTensors files.
    pub files: Vec<SourceFile>,
    /// Whether each target supports it.
    pub targets: Vec<TargetSupport>,
    /// Bytes of all weights.
    pub bytes: u64,
    /// Bytes that a model in this folder cannot reference in place.
    pub bytes_to_write: u64,
    /// Why it cannot.
    pub obstacle: Option<String>,
    /// Tensors and bytes by kind.
    pub totals: Vec<Total>,
    /// The tensors that the filter selects.
    pub tensors: Vec<ListedTensor>,
    /// Result of the scan, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
}

/// Whether a target supports a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct TargetSupport {
    /// `onnx` or `ort`.
    pub target: String,
    /// What runs the model.
    pub requires: &'static str,
    /// Why it does not.
    pub refused: Option<String>,
}

/// Infinite and NaN values in a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Scan {
    /// Bytes that were read.
    pub bytes: u64,
    /// Tensors that have some.
    pub damaged: Vec<DamagedTensor>,
}

/// A tensor with infinite or NaN values, or invalid MXFP4 scales.
#[derive(Clone, Debug, Serialize)]
pub struct DamagedTensor {
    /// Canonical name.
    pub tensor: String,
    /// Number of values; scales and blocks of MXFP4 are separate tensors.
    pub numbers: u64,
    /// How many are infinite or NaN.
    pub not_finite: u64,
}

/// Describes a checkpoint's folder or a staged weights file.
pub fn inspect(
    path: &Path,
    filter: &Filter,
    ignored: &IgnoredNames,
    progress: Option<&dyn Progress>,
) -> Result<CheckpointInspection> {
    let (folder, checkpoint, fingerprint) = if path.is_dir() {
        let checkpoint = Checkpoint::open(path, ignored)?;
        let fingerprint = Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())?;
        (path, checkpoint, fingerprint)
    } else {
        let (checkpoint, metadata) = Checkpoint::open_staged(path)?;
        (parent_dir(path), checkpoint, metadata.fingerprint)
    };
    let weights = || checkpoint.weights.iter();
    let sources = weights().flat_map(|weight| weight.recipe.sources());
    let files: BTreeSet<PathBuf> = sources.map(|source| source.file.to_path_buf()).collect();
    let files = SourceFiles::read(folder, &files)?;
    let references = weights::reference(weights(), folder)?;
    let obstacle = references.obstacle.map(|(file, obstacle)| {
        let concerned = if obstacle.concerns_file() {
            format!("`{}`: ", file.display())
        } else {
            String::new()
        };
        format!("{concerned}{obstacle}")
    });
    let tensors: Vec<_> = weights().map(|weight| files.tensor(weight)).collect();
    Ok(CheckpointInspection {
        path: path.to_owned(),
        layout: checkpoint.layout,
        fingerprint: fingerprint.to_string(),
        experts: checkpoint.provenances.experts.clone(),
        dense: checkpoint.provenances.dense.clone(),
        files: files.summarize(),
        targets: [Target::Onnx, Target::Ort].map(|target| support(&checkpoint, target)).into(),
        bytes: weights().map(Weight::bytes).sum(),
        bytes_to_write: references.others.iter().map(|weight| weight.bytes()).sum(),
        obstacle,
        totals: totals(&tensors),
        tensors: filter.apply(tensors),
        config: checkpoint.config.clone(),
        scan: progress.map(|progress| scan(&checkpoint, progress)).transpose()?,
    })
}

fn support(checkpoint: &Checkpoint, target: Target) -> TargetSupport {
    let options = GraphOptions { target, ..GraphOptions::default() };
    let refused = decoder(&checkpoint.config, &checkpoint.weights, options).err();
    TargetSupport {
        target: target.to_string(),
        requires: options.requires(),
        refused: refused.map(|error| error.to_string()),
    }
}

fn scan(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Scan> {
    let bytes = checkpoint.weights.iter().map(Weight::bytes).sum();
    let _phase = phase(progress, "reading weights", Unit::Bytes, bytes);
    let (mut files, mut damaged) = (FileCache::default(), Vec::new());
    for weight in checkpoint.weights.iter() {
        let not_finite = count_non_finite(weight, &mut files, progress)?;
        let (tensor, numbers) = (weight.name.clone(), weight.shape.iter().product());
        damaged.extend((not_finite > 0).then_some(DamagedTensor { tensor, numbers, not_finite }));
    }
    Ok(Scan { bytes, damaged })
}

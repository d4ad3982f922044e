//! A checkpoint or a staged weights file: its config, and what becomes of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Scan;
use super::tensors::{Filter, Stored, Tensor, Total, totals};
use crate::checkpoint::{Checkpoint, Config, Leniency};
use crate::container::Header;
use crate::error::Error;
use crate::files::parent_dir;
use crate::model::{GraphOptions, Target, decoder};
use crate::weights::{self, Fingerprint, Provenance, Weight};

/// What a checkpoint is.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointInspection {
    /// Where it is.
    pub path: PathBuf,
    /// The layout's name.
    pub layout: &'static str,
    /// What identifies its weights.
    pub fingerprint: String,
    /// The numbers that define the model.
    pub config: Config,
    /// The format of the experts' numbers, and what became of them.
    pub experts: Provenance,
    /// Of the matrices of attention and of the logits likewise.
    pub dense: Provenance,
    /// Its SafeTensors files.
    pub files: Vec<SourceFile>,
    /// What each target says to it.
    pub targets: Vec<Fit>,
    /// Bytes of all weights.
    pub bytes: u64,
    /// How many of them a model in this folder cannot read where they are.
    pub bytes_to_write: u64,
    /// Why.
    pub obstacle: Option<String>,
    /// How much there is of each kind.
    pub totals: Vec<Total>,
    /// The tensors that were asked for.
    pub tensors: Vec<Tensor>,
    /// What reading all weights has found, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
}

/// A file with weights.
#[derive(Clone, Debug, Serialize)]
pub struct SourceFile {
    /// From the checkpoint's folder.
    pub file: String,
    /// Tensors that it holds.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What a target says to a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// `onnx` or `ort`.
    pub target: String,
    /// What runs the model.
    pub requires: &'static str,
    /// Why there is none.
    pub refused: Option<String>,
}

/// A checkpoint's folder.
pub fn folder(
    path: &Path,
    filter: &Filter,
    leniency: &Leniency,
) -> Result<CheckpointInspection, Error> {
    let checkpoint = Checkpoint::open(path, leniency)?;
    let fingerprint =
        Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())?.to_string();
    describe(path, path, checkpoint, fingerprint, filter)
}

/// A file that was staged.
pub fn staged(path: &Path, filter: &Filter) -> Result<CheckpointInspection, Error> {
    let (checkpoint, said) = Checkpoint::open_staged(path)?;
    describe(path, parent_dir(path), checkpoint, said.fingerprint.to_string(), filter)
}

fn describe(
    path: &Path,
    folder: &Path,
    checkpoint: Checkpoint,
    fingerprint: String,
    filter: &Filter,
) -> Result<CheckpointInspection, Error> {
    let weights = || checkpoint.weights.iter();
    let sources = weights().flat_map(|weight| weight.recipe.sources());
    let files: BTreeSet<PathBuf> = sources.map(|source| source.file.to_path_buf()).collect();
    let stored = Stored::read(folder, &files)?;
    let (bytes_to_write, obstacle) = to_write(&checkpoint, folder)?;
    let described =
        weights().map(|weight| (weight.name.clone(), weight.dtype.to_string(), weight.bytes()));
    Ok(CheckpointInspection {
        path: path.to_owned(),
        layout: checkpoint.layout,
        fingerprint,
        experts: checkpoint.provenances.experts.clone(),
        dense: checkpoint.provenances.dense.clone(),
        files: stored
            .files
            .iter()
            .map(|(file, header)| SourceFile::new(stored.within(file), header))
            .collect(),
        targets: [Target::Onnx, Target::Ort].map(|target| fit(&checkpoint, target)).into(),
        bytes: weights().map(Weight::bytes).sum(),
        bytes_to_write,
        obstacle,
        totals: totals(described),
        tensors: filter.apply(weights().map(|weight| stored.tensor(weight))),
        config: checkpoint.config,
        scan: None,
    })
}

impl SourceFile {
    /// One with this header.
    fn new(file: String, header: &Header) -> Self {
        let bytes = header.tensors.iter().map(|entry| entry.range.end - entry.range.start).sum();
        Self { file, tensors: header.tensors.len(), bytes }
    }
}

fn fit(checkpoint: &Checkpoint, target: Target) -> Fit {
    let options = GraphOptions { target, ..GraphOptions::default() };
    let refused = decoder(&checkpoint.config, &checkpoint.weights, options).err();
    Fit {
        target: target.to_string(),
        requires: options.requires(),
        refused: refused.map(|error| error.to_string()),
    }
}

/// How many bytes a model in the folder cannot reference in place, and why.
fn to_write(checkpoint: &Checkpoint, folder: &Path) -> Result<(u64, Option<String>), Error> {
    let found = weights::reference(checkpoint.weights.iter(), folder)?;
    let bytes = found.others.iter().map(|weight| weight.bytes()).sum();
    let obstacle = found.blocker().map(|(file, blocker)| match &found.blocked_file {
        Some(_) => format!("`{}`: {blocker}", file.display()),
        None => blocker.to_string(),
    });
    Ok((bytes, obstacle))
}

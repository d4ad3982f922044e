//! The checkpoint that a model is compared with, in the formats of the model.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Serialize;

use super::model_file::ModelFile;
use crate::checkpoint::{Checkpoint, IgnoredNames, ModelWeights};
use crate::error::{Result, ensure};
use crate::files::FileRange;
use crate::metadata::ModelMetadata;
use crate::weights::{Fingerprint, MatrixFormat, Recipe, Role};

/// Whether a model was made from the checkpoint, by the fingerprint in its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
#[allow(missing_docs)]
pub enum Identity {
    /// It was.
    Same,
    /// It was, with matrices converted to these formats.
    Converted { experts: String, dense: String },
    /// It was not, or the checkpoint changed since.
    Different { model: String, checkpoint: String },
    /// The model has no fingerprint.
    Unknown,
}

/// Opens a checkpoint's folder, or a staged file with the fingerprint that it claims.
pub fn open(path: &Path, ignored: &IgnoredNames) -> Result<(Checkpoint, Option<Fingerprint>)> {
    ensure!(
        path.exists(),
        "there is nothing at `{}`: expected the folder that holds config.json, or a staged weights file",
        path.display()
    );
    if path.is_file() {
        let (checkpoint, metadata) = Checkpoint::open_staged(path)?;
        return Ok((checkpoint, Some(metadata.fingerprint)));
    }
    Ok((Checkpoint::open(path, ignored)?, None))
}

/// Reduces a checkpoint, which may claim a fingerprint, to the layers of the model, converts its
/// matrices to the model's formats, and tells whether the model was made from it.
pub fn match_model(
    checkpoint: &mut Checkpoint,
    claimed: Option<Fingerprint>,
    model: &ModelFile,
) -> Result<Identity> {
    let (vocab, all) = (checkpoint.config.vocab_size, checkpoint.layers_there);
    let metadata = model.metadata.as_ref();
    let layers = metadata.map_or(all, |metadata| metadata.layers);
    ensure!(
        model.interface.vocab == vocab,
        "the model has a vocabulary of {} tokens, the checkpoint of {vocab}: the model was made from another checkpoint",
        model.interface.vocab
    );
    ensure!(
        layers <= all,
        "the model has {layers} layers, the checkpoint {all}: the model was made from another checkpoint"
    );
    checkpoint.truncate(layers)?;
    let Some(metadata) = metadata else { return Ok(Identity::Unknown) };
    let found = fingerprint(checkpoint)?;
    convert(checkpoint, model, metadata);
    let Some(wanted) = &metadata.fingerprint else { return Ok(Identity::Unknown) };
    if found == *wanted || layers == all && claimed.as_ref() == Some(wanted) {
        return Ok(Identity::Same);
    }
    if fingerprint(checkpoint)? == *wanted {
        let [experts, dense] =
            Role::ALL.map(|role| checkpoint.provenances[role].format.to_string());
        return Ok(Identity::Converted { experts, dense });
    }
    Ok(Identity::Different { model: wanted.to_string(), checkpoint: found.to_string() })
}

/// Takes the values of converted matrices from the model's files. The comparison of bytes
/// tells whether they are what the conversion makes.
pub fn take_values_from(checkpoint: &mut Checkpoint, model: &ModelFile) {
    let tensors = model.tensors().filter(|it| it.slice.is_none_or(|slice| slice.start == 0));
    // Slices of one weight are contiguous.
    let starts: HashMap<&str, FileRange> = tensors.map(|it| (it.weight, it.data)).collect();
    for role in Role::ALL {
        let matrices = checkpoint.weights.matrices_mut(role);
        let weights = matrices.flat_map(|matrix| &mut matrix.parts);
        for weight in weights.filter(|weight| weight.is_converted()) {
            if let Some(FileRange { file, range }) = starts.get(&*weight.name) {
                let range = range.start..range.start.saturating_add(weight.bytes());
                weight.recipe = Recipe::Slice(FileRange { file: file.clone(), range });
            }
        }
    }
}

fn fingerprint(checkpoint: &Checkpoint) -> Result<Fingerprint> {
    Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())
}

/// Converts matrices to the formats of the model. If that is not possible, the model was made
/// from another checkpoint, and its bytes will differ.
fn convert(checkpoint: &mut Checkpoint, model: &ModelFile, metadata: &ModelMetadata) {
    let names: HashSet<&str> = model.tensors().map(|tensor| tensor.weight).collect();
    for role in Role::ALL {
        let format = &metadata.provenances[role].format;
        let is_same = *format == checkpoint.weights.formats(role)
            && has_names_of(&names, &checkpoint.weights, role);
        let target = format.common().filter(|target| MatrixFormat::TARGETS.contains(target));
        if let Some(target) = target.filter(|_| !is_same) {
            let mut converted = checkpoint.clone();
            if converted.convert(role, target, true).is_ok() {
                *checkpoint = converted;
            }
        }
    }
}

/// Whether a model has matrices under the names that they have in the checkpoint: formats do
/// not tell a transposed matrix, nor an lm_head that is no longer the embedding.
fn has_names_of(model: &HashSet<&str>, weights: &ModelWeights, role: Role) -> bool {
    let mut names = weights.matrices(role).flat_map(|it| &it.parts).map(|weight| &*weight.name);
    let is_lm_head = |name: &&str| name.starts_with("lm_head.");
    let has_own_lm_head = || weights.lm_head.is_none() && model.iter().any(is_lm_head);
    names.all(|name| model.contains(name)) && !(role == Role::Dense && has_own_lm_head())
}

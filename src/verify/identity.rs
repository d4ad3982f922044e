//! Whether a model is of the checkpoint that it is held against.

use std::path::Path;

use serde::Serialize;

use super::formats;
use super::model::Model;
use super::opening::Opening;
use crate::checkpoint::{Checkpoint, IgnoredNames};
use crate::error::{Result, bail};
use crate::weights::Fingerprint;

/// Whose weights a model has, by the fingerprint in its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
#[allow(missing_docs)]
pub enum Identity {
    /// The checkpoint's.
    Same,
    /// The checkpoint's, with matrices in these formats.
    Converted { experts: String, dense: String },
    /// Others, or the checkpoint was changed since.
    Different { model: String, checkpoint: String },
    /// The model does not say.
    Unknown,
}

/// A checkpoint's folder or a staged file, with the fingerprint that it says.
pub fn open(path: &Path, ignored: &IgnoredNames) -> Result<(Checkpoint, Option<Fingerprint>)> {
    if !path.exists() {
        bail!(
            "there is nothing at `{}`: expected the folder that holds config.json, or a staged weights file",
            path.display()
        );
    }
    match path.is_file() {
        true => {
            let (checkpoint, said) = Checkpoint::open_staged(path)?;
            Ok((checkpoint, Some(said.fingerprint)))
        }
        false => Ok((Checkpoint::open(path, ignored)?, None)),
    }
}

/// A checkpoint with as many layers as a model has; the same in the formats that the
/// model has it in; and whether the two belong together.
pub fn settle(
    (mut checkpoint, said): (Checkpoint, Option<Fingerprint>),
    opening: &Opening,
    model: &Model,
) -> Result<(Checkpoint, Checkpoint, Identity)> {
    let layers = opening.metadata.as_ref().map(|metadata| metadata.layers);
    let layers = layers.unwrap_or(checkpoint.layers_there);
    for (what, model, checkpoint) in [
        ("tokens", model.vocab, checkpoint.config.vocab_size),
        ("layers", layers as u64, checkpoint.layers_there as u64),
    ] {
        if model > checkpoint || (what == "tokens" && model < checkpoint) {
            bail!(
                "the model has {model} {what}, the checkpoint {checkpoint}: the model was made from another checkpoint"
            );
        }
    }
    checkpoint.truncate(layers)?;
    let made = formats::as_made(&checkpoint, &opening.description);
    let identity =
        match opening.metadata.as_ref().and_then(|metadata| metadata.fingerprint.as_ref()) {
            Some(wanted) => identify(&checkpoint, &made, said, &wanted.to_string())?,
            None => Identity::Unknown,
        };
    Ok((checkpoint, made, identity))
}

/// A fingerprint tells the formats of matrices too.
fn identify(
    checkpoint: &Checkpoint,
    made: &Checkpoint,
    said: Option<Fingerprint>,
    wanted: &str,
) -> Result<Identity> {
    let of = |checkpoint: &Checkpoint| -> Result<String> {
        Ok(Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())?.to_string())
    };
    let found = of(checkpoint)?;
    let is_whole = checkpoint.config.num_layers() == checkpoint.layers_there;
    if found == wanted || said.is_some_and(|said| is_whole && said.to_string() == wanted) {
        return Ok(Identity::Same);
    }
    if of(made)? == wanted {
        let [experts, dense] = [&made.provenances.experts, &made.provenances.dense]
            .map(|numbers| numbers.format.to_string());
        return Ok(Identity::Converted { experts, dense });
    }
    Ok(Identity::Different { model: wanted.to_owned(), checkpoint: found })
}

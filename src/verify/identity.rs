//! Whether a model is of the checkpoint that it is held against.

use std::path::Path;

use serde::Serialize;

use super::model::Model;
use super::opening::Opening;
use super::{Error, Result};
use crate::checkpoint::{Checkpoint, Leniency};
use crate::weights::{Fingerprint, Format};

/// Whose weights a model has, by the fingerprint in its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
#[allow(missing_docs)]
pub enum Identity {
    /// The checkpoint's.
    Same,
    /// The checkpoint's, with experts in another format.
    Converted { format: String },
    /// Others, or the checkpoint was changed since.
    Different { model: String, checkpoint: String },
    /// The model does not say.
    Unknown,
}

/// A checkpoint's folder or a staged file, with the fingerprint that it says.
pub fn open(path: &Path, leniency: &Leniency) -> Result<(Checkpoint, Option<String>)> {
    if !path.exists() {
        return Err(Error::NoCheckpoint(path.to_owned()));
    }
    match path.is_file() {
        true => {
            let (checkpoint, said) = Checkpoint::open_staged(path)?;
            Ok((checkpoint, Some(said.fingerprint)))
        }
        false => Ok((Checkpoint::open(path, leniency)?, None)),
    }
}

/// Gives a checkpoint as many layers as a model has, and says whether the two
/// belong together.
pub fn settle(
    (mut checkpoint, said): (Checkpoint, Option<String>),
    opening: &Opening,
    model: &Model,
) -> Result<(Checkpoint, Identity)> {
    let layers = opening.property("layers").and_then(|layers| layers.parse().ok());
    let layers = layers.unwrap_or(checkpoint.layers_there);
    for (what, model, checkpoint) in [
        ("tokens", model.vocab, checkpoint.config.vocab_size),
        ("layers", layers as u64, checkpoint.layers_there as u64),
    ] {
        if model > checkpoint || (what == "tokens" && model < checkpoint) {
            return Err(Error::Another { what, model, checkpoint });
        }
    }
    checkpoint.truncate(layers)?;
    let identity = match opening.property("fingerprint") {
        Some(wanted) => identify(&checkpoint, said, wanted)?,
        None => Identity::Unknown,
    };
    Ok((checkpoint, identity))
}

/// A fingerprint tells the format of experts too, so the others are tried.
fn identify(checkpoint: &Checkpoint, said: Option<String>, wanted: &str) -> Result<Identity> {
    let of = |checkpoint: &Checkpoint| -> Result<String> {
        Ok(Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())?.to_string())
    };
    let found = of(checkpoint)?;
    let is_whole = checkpoint.config.num_layers() == checkpoint.layers_there;
    if found == wanted || said.is_some_and(|said| is_whole && said == wanted) {
        return Ok(Identity::Same);
    }
    for format in Format::ALL {
        let mut converted = checkpoint.clone();
        // What cannot be converted has not been.
        if converted.convert_experts(format, true).is_ok() && of(&converted)? == wanted {
            return Ok(Identity::Converted { format: format.to_string() });
        }
    }
    Ok(Identity::Different { model: wanted.to_owned(), checkpoint: found })
}

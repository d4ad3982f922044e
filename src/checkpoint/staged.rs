//! Weights files that an export wrote: SafeTensors with metadata.

use std::fmt::Display;
use std::path::Path;

use serde::Deserialize;

use super::config::Config;
use super::shards::Tensors;
use super::unsupported;
use crate::error::{Error, Result, bail, ensure, err};
use crate::weights::{FORMAT_VERSION, StagedMetadata};

/// The part of the metadata that every version has.
#[derive(Deserialize)]
struct StagedVersion {
    format: u32,
}

pub fn open(path: &Path) -> Result<(Tensors, StagedMetadata<Config>)> {
    ensure!(!path.is_dir(), "`{}` is a folder, expected a weights file", path.display());
    match Tensors::open_file(path) {
        Ok((tensors, Some(text))) => Ok((tensors, parse(path, &text)?)),
        Ok((_, None)) => bail!(
            "`{}` is not a weights file of gpt-oss-export; to use a checkpoint, give its folder",
            path.display()
        ),
        Err(error) => {
            let unsupported = path.is_file().then(|| unsupported::refuse_file(path)).flatten();
            Err(unsupported.unwrap_or(error))
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<StagedMetadata<Config>> {
    let invalid = |error: serde_json::Error| invalid_metadata(path, &error);
    // The version first: other versions may have other fields.
    let StagedVersion { format } = serde_json::from_str(text).map_err(invalid)?;
    ensure!(
        format == FORMAT_VERSION,
        "`{}` has weights format {format}, expected {FORMAT_VERSION}: save the weights again with this version",
        path.display()
    );
    let metadata: StagedMetadata<Config> = serde_json::from_str(text).map_err(invalid)?;
    metadata.config.check(&path.display().to_string())?;
    Ok(metadata)
}

/// That metadata is damaged.
pub fn invalid_metadata(path: &Path, reason: &dyn Display) -> Error {
    err!("`{}` has invalid metadata ({reason}): save the weights again", path.display())
}

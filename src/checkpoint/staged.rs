//! What a weights file of ours says of itself.

use std::path::Path;

use serde::Deserialize;

use super::files::{self, Tensors};
use super::{Config, Error, Result};
use crate::weights::{FORMAT_VERSION, StagedMetadata};

/// Which metadata it is.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Its tensors and metadata.
pub fn open(path: &Path) -> Result<(Tensors, StagedMetadata<Config>)> {
    let (tensors, metadata) = files::open_file(path)?;
    Ok((tensors, parse(path, metadata)?))
}

/// Its metadata, with the config checked like any other.
fn parse(path: &Path, metadata: Option<String>) -> Result<StagedMetadata<Config>> {
    let text = metadata.ok_or_else(|| Error::NotStaged(path.to_owned()))?;
    let invalid = |error: serde_json::Error| {
        let (path, reason) = (path.to_owned(), error.to_string());
        Error::StagedMetadata { path, reason }
    };
    // Another version may say other things, so look at the version first.
    let Version { format } = serde_json::from_str(&text).map_err(invalid)?;
    if format != FORMAT_VERSION {
        return Err(Error::StagedVersion { path: path.to_owned(), found: format });
    }
    let metadata: StagedMetadata<Config> = serde_json::from_str(&text).map_err(invalid)?;
    metadata.config.check(&path.display().to_string())?;
    Ok(metadata)
}

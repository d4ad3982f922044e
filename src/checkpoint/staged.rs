//! What a weights file of ours says of itself.

use std::path::Path;

use super::{Config, Error, Result};
use crate::weights::{FORMAT_VERSION, Metadata};

/// The config in a weights file's metadata, which is checked like any other.
pub fn parse(path: &Path, metadata: Option<String>) -> Result<(Config, Metadata)> {
    let text = metadata.ok_or_else(|| Error::NotStaged(path.to_owned()))?;
    let file = path.display().to_string();
    let invalid = |error: serde_json::Error| {
        let (path, reason) = (path.to_owned(), error.to_string());
        Error::StagedMetadata { path, reason }
    };
    let metadata: Metadata = serde_json::from_str(&text).map_err(invalid)?;
    if metadata.format != FORMAT_VERSION {
        return Err(Error::StagedVersion { path: path.to_owned(), found: metadata.format });
    }
    let config: Config = serde_json::from_value(metadata.config.clone()).map_err(invalid)?;
    config.check(&file)?;
    Ok((config, metadata))
}

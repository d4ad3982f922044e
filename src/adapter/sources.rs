//! Several adapters, as they are named in a request.

use std::fmt::Display;
use std::path::PathBuf;

use super::AdapterFile;
use crate::checkpoint::{ADAPTER_WEIGHTS, IgnoredNames};
use crate::error::{Error, Result, ensure};

/// An adapter, and how much of it to add.
#[derive(Clone, Debug)]
pub struct AdapterSource {
    /// By default that of its folder.
    pub name: Option<String>,
    /// Its folder, or its SafeTensors file.
    pub path: PathBuf,
    /// Multiplies what it adds; 1 adds what was trained.
    pub weight: f64,
}

impl AdapterSource {
    /// Its SafeTensors file.
    pub fn weights(&self) -> PathBuf {
        if self.path.is_dir() { self.path.join(ADAPTER_WEIGHTS) } else { self.path.clone() }
    }

    /// Refuses a weight that adds nothing.
    pub fn check(&self) -> Result<()> {
        let (path, weight) = (self.path.display(), self.weight);
        ensure!(
            weight.is_finite() && weight != 0.0,
            "adapter `{path}` has the weight {weight}, expected a number other than 0, such as 0.5: leave the adapter out to add nothing"
        );
        Ok(())
    }
}

impl Default for AdapterSource {
    /// The adapter in the current folder.
    fn default() -> Self {
        Self { name: None, path: ".".into(), weight: 1.0 }
    }
}

/// How an adapter and its weight are written in a request.
pub fn written(path: impl Display, weight: f64) -> String {
    if weight == 1.0 { path.to_string() } else { format!("{path}={weight}") }
}

/// The files, or all errors, and what is ignored of their base, which need not have the names that
/// are ignored of the files.
pub fn all_opened(
    files: impl Iterator<Item = Result<AdapterFile>>,
    ignored: &IgnoredNames,
) -> (Result<Vec<AdapterFile>>, IgnoredNames) {
    let files = Error::collect(files);
    let of_adapters = match &files {
        Ok(files) => files.iter().flat_map(|it| it.ignored.of_adapters.clone()).collect(),
        Err(_) => [&ignored.config_keys[..], &ignored.tensors].concat(),
    };
    (files, IgnoredNames { of_adapters, ..ignored.clone() })
}

//! The adapters of an export: their files, and what of them a checkpoint gets.

use super::{AdapterSource, AdapterSummary, Request};
use crate::adapter::{self, AdapterFile};
use crate::checkpoint::{Checkpoint, IgnoredNames};
use crate::error::{Error, Result};

/// Reads the configs and headers of adapters. The names that they ignore need not be in their base.
pub fn read(request: &Request) -> (Result<Vec<AdapterFile>>, IgnoredNames) {
    let mut ignored = request.ignored.clone();
    let files = collect(request.adapters.iter().map(|it| AdapterFile::open(&it.path, &ignored)));
    ignored.of_adapters = match &files {
        Ok(files) => files.iter().flat_map(|it| it.ignored.of_adapters.clone()).collect(),
        Err(_) => [&ignored.config_keys[..], &ignored.tensors].concat(),
    };
    (files, ignored)
}

/// Adds adapters to a whole checkpoint.
pub fn add(
    checkpoint: &mut Checkpoint,
    request: &Request,
    files: &[AdapterFile],
) -> Result<Vec<AdapterSummary>> {
    let fit = |(file, AdapterSource { weight, .. }): (_, &AdapterSource)| {
        Ok((adapter::fit(file, checkpoint, request.adapter_layout)?, *weight))
    };
    let fitted = collect(files.iter().zip(&request.adapters).map(fit))?;
    adapter::apply(checkpoint, &fitted)?;
    let fitted = files.iter().zip(&fitted);
    fitted.map(|(file, (adapter, weight))| AdapterSummary::new(file, adapter, *weight)).collect()
}

/// All values, or all errors.
fn collect<T>(results: impl Iterator<Item = Result<T>>) -> Result<Vec<T>> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    Error::all(errors)?;
    Ok(values)
}

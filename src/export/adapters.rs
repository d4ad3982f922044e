//! The adapters of an export: their files, and what of them a checkpoint gets.

use super::{AdapterSource, AdapterSummary, HubSource, Request};
use crate::adapter::{self, AdapterFile};
use crate::checkpoint::{ADAPTER_CONFIG, Checkpoint, IgnoredNames};
use crate::error::{Error, Result, Setting};
use crate::hub::HubFolder;
use crate::progress::Progress;

/// Fetches adapters from the hub, and reads the configs and headers of all. The names that they ignore
/// need not be in their base.
pub fn read(
    request: &Request,
    progress: &dyn Progress,
) -> (Result<Vec<AdapterFile>>, IgnoredNames) {
    let mut ignored = request.ignored.clone();
    let open = |it: &AdapterSource| {
        let source = it.hub.as_ref().map(|it| fetch(request, it, progress)).transpose()?;
        Ok(AdapterFile { source, ..AdapterFile::open(&it.path, &ignored)? })
    };
    let files = collect(request.adapters.iter().map(open));
    ignored.of_adapters = match &files {
        Ok(files) => files.iter().flat_map(|it| it.ignored.of_adapters.clone()).collect(),
        Err(_) => [&ignored.config_keys[..], &ignored.tensors].concat(),
    };
    (files, ignored)
}

/// Fetches the two files of an adapter; its name with the commit.
fn fetch(request: &Request, wanted: &HubSource, progress: &dyn Progress) -> Result<String> {
    let HubSource { name, folder, offline, .. } = wanted;
    let root = &folder.clone().unwrap_or_else(|| request.download_folder(name));
    let (config, setting, offline) = (ADAPTER_CONFIG, Setting::Adapter, *offline);
    let folder = HubFolder { name, root, config, setting, offline };
    folder.fetch(&[ADAPTER_CONFIG, adapter::WEIGHTS], progress)
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
    let summary = |(file, (adapter, weight)): (_, &(_, f64))| {
        AdapterSummary::new(file, adapter, *weight, request.merges())
    };
    fitted.map(summary).collect()
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

//! The adapters of an export: what of them a checkpoint gets.

use std::ffi::OsStr;
use std::path::Path;

use super::{AdapterAs, HubSource, Request, RequestedAdapter};
use crate::adapter::{self, Adapter, AdapterFile, AdapterSource, FittedAdapter, ModuleGroup};
use crate::checkpoint::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint, IgnoredNames};
use crate::error::{Error, Result, Setting, err};
use crate::hub::HubFolder;
use crate::progress::Progress;

/// Fetches adapters from the hub, and reads the configs and headers of all. The names that they ignore
/// need not be in their base.
pub fn read(
    request: &Request,
    progress: &dyn Progress,
) -> (Result<Vec<AdapterFile>>, IgnoredNames) {
    let open = |RequestedAdapter { source, hub }: &RequestedAdapter| {
        let on_hub = hub.as_ref().map(|it| fetch(request, it, progress)).transpose()?;
        Ok(AdapterFile { source: on_hub, ..AdapterFile::open(&source.path, &request.ignored)? })
    };
    adapter::all_opened(request.adapters.iter().map(open), &request.ignored)
}

/// Fetches the two files of an adapter; its name with the commit.
fn fetch(request: &Request, wanted: &HubSource, progress: &dyn Progress) -> Result<String> {
    let HubSource { name, folder, offline, .. } = wanted;
    let root = &folder.clone().unwrap_or_else(|| request.download_folder(name));
    let (config, setting, offline) = (ADAPTER_CONFIG, Setting::Adapter, *offline);
    let folder = HubFolder { name, root, config, setting, offline };
    folder.fetch(&[ADAPTER_CONFIG, ADAPTER_WEIGHTS], progress)
}

/// Adds adapters to a checkpoint, or lets a runtime add them.
pub fn add(
    checkpoint: &mut Checkpoint,
    request: &Request,
    adapters: &[FittedAdapter],
    progress: &dyn Progress,
) -> Result<()> {
    let changes: Vec<&Adapter> = adapters.iter().map(|it| &it.changes).collect();
    if request.adapter_as != AdapterAs::Swappable {
        return adapter::apply(checkpoint, &changes, progress);
    }
    check_names(adapters)?;
    // A copy of queries, keys or values is compared with those of the base.
    let mut replaced = changes.iter().flat_map(|it| &it.replacements);
    if replaced.any(|it| it.replaced.contains(".attn.")) {
        checkpoint.split_qkv();
    }
    let stored = |name: &str| Ok(checkpoint.weights.get(name).cloned());
    let mut misfits = Vec::new();
    for it in &changes {
        let misfit = adapter::require_swappable(it, stored, progress).err();
        misfits.extend(misfit.map(|error| error.with_remedy(Setting::AdapterAs, "inline")));
        progress.check_cancelled()?;
    }
    Error::all(misfits)?;
    // Without an adapter or a word on what may be changed, all of attention may.
    let groups = match &request.adapter_modules[..] {
        [] if adapters.is_empty() => &[ModuleGroup::Attention],
        groups => groups,
    };
    adapter::add_slots(checkpoint, groups, changes.into_iter())
}

/// Refuses names of adapters that two have or that are not names of files.
fn check_names(adapters: &[FittedAdapter]) -> Result<()> {
    let mut earlier: Vec<(&str, &Path)> = Vec::new();
    let errors = adapters.iter().filter_map(|FittedAdapter { source, record, .. }| {
        let (AdapterSource { path, weight, .. }, name) = (source, &*record.name);
        let shown = path.display();
        let other = earlier.iter().find(|(other, _)| *other == name);
        let error = match other {
            _ if Path::new(name).file_name() != Some(OsStr::new(name)) || name.contains('\\') => err!(
                "adapter `{shown}` has the name `{name}`, which cannot be that of a file: give it one without slashes"
            ),
            Some((_, other)) => err!(
                "adapters `{}` and `{shown}` both have the name `{name}`, and each becomes a file of its name: give them different ones",
                other.display()
            ),
            None => {
                earlier.push((name, path));
                return None;
            }
        };
        let named = format!("NAME={}", adapter::written(shown, *weight));
        Some(error.with_remedy(Setting::Adapter, named))
    });
    Error::all(errors.collect::<Vec<_>>())
}

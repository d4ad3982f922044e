//! The adapters of an export: what of them a checkpoint gets.

use std::ffi::OsStr;
use std::path::Path;

use super::{AdapterAs, AdapterSummary, HubSource, Request, RequestedAdapter};
use crate::adapter::{self, Adapter, AdapterFile, AdapterSource, ModuleGroup};
use crate::checkpoint::{ADAPTER_CONFIG, Checkpoint, IgnoredNames};
use crate::error::{Error, Result, Setting, err};
use crate::hub::HubFolder;
use crate::progress::Progress;

/// Adapters of a checkpoint, each with its weight and what is said of it.
pub type Added = Vec<(Adapter, f64, AdapterSummary)>;

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
    folder.fetch(&[ADAPTER_CONFIG, adapter::WEIGHTS], progress)
}

/// Adds adapters to a whole checkpoint, or lets a runtime add them.
pub fn add(checkpoint: &mut Checkpoint, request: &Request, files: &[AdapterFile]) -> Result<Added> {
    let sources = || request.adapters.iter().map(|it| &it.source);
    let fitted = adapter::fit_all(files, checkpoint, request.adapter_layout)?;
    let weighted: Vec<(Adapter, f64)> =
        fitted.into_iter().zip(sources().map(|it| it.weight)).collect();
    match request.adapter_as {
        AdapterAs::Inline | AdapterAs::Merge => adapter::apply(checkpoint, &weighted)?,
        AdapterAs::Swappable => let_runtime_add(checkpoint, request, &weighted)?,
    }
    let all = files.iter().zip(sources()).zip(weighted);
    let added = all.map(|((file, source), (adapter, weight))| {
        let summary = AdapterSummary::new(file, source, &adapter, request.merges())?;
        Ok((adapter, weight, summary))
    });
    let added = added.collect::<Result<Added>>()?;
    if request.adapter_as == AdapterAs::Swappable {
        let names = added.iter().map(|(.., it)| &*it.record.name);
        check_names(names.zip(sources()))?;
    }
    Ok(added)
}

/// Without an adapter or a word on what may be changed, all of attention may.
fn let_runtime_add(
    checkpoint: &mut Checkpoint,
    request: &Request,
    adapters: &[(Adapter, f64)],
) -> Result<()> {
    // A copy of queries, keys or values is compared with those of the base.
    let mut replaced = adapters.iter().flat_map(|(it, _)| &it.replacements);
    if replaced.any(|it| it.replaced.contains(".attn.")) {
        checkpoint.split_qkv();
    }
    let weights = &checkpoint.weights;
    let stored = |name: &str| Ok(weights.iter().find(|it| it.name == name).cloned());
    let misfits =
        adapters.iter().filter_map(|(it, _)| adapter::require_swappable(it, stored).err());
    Error::all(misfits.map(|error| error.with_remedy(Setting::AdapterAs, "inline")))?;
    let groups = match &request.adapter_modules[..] {
        [] if adapters.is_empty() => &[ModuleGroup::Attention],
        groups => groups,
    };
    adapter::add_slots(checkpoint, groups, adapters.iter().map(|(it, _)| it))
}

/// Refuses names of adapters that two have or that are not names of files.
fn check_names<'n>(named: impl Iterator<Item = (&'n str, &'n AdapterSource)>) -> Result<()> {
    let mut earlier: Vec<(&str, &Path)> = Vec::new();
    let errors = named.filter_map(|(name, AdapterSource { path, weight, .. })| {
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

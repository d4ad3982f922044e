//! The adapters of an export: what of them a checkpoint gets.

use std::ffi::OsStr;
use std::path::Path;

use super::{AdapterAs, AdapterSummary, Request};
use crate::adapter::{self, Adapter, AdapterFile, ModuleGroup};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, Setting, err};

/// Adapters of a checkpoint, each with its weight and what is said of it.
pub type Added = Vec<(Adapter, f64, AdapterSummary)>;

/// Adds adapters to a whole checkpoint, or lets a runtime add them.
pub fn add(checkpoint: &mut Checkpoint, request: &Request, files: &[AdapterFile]) -> Result<Added> {
    let fitted = adapter::fit_all(files, checkpoint, request.adapter_layout)?;
    let weights = request.adapters.iter().map(|it| it.weight);
    let weighted: Vec<(Adapter, f64)> = fitted.into_iter().zip(weights).collect();
    match request.adapter_as {
        AdapterAs::Inline => adapter::apply(checkpoint, &weighted)?,
        AdapterAs::Swappable => let_runtime_add(checkpoint, request, &weighted)?,
        AdapterAs::Merge => unreachable!("a spec has it not"),
    }
    let all = files.iter().zip(&request.adapters).zip(weighted);
    let added = all.map(|((file, source), (adapter, weight))| {
        Ok((adapter.clone(), weight, AdapterSummary::new(file, source, &adapter)?))
    });
    let added = added.collect::<Result<Added>>()?;
    if request.adapter_as == AdapterAs::Swappable {
        check_names(
            added
                .iter()
                .zip(&request.adapters)
                .map(|((.., it), source)| (&*it.record.name, &*source.path)),
        )?;
    }
    Ok(added)
}

/// Without an adapter or a word on what may be changed, all of attention may.
fn let_runtime_add(
    checkpoint: &mut Checkpoint,
    request: &Request,
    adapters: &[(Adapter, f64)],
) -> Result<()> {
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

/// Refuses names, of adapters at these paths, that two have or that are not names of files.
fn check_names<'n>(named: impl Iterator<Item = (&'n str, &'n Path)>) -> Result<()> {
    let mut earlier: Vec<(&str, &Path)> = Vec::new();
    let errors = named.filter_map(|(name, path)| {
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
        Some(error.with_remedy(Setting::Adapter, format!("NAME={shown}")))
    });
    Error::all(errors.collect::<Vec<_>>())
}

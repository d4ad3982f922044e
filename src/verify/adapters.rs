//! The adapters of a model: those that its metadata lists have to be those that are given.

use std::path::Path;

use crate::adapter::{self, Adapter, AdapterFile, AdapterSource, FactorOrder};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, Setting, err};
use crate::metadata::{AdapterRecord, ModelMetadata};
use crate::reference::AdapterToRead;

/// An adapter that was read.
struct Given<'g> {
    source: &'g AdapterSource,
    adapter: Adapter,
    record: AdapterRecord,
}

/// Adds adapters to a whole checkpoint in the order in which the model at a path has them. Returns
/// what identifies each, and what the reference reads.
pub fn add(
    checkpoint: &mut Checkpoint,
    (model, metadata): (&Path, Option<&ModelMetadata>),
    (sources, order): (&[AdapterSource], Option<FactorOrder>),
    files: &[AdapterFile],
) -> Result<(Vec<AdapterRecord>, Vec<AdapterToRead>)> {
    let fitted = adapter::fit_all(files, checkpoint, order)?;
    let given = sources.iter().zip(files.iter().zip(fitted)).map(|(source, (file, adapter))| {
        let record = AdapterRecord::new(file, source, &adapter)?;
        Ok(Given { source, adapter, record })
    });
    let mut given = given.collect::<Result<Vec<_>>>()?;
    if let Some(metadata) = metadata {
        given = in_order_of(model, &metadata.adapters, given)?;
    }
    let is_swapped = order.map(|it| it == FactorOrder::Swapped);
    let (mut adapters, mut records, mut to_read) = (Vec::new(), Vec::new(), Vec::new());
    for Given { source: AdapterSource { path, weight, .. }, adapter, record } in given {
        to_read.push(AdapterToRead { path: path.clone(), weight: *weight, is_swapped });
        adapters.push((adapter, *weight));
        records.push(record);
    }
    adapter::apply(checkpoint, &adapters)?;
    Ok((records, to_read))
}

/// Those that are given in the order of the model's, or all that differs. A folder may have
/// another name by now.
fn in_order_of<'g>(
    model: &Path,
    wanted: &[AdapterRecord],
    mut given: Vec<Given<'g>>,
) -> Result<Vec<Given<'g>>> {
    let mut take = |is_it: &dyn Fn(&AdapterRecord) -> bool| {
        let at = given.iter().position(|it| is_it(&it.record))?;
        Some(given.remove(at))
    };
    let (mut found, mut others, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for it in wanted {
        let same =
            take(&|other| (&other.fingerprint, other.weight) == (&it.fingerprint, it.weight));
        same.map_or_else(|| others.push(it), |same| found.push(same));
    }
    for it in others {
        let similar = take(&|other| other.fingerprint == it.fingerprint);
        let similar = similar.or_else(|| take(&|other| other.name == it.name));
        errors.push(differs(model, it, similar.as_ref()));
    }
    errors.extend(given.iter().map(|Given { source, .. }| {
        let (path, model) = (source.path.display(), model.display());
        err!("adapter `{path}` is given, and `{model}` was exported without it: leave it out")
    }));
    Error::all(errors)?;
    Ok(found)
}

/// The error for an adapter of a model for which none, or another one, is given.
fn differs(model: &Path, wanted: &AdapterRecord, given: Option<&Given>) -> Error {
    let AdapterRecord { name, fingerprint, weight, .. } = wanted;
    let typed = |path: &str| match weight {
        1.0 => path.to_owned(),
        weight => format!("{path}={weight}"),
    };
    let model = model.display();
    let Some(Given { source, record, .. }) = given else {
        return err!("`{model}` has the adapter `{name}` with weight {weight}, and it is not given: give its folder or file")
            .with_remedy(Setting::Adapter, typed("DIR"));
    };
    let path = source.path.display().to_string();
    if record.fingerprint == *fingerprint {
        return err!(
            "adapter `{path}` is given with weight {}, and `{model}` has it with weight {weight}: give it that weight",
            record.weight
        )
        .with_remedy(Setting::Adapter, typed(&path));
    }
    err!(
        "`{model}` has an adapter `{name}` with fingerprint {fingerprint}, and `{path}` has {}: it was changed, or its factors are read in another layout; give what the export was given",
        record.fingerprint
    )
}

//! The adapters of a model: those that its metadata lists have to be those that are given. A swappable
//! model takes others besides.

use std::path::Path;

use crate::adapter::{
    self, Adapter, AdapterFile, AdapterSource, FactorOrder, FittedAdapter, RuntimeAdapter,
};
use crate::checkpoint::{AdapterRecord, Checkpoint};
use crate::error::{Error, Result, Setting, ensure, err};
use crate::exported::ExportedModel;
use crate::model::ModelPart;
use crate::progress::Progress;
use crate::reference::AdapterToRead;
use crate::runtime::TensorValue;
use crate::weights::Slot;

/// The adapters with which a model is compared.
#[derive(Default)]
pub struct ModelAdapters {
    /// What identifies each.
    pub records: Vec<AdapterRecord>,
    /// What the reference reads.
    pub to_read: Vec<AdapterToRead>,
    /// Inputs of a swappable model.
    pub factors: Vec<(String, TensorValue)>,
}

/// Adds adapters to a whole checkpoint in the order in which a model has them. Those that the
/// model does not have are inputs of one that takes them.
pub fn add(
    checkpoint: &mut Checkpoint,
    model: &ExportedModel,
    (sources, order): (&[AdapterSource], Option<FactorOrder>),
    files: &[AdapterFile],
    progress: &dyn Progress,
) -> Result<ModelAdapters> {
    let mut own = FittedAdapter::all(sources.iter(), files, &checkpoint.config, order)?;
    let (slots, mut others) = (model.slots(), Vec::new());
    if let Some(metadata) = &model.metadata {
        let whole = ModelPart::whole(metadata.layers);
        own.iter_mut().for_each(|it| it.keep(|path| whole.has(path)));
        // A staged file has some of them in its values.
        let is_staged = |it: &&AdapterRecord| checkpoint.adapters.contains(it);
        let wanted: Vec<_> = metadata.adapters.iter().filter(|it| !is_staged(it)).collect();
        ensure!(
            wanted.iter().all(|it| it.merged) || !wanted.iter().any(|it| it.merged),
            "`{}` has merged adapters and unmerged ones: verify it with the staged file that has the merged ones, and give the others",
            model.path.display()
        );
        let mut errors;
        (own, others, errors) = in_order_of(&model.path, &wanted, own);
        if slots.is_empty() {
            errors.extend(others.iter().map(|it| unwanted(&model.path, it, checkpoint)));
        }
        Error::all(errors)?;
    }
    let factors = factors(model, &slots, &others, checkpoint, progress)?;
    let mut adapters = ModelAdapters { factors, ..ModelAdapters::default() };
    let changes: Vec<&Adapter> = own.iter().map(|it| &it.changes).collect();
    adapter::apply(checkpoint, &changes, progress)?;
    let is_swapped = order.map(|it| it == FactorOrder::Swapped);
    for FittedAdapter { source, record, .. } in own.into_iter().chain(others) {
        let AdapterSource { path, weight, .. } = source.clone();
        adapters.to_read.push(AdapterToRead { path, weight, is_swapped });
        adapters.records.push(record);
    }
    Ok(adapters)
}

/// The inputs of a swappable model for some adapters.
fn factors(
    model: &ExportedModel,
    slots: &[Slot],
    given: &[FittedAdapter],
    checkpoint: &Checkpoint,
    progress: &dyn Progress,
) -> Result<Vec<(String, TensorValue)>> {
    let stored = |name: &str| Ok(checkpoint.weights.get(name).cloned());
    let (mut inputs, mut changed) = (Vec::new(), Vec::<(String, &Path)>::new());
    for FittedAdapter { source: AdapterSource { path, .. }, changes, .. } in given {
        adapter::require_swappable(changes, stored, progress)?;
        let adapter = RuntimeAdapter::new(changes.clone(), &model.path, slots)?;
        for slot in &adapter.slots {
            if let Some((matrix, other)) = changed.iter().find(|(it, _)| *it == slot.matrix) {
                return Err(err!(
                    "adapters `{}` and `{}` both change `{matrix}`, and a runtime adds one adapter to a matrix at a time: verify the model with one after the other",
                    other.display(),
                    path.display()
                ));
            }
            let named = adapter.inputs(slot).into_iter();
            for ((name, shape), values) in named.zip(adapter.factors(slot)?) {
                let shape: Vec<usize> = shape.into_iter().map(|it| it as usize).collect();
                inputs.push((name, TensorValue::f32(&shape, values)?));
            }
        }
        changed.extend(adapter.slots.into_iter().map(|it| (it.matrix, &**path)));
    }
    Ok(inputs)
}

/// The given adapters that a model has, in its order and with its records; the other given ones; and
/// an error for each that differs or is missing. A folder may have another name by now.
fn in_order_of<'a>(
    model: &Path,
    wanted: &[&AdapterRecord],
    mut given: Vec<FittedAdapter<'a>>,
) -> (Vec<FittedAdapter<'a>>, Vec<FittedAdapter<'a>>, Vec<Error>) {
    let mut take = |is_it: &dyn Fn(&AdapterRecord) -> bool| {
        given.extract_if(.., |it| is_it(&it.record)).next()
    };
    let (mut found, mut others, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for it in wanted {
        let same =
            take(&|other| (&other.fingerprint, other.weight) == (&it.fingerprint, it.weight));
        match same {
            Some(same) => found.push(FittedAdapter { record: (*it).clone(), ..same }),
            None => others.push(it),
        }
    }
    for it in others {
        let similar = take(&|other| other.fingerprint == it.fingerprint);
        let similar = similar.or_else(|| take(&|other| other.name == it.name));
        errors.push(differs(model, it, similar.as_ref()));
    }
    (found, given, errors)
}

/// The error for an adapter that the model neither has nor takes.
fn unwanted(
    model: &Path,
    FittedAdapter { source, record, .. }: &FittedAdapter,
    checkpoint: &Checkpoint,
) -> Error {
    let (path, model) = (source.path.display(), model.display());
    let is_it = |it: &&AdapterRecord| it.fingerprint == record.fingerprint;
    match checkpoint.adapters.iter().find(is_it) {
        Some(_) => err!(
            "adapter `{path}` is given, and the staged weights have it in their values: leave it out"
        ),
        None => {
            err!("adapter `{path}` is given, and `{model}` was exported without it: leave it out")
        }
    }
}

/// The error for an adapter of a model for which none, or another one, is given.
fn differs(model: &Path, wanted: &AdapterRecord, given: Option<&FittedAdapter>) -> Error {
    let AdapterRecord { name, fingerprint, weight, .. } = wanted;
    let typed = |path: &str| adapter::written(path, *weight);
    let model = model.display();
    let Some(FittedAdapter { source, record, .. }) = given else {
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

//! Adapters for a swappable model that exists: the model itself says what it takes.

use std::path::PathBuf;

use super::planned_adapter::PlannedAdapter;
use super::{AdapterSource, AdapterSummary};
use crate::adapter::{self, AdapterFile, FactorOrder, FittedAdapter, RuntimeAdapter};
use crate::checkpoint::IgnoredNames;
use crate::error::{Result, Setting, ensure, err};
use crate::exported::{ExternalTensor, ModelFile};
use crate::files::FileRange;
use crate::hub;
use crate::onnx::ADAPTER_EXTENSION;
use crate::progress::Progress;
use crate::publish::{Transaction, check_disk_space};
use crate::weights::{ElementKind, Recipe, Weight};

/// An adapter, and the model that it is for.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct AdapterRequest {
    pub adapter: AdapterSource,
    /// A swappable model of this program.
    pub model: PathBuf,
    /// The file to write.
    pub output: PathBuf,
    /// How the adapter stores the factors of experts, where its file does not tell.
    pub adapter_layout: Option<FactorOrder>,
    /// Names in the adapter that count as absent.
    pub ignored: IgnoredNames,
}

/// Writes an adapter for a model that exists. Of the model, its metadata and inputs are read, and
/// values of which the adapter has a copy.
pub fn export_adapter(request: &AdapterRequest, progress: &dyn Progress) -> Result<AdapterSummary> {
    let AdapterRequest { adapter: source, model, output, adapter_layout, ignored } = request;
    ensure!(
        output.extension().is_some_and(|it| it == ADAPTER_EXTENSION),
        "`{}` is to be an adapter for ONNX Runtime: give a name that ends in .{ADAPTER_EXTENSION}",
        output.display()
    );
    let (shown, model_file) = (model.display(), ModelFile::read(model)?);
    let metadata = model_file.metadata.as_ref();
    let config = metadata.and_then(|it| it.config.as_ref());
    let slots = adapter::slots_of(&model_file.onnx);
    let (Some(metadata), Some(config), false) = (metadata, config, slots.is_empty()) else {
        return Err(err!("`{shown}` takes no adapters: export it as a swappable model")
            .with_remedy(Setting::AdapterAs, "swappable"));
    };
    config.check(&shown.to_string())?;
    hub::require_path(&source.path)?;
    let file = AdapterFile::open(&source.path, ignored)?;
    let of_adapters = file.ignored.of_adapters.clone();
    IgnoredNames { of_adapters, ..ignored.clone() }.require_use(&source.path)?;
    let changes = adapter::fit(&file, config, *adapter_layout)?;
    let name = output.file_stem().map(|name| name.to_string_lossy().into_owned());
    let source = AdapterSource { name, ..source.clone() };
    let mut adapter = FittedAdapter::new(&source, &file, changes)?;
    let part = metadata.part();
    adapter.keep(|path| part.has(path));
    let stored = |name: &str| stored(&model_file, name);
    adapter::require_swappable(&adapter.changes, stored, progress)?;
    let runtime_adapter = RuntimeAdapter::new(adapter.changes.clone(), model, &slots)?;
    let planned = PlannedAdapter::new(output.clone(), runtime_adapter)?;
    let part = Some(part).filter(|it| !it.is_whole());
    let summary = AdapterSummary::new(adapter, true, vec![output.clone()])?;
    let summary = AdapterSummary { part, ..summary };
    let mut transaction = Transaction::default();
    transaction.claim(output)?;
    check_disk_space([planned.file()])?;
    planned.write(&mut transaction, progress)?;
    progress.check_cancelled()?;
    transaction.commit()?;
    Ok(summary)
}

/// A weight as a model stores it, in one initializer or in several for ranges of rows.
fn stored(model: &ModelFile, name: &str) -> Result<Option<Weight>> {
    let mut parts: Vec<_> = model.tensors().filter(|it| it.weight == name).collect();
    parts.sort_by_key(|it| it.slice.map_or(0, |slice| slice.start));
    let Some(ExternalTensor { stored: first, .. }) = parts.first() else {
        let is_matrix = name.ends_with(".weight");
        ensure!(
            !is_matrix,
            "the adapter holds values of `{name}`, and `{}` holds those of its base in another format, so that nothing tells whether they differ: export the model with this adapter",
            model.path.display()
        );
        return Ok(None);
    };
    let rows = parts.iter().filter_map(|it| it.stored.shape.first().copied());
    let rows = rows.fold(0, u64::saturating_add);
    let rest = first.shape.iter().skip(1).copied();
    let sources: Vec<FileRange> = parts.iter().map(|it| it.data.clone()).collect();
    for FileRange { file, .. } in &sources {
        let shown = file.display();
        ensure!(
            file.is_file(),
            "the adapter has a copy of values of `{name}`, and `{shown}`, where the model has them, does not exist: restore the file"
        );
    }
    let Some(dtype) = first.dtype else { return Ok(None) };
    let shape: Vec<u64> = [rows].into_iter().chain(rest).collect();
    let found = sources.iter().map(FileRange::len).fold(0, u64::saturating_add);
    ensure!(
        dtype.bytes(&shape) == Some(found),
        "`{}` has {found} bytes of `{name}`, and not what its shape {shape:?} takes: export the model again",
        model.path.display()
    );
    Ok(Some(Weight {
        name: name.to_owned(),
        dtype,
        shape,
        kind: ElementKind::Float,
        recipe: Recipe::Concat(sources),
    }))
}

//! Adapters for a swappable model that exists: the model itself says what it takes.

use std::path::{Path, PathBuf};

use super::planned_adapter::PlannedAdapter;
use super::{AdapterSource, AdapterSummary};
use crate::adapter::{self, AdapterFile, FactorOrder, FittedAdapter, RuntimeAdapter};
use crate::checkpoint::IgnoredNames;
use crate::error::{Result, Setting, ensure, err};
use crate::exported::ModelMetadata;
use crate::files::{FileRange, parent_dir};
use crate::hub;
use crate::onnx::{self, ADAPTER_EXTENSION, OnnxFile};
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
    let (shown, onnx) = (model.display(), onnx::read(model)?);
    let metadata =
        ModelMetadata::read(&onnx.properties).map_err(|error| err!("`{shown}`: {error}"))?;
    let config = metadata.as_ref().and_then(|it| it.config.as_ref());
    let slots = adapter::slots_of(&onnx);
    let (Some(metadata), Some(config), false) = (&metadata, config, slots.is_empty()) else {
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
    let stored = |name: &str| stored(model, &onnx, metadata, name);
    adapter::require_swappable(&adapter.changes, stored, progress)?;
    let runtime_adapter = RuntimeAdapter::new(adapter.changes.clone(), model, &slots)?;
    let planned = PlannedAdapter::new(output.clone(), runtime_adapter)?;
    let summary = AdapterSummary::new(adapter, true, vec![output.clone()])?;
    let mut transaction = Transaction::default();
    transaction.claim(output)?;
    check_disk_space([planned.file()])?;
    planned.write(&mut transaction, progress)?;
    progress.check_cancelled()?;
    transaction.commit()?;
    Ok(summary)
}

/// A weight as a model stores it, in one initializer or in several for ranges of rows.
fn stored(
    model: &Path,
    onnx: &OnnxFile,
    metadata: &ModelMetadata,
    name: &str,
) -> Result<Option<Weight>> {
    let parts = onnx.external_data().filter_map(|(it, data)| {
        let slice = metadata.slices.get(&it.name);
        let start = slice.map_or(0, |slice| slice.bytes.start);
        let weight = slice.map_or(&it.name, |slice| &slice.weight);
        (weight == name).then_some((start, it, data))
    });
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|(start, ..)| *start);
    let Some((_, first, _)) = parts.first() else {
        let is_matrix = name.ends_with(".weight");
        ensure!(
            !is_matrix,
            "the adapter holds values of `{name}`, and `{}` holds those of its base in another format, so that nothing tells whether they differ: export the model with this adapter",
            model.display()
        );
        return Ok(None);
    };
    let rows = parts.iter().filter_map(|(_, it, _)| it.shape.first().copied());
    let rows = rows.fold(0, u64::saturating_add);
    let rest = first.shape.iter().skip(1).copied();
    let sources = parts.iter().map(|(.., data)| {
        let file = parent_dir(model).join(&data.file).into();
        FileRange { file, range: data.range.clone() }
    });
    let sources: Vec<FileRange> = sources.collect();
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
        model.display()
    );
    Ok(Some(Weight {
        name: name.to_owned(),
        dtype,
        shape,
        kind: ElementKind::Float,
        recipe: Recipe::Concat(sources),
    }))
}

//! The checkpoint of an export, wherever it is, and the identity of its weights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapters;
use super::outputs::PartFile;
use super::planned_adapter::PlannedAdapter;
use super::{AdapterAs, AdapterSummary, HubSource, HubSummary, Request, Source, Spec};
use crate::adapter::{AdapterFile, FittedAdapter, RuntimeAdapter};
use crate::checkpoint::{AdapterRecord, Checkpoint, Config, IgnoredNames};
use crate::container::Header;
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::files::{canonicalize_existing, parent_dir};
use crate::hub::Repository;
use crate::model::{self, ModelPart, Provider};
use crate::package::tokenizer;
use crate::progress::Progress;
use crate::tensor::DType;
use crate::weights::{
    Faults, FileCache, Fingerprint, Matrix, MatrixFormat, PerRole, Role, Samples, Slot, Weight,
    Zeros,
};

/// A checkpoint that is ready to be exported.
pub struct Opened {
    /// With the layers and formats of the model.
    pub checkpoint: Checkpoint,
    /// The config with all layers of the checkpoint, which adapters have to fit.
    pub base: Config,
    /// Whether values in BF16 get another dtype, because the runtime has no BF16.
    pub replaces_bf16: bool,
    /// The graphs to write.
    pub outputs: Vec<PartFile>,
    /// Of all weights; `None` while some are on the hub.
    pub fingerprint: Option<Fingerprint>,
    /// Weights that are read and seem to be of zeros alone.
    pub zeros: Zeros,
    /// Whether the weights that are read are on this machine.
    pub is_local: bool,
    /// The folder that may hold the tokenizer.
    pub folder: PathBuf,
    /// What was fetched, if it is from the hub.
    pub hub: Option<HubSummary>,
    /// What is said of the adapters that were given, in their order.
    pub adapters: Vec<AdapterSummary>,
    /// Those that a runtime adds.
    pub adapter_files: Vec<PlannedAdapter>,
}

impl Opened {
    /// The adapters that the model has, those that its weights hold first.
    pub fn adapter_records(&self) -> Vec<AdapterRecord> {
        let added = self.adapters.iter().filter(|it| !it.is_apart).map(|it| &it.record);
        let beside = added.filter(|it| !it.merged);
        self.checkpoint.adapters.iter().chain(beside).cloned().collect()
    }

    /// Refuses to write where weights of the source or of adapters are read.
    pub fn refuse_targets(&self, request: &Request) -> Result<()> {
        let real = |path: &Path| Ok(canonicalize_existing(path)?);
        let sources = files_of(self.checkpoint.weights.iter());
        let sources = sources.iter().map(|it| real(it)).collect::<Result<Vec<_>>>()?;
        let adapters = request.adapters.iter().map(|it| real(&it.source.weights()));
        let adapters = adapters.collect::<Result<Vec<_>>>()?;
        let files = self.adapter_files.iter().map(|it| it.file().0);
        let models = self.outputs.iter().map(|it| &it.path);
        let chosen = models.chain(&request.save_weights).map(|it| &**it);
        for path in chosen.chain(files) {
            let target = real(path)?;
            let of = match &request.source {
                _ if adapters.contains(&target) => "an adapter",
                _ if !sources.contains(&target) => continue,
                Source::Staged(_) => "the staged weights",
                Source::Checkpoint(_) | Source::Hub(_) => "the checkpoint",
            };
            bail!("`{}` is a file of {of}, which is read: choose another name", path.display());
        }
        Ok(())
    }

    /// The matrices of a role that the graphs read; all if weights alone are staged.
    pub fn matrices(&self, role: Role) -> impl Iterator<Item = &Matrix> {
        let is_read = |it: &&Matrix| {
            self.outputs.is_empty() || self.outputs.iter().any(|output| output.part.has(&it.path))
        };
        self.checkpoint.weights.matrices(role).filter(is_read)
    }
}

/// The checkpoint of a request as it is stored, and its adapters.
struct Stored {
    checkpoint: Checkpoint,
    /// The folder that may hold the tokenizer.
    folder: PathBuf,
    hub: Option<HubSummary>,
    /// Samples of a staged file, with the fingerprint of the checkpoint that it was made from.
    recorded: Option<Samples>,
    adapters: Vec<AdapterFile>,
}

/// Reads headers, and samples for the fingerprint.
pub fn open(spec: &Spec, progress: &dyn Progress) -> Result<Opened> {
    let Spec { request, .. } = spec;
    let Stored { mut checkpoint, folder, hub, recorded, adapters } = open_source(spec, progress)?;
    let stored: Vec<Weight> = checkpoint.weights.iter().cloned().collect();
    let base = checkpoint.config.clone();
    let (added, replaces_bf16) = prepare(&mut checkpoint, spec, &adapters, progress)?;
    let outputs = PartFile::all(request, &checkpoint.weights)?;
    let (adapters, adapter_files) = plan_adapters(request, added, &checkpoint, &outputs)?;
    let is_local = !request.source.headers_only();
    let recorded = recorded.filter(|_| checkpoint.weights.iter().eq(&stored));
    let (fingerprint, faults) = if is_local {
        identify(&checkpoint, request, &outputs, recorded)?
    } else {
        (None, Faults::default())
    };
    faults.require_finite()?;
    let zeros = faults.zeros;
    if !request.ignored.zeros {
        zeros.require_vital()?;
    }
    Ok(Opened {
        checkpoint,
        base,
        replaces_bf16,
        outputs,
        fingerprint,
        zeros,
        is_local,
        folder,
        hub,
        adapters,
        adapter_files,
    })
}

/// Opens the checkpoint, wherever it is, and the adapters.
fn open_source(spec: &Spec, progress: &dyn Progress) -> Result<Stored> {
    let (files, ignored) = adapters::read(&spec.request, progress);
    let ignored = &ignored;
    match &spec.request.source {
        Source::Checkpoint(folder) => {
            let opened = refuse_staged(folder).and_then(|()| Checkpoint::open(folder, ignored));
            let (adapters, checkpoint) = Error::both(files, opened)?;
            let folder = folder.clone();
            Ok(Stored { checkpoint, folder, hub: None, recorded: None, adapters })
        }
        Source::Hub(wanted) => {
            let adapters = files?;
            let (repository, checkpoint) = fetch(spec, wanted, &adapters, ignored, progress)?;
            let (folder, hub) = (repository.folder(), Some(HubSummary::new(&repository)));
            Ok(Stored { checkpoint, folder, hub, recorded: None, adapters })
        }
        Source::Staged(path) => {
            ignored.require_use(path)?;
            let (checkpoint, metadata) = Checkpoint::open_staged(path)?;
            let found = Samples::of_stored(checkpoint.weights.iter(), &mut FileCache::default())?;
            let contents = &found.fingerprint;
            ensure!(
                *contents == metadata.contents,
                "`{}` was changed after it was staged (fingerprint of its contents: expected {}, found {contents}): stage it again",
                path.display(),
                metadata.contents
            );
            let recorded = Some(Samples { fingerprint: metadata.fingerprint, ..found });
            let folder = parent_dir(path).to_owned();
            Ok(Stored { checkpoint, folder, hub: None, recorded, adapters: files? })
        }
    }
}

/// What is said of adapters, and the files from which a runtime adds them: of each adapter one for
/// every graph that it changes.
fn plan_adapters(
    request: &Request,
    added: Vec<FittedAdapter>,
    checkpoint: &Checkpoint,
    outputs: &[PartFile],
) -> Result<(Vec<AdapterSummary>, Vec<PlannedAdapter>)> {
    let is_apart = request.adapter_as == AdapterAs::Swappable;
    let slots: Vec<Slot> = checkpoint.weights.slots().cloned().collect();
    let (mut summaries, mut planned) = (Vec::new(), Vec::new());
    for adapter in added {
        let mut files = Vec::new();
        if let (true, Some(model)) = (is_apart, &request.output) {
            let whole = RuntimeAdapter::new(adapter.changes.clone(), model, &slots)?;
            for output in outputs {
                let path = output.adapter_path(&adapter.record.name);
                let its = whole.only(|matrix| output.part.has(matrix));
                files.extend(its.map(|its| PlannedAdapter::new(path, its)).transpose()?);
            }
        }
        let paths = files.iter().map(|it| it.file().0.to_owned()).collect();
        summaries.push(AdapterSummary::new(adapter, is_apart, paths)?);
        planned.extend(files);
    }
    Ok((summaries, planned))
}

/// The fingerprint of a checkpoint on this machine, and what its samples find. There is none if only
/// the files of some layers are here.
fn identify(
    checkpoint: &Checkpoint,
    request: &Request,
    outputs: &[PartFile],
    recorded: Option<Samples>,
) -> Result<(Option<Fingerprint>, Faults)> {
    let all_exist = || files_of(checkpoint.weights.iter()).iter().all(|file| file.exists());
    if recorded.is_none() && request.leaves_layers() && !all_exist() {
        let read = outputs.iter().flat_map(|it| it.part.weights(&checkpoint.weights));
        return Ok((None, Samples::of(&checkpoint.identity(), read)?.faults));
    }
    let Samples { fingerprint, faults } = recorded.map_or_else(|| checkpoint.samples(), Ok)?;
    Ok((Some(fingerprint), faults))
}

/// The files that weights come from.
fn files_of<'w>(weights: impl Iterator<Item = &'w Weight>) -> BTreeSet<Arc<Path>> {
    weights.flat_map(|it| it.recipe.sources()).map(|it| it.file.clone()).collect()
}

/// Refuses a staged weights file in the place of a checkpoint's folder.
fn refuse_staged(path: &Path) -> Result<()> {
    let is_staged = path.is_file() && Header::read(path).is_ok_and(|it| it.metadata.is_some());
    if !is_staged {
        return Ok(());
    }
    let path = path.display();
    Err(err!("`{path}` is a staged weights file, expected a checkpoint's folder: give it as the weights instead")
        .with_remedy(Setting::Weights, path.to_string()))
}

/// Gives a checkpoint the adapters, layers and formats of the model. Conversions leave the factors
/// of adapters as they are. Returns the adapters, and whether values in BF16 were replaced.
fn prepare<'a>(
    checkpoint: &mut Checkpoint,
    spec: &'a Spec,
    files: &'a [AdapterFile],
    progress: &dyn Progress,
) -> Result<(Vec<FittedAdapter<'a>>, bool)> {
    let request = &spec.request;
    let Request { layers, mut experts, dense, provider, accept_rounding, .. } = *request;
    let sources = request.adapters.iter().map(|it| &it.source);
    let mut adapters =
        FittedAdapter::all(sources, files, &checkpoint.config, request.adapter_layout)?;
    if let Some(layers) = layers {
        checkpoint.truncate(layers)?;
        let part = ModelPart::whole(layers);
        adapters.iter_mut().for_each(|it| it.keep(|path| part.has(path)));
    }
    adapters::add(checkpoint, request, &adapters, progress)?;
    let is_mxfp4 =
        !checkpoint.weights.formats(Role::Experts).contains(|it| it != MatrixFormat::Mxfp4);
    if provider == Some(Provider::Cuda) && is_mxfp4 {
        // CUDA's kernels read MXFP4's codes, with scales of their own.
        experts.get_or_insert(MatrixFormat::Nvfp4);
    }
    // With merging a format is for what adapters change, unless a provider reads one format alone.
    let is_for_all = !request.merges() || provider.is_some_and(|it| it != Provider::Cpu);
    for (role, format) in [(Role::Experts, experts), (Role::Dense, dense)] {
        if let Some(format) = format.filter(|_| is_for_all) {
            checkpoint.convert(role, format, accept_rounding)?;
        }
    }
    if request.merges() {
        merge(checkpoint, PerRole { experts, dense }, is_for_all, accept_rounding)?;
        adapters.iter_mut().for_each(|it| it.record.merged = true);
        checkpoint.adapters.extend(adapters.iter().map(|it| it.record.clone()));
    }
    // onnxruntime-web has no operator that reads BF16, and products in F16 round weights anyway.
    let replaces_bf16 =
        request.transformers_js && checkpoint.weights.iter().any(|it| it.dtype == DType::BF16);
    if replaces_bf16 {
        checkpoint.replace_bf16(spec.dtype_of_products())?;
    }
    Ok((adapters, replaces_bf16))
}

/// Folds what adapters change into the values. The matrices that they change get these formats, f32 by
/// default.
fn merge(
    checkpoint: &mut Checkpoint,
    formats: PerRole<Option<MatrixFormat>>,
    is_for_all: bool,
    accept_rounding: bool,
) -> Result<()> {
    let to = |role| formats[role].unwrap_or(MatrixFormat::Float(DType::F32));
    let to = PerRole { experts: to(Role::Experts), dense: to(Role::Dense) };
    checkpoint.merge(&to, accept_rounding)?;
    for role in Role::ALL {
        let is_used = is_for_all || checkpoint.weights.matrices(role).any(Matrix::is_merged);
        let differs = formats[role]
            .is_some_and(|format| checkpoint.weights.formats(role).contains(|it| it != format));
        ensure!(
            is_used || !differs,
            "no adapter changes {role}, and in merging a format is for what adapters change: leave it out, or stage the merged weights and convert them in an export of the staged file"
        );
    }
    Ok(())
}

/// Fetches a checkpoint from the hub. Its headers come first, so that one which cannot be
/// exported is refused before its weights are fetched.
fn fetch<'p>(
    spec: &Spec,
    wanted: &HubSource,
    adapters: &[AdapterFile],
    ignored: &IgnoredNames,
    progress: &'p dyn Progress,
) -> Result<(Repository<'p>, Checkpoint)> {
    let HubSource { name, folder, offline, headers_only } = wanted;
    let root = folder.clone().unwrap_or_else(|| spec.request.download_folder(name));
    let needs_tokenizer = !headers_only || spec.request.genai;
    let companions = if needs_tokenizer { &tokenizer::FILES[..] } else { &[] };
    let mut repository = Repository::open(name, &root, companions, *offline, progress)?;
    let open = |repository: &Repository| {
        let (folder, headers) = (repository.folder(), &repository.headers);
        let opened = Checkpoint::open_files(&folder, headers, ignored);
        opened.map_err(|error| repository.explain(error))
    };
    let base = open(&repository)?;
    let mut prepared = base.clone();
    prepare(&mut prepared, spec, adapters, progress)?;
    let outputs = PartFile::all(&spec.request, &prepared.weights)?;
    for PartFile { part, .. } in &outputs {
        let graph = spec.graph().expect("graphs are written");
        model::decoder(&prepared.config, &prepared.weights, part, *graph)?;
    }
    // What adapters replace is compared with the base's values.
    let of = |checkpoint| outputs.iter().flat_map(move |it: &PartFile| it.part.weights(checkpoint));
    let mut read = files_of(of(&prepared.weights).chain(of(&base.weights)));
    if outputs.iter().any(|it| it.part.is_last()) {
        read.extend(base.copy_of_embedding);
    }
    let is_needed = |path: &Path| !spec.request.leaves_layers() || read.contains(path);
    repository.fetch(*headers_only, is_needed)?;
    // Read again: its recipes name the fetched files now.
    let checkpoint = open(&repository)?;
    Ok((repository, checkpoint))
}

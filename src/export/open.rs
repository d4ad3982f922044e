//! The checkpoint of an export, wherever it is, and the identity of its weights.

use std::path::{Path, PathBuf};

use super::spec::PackageSpec;
use super::{HubSource, HubSummary, Source, Spec};
use crate::checkpoint::Checkpoint;
use crate::error::{Result, bail};
use crate::files::parent_dir;
use crate::hub;
use crate::model;
use crate::package::tokenizer;
use crate::progress::Progress;
use crate::weights::{FileCache, Fingerprint, Role, Weight};

/// A checkpoint that is ready to be exported.
pub struct Opened {
    /// With the layers and formats of the model.
    pub checkpoint: Checkpoint,
    /// Of the weights; `None` while they are on the hub.
    pub fingerprint: Option<Fingerprint>,
    /// The folder that may hold the tokenizer.
    pub folder: PathBuf,
    pub hub: Option<HubSummary>,
}

impl Opened {
    /// The fingerprint of weights on this machine.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.fingerprint.as_ref().expect("local weights have a fingerprint")
    }
}

/// Reads headers, and samples for the fingerprint.
pub fn open(spec: &Spec, progress: &dyn Progress) -> Result<Opened> {
    let (mut hub, mut recorded) = (None, None);
    let (mut checkpoint, folder) = match &spec.source {
        Source::Checkpoint(folder) => (Checkpoint::open(folder, &spec.ignored)?, folder.clone()),
        Source::Hub(source) => {
            let fetched = fetch(spec, source, progress)?;
            hub = Some(fetched.summary);
            (fetched.checkpoint, fetched.folder)
        }
        Source::Staged(path) => {
            let (checkpoint, fingerprint) = open_staged(path)?;
            recorded = Some(fingerprint);
            (checkpoint, parent_dir(path).to_owned())
        }
    };
    prepare(&mut checkpoint, spec)?;
    let is_whole = checkpoint.config.num_layers() == checkpoint.layers_there;
    let is_unchanged = is_whole && !checkpoint.weights.iter().any(Weight::is_converted);
    let fingerprint = match recorded.filter(|_| is_unchanged) {
        _ if spec.headers_only() => None,
        Some(recorded) => Some(recorded),
        None => Some(Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())?),
    };
    Ok(Opened { checkpoint, fingerprint, folder, hub })
}

/// Gives a checkpoint the layers and formats of the model.
fn prepare(checkpoint: &mut Checkpoint, spec: &Spec) -> Result<()> {
    if let Some(layers) = spec.layers {
        checkpoint.truncate(layers)?;
    }
    if let Some(format) = spec.experts_format(&checkpoint.weights) {
        checkpoint.convert(Role::Experts, format, spec.accept_rounding)?;
    }
    if let Some(format) = spec.formats.dense {
        checkpoint.convert(Role::Dense, format, spec.accept_rounding)?;
    }
    Ok(())
}

/// A checkpoint from the hub.
struct Fetched {
    checkpoint: Checkpoint,
    folder: PathBuf,
    summary: HubSummary,
}

/// Fetches a checkpoint from the hub. Its headers come first, so that one which cannot be
/// exported is refused before its weights are fetched.
fn fetch(spec: &Spec, source: &HubSource, progress: &dyn Progress) -> Result<Fetched> {
    let HubSource { name, folder, offline, headers_only } = source;
    let output = spec.model.as_ref().map(|model| &*model.path);
    let root = folder.clone().unwrap_or_else(|| {
        let beside = output.or(spec.save_weights.as_deref());
        beside.map_or(Path::new("."), parent_dir).join(name.default_folder())
    });
    let package = spec.model.as_ref().and_then(|model| model.package);
    let needs_tokenizer = !headers_only || matches!(package, Some(PackageSpec::Genai { .. }));
    let companions = if needs_tokenizer { &tokenizer::FILES[..] } else { &[] };
    let request = hub::FetchRequest { name, root: &root, companions, offline: *offline };
    let mut repository = hub::Repository::open(request, progress)?;
    let open = |repository: &hub::Repository| {
        let hub::Repository { which, headers, .. } = repository;
        Checkpoint::open_files(&repository.folder(), which, headers, &spec.ignored)
    };
    let mut checkpoint = open(&repository)?;
    if let Some(graph) = spec.graph() {
        let mut prepared = checkpoint.clone();
        prepare(&mut prepared, spec)?;
        model::decoder(&prepared.config, &prepared.weights, *graph)?;
    }
    if *headers_only {
        repository.fetch_companions()?;
    } else {
        repository.fetch_all()?;
        checkpoint = open(&repository)?;
    }
    let summary = HubSummary::new(&repository, &root);
    Ok(Fetched { checkpoint, folder: repository.folder(), summary })
}

/// A staged file whose contents match its metadata, with the fingerprint of its source.
fn open_staged(path: &Path) -> Result<(Checkpoint, Fingerprint)> {
    let (checkpoint, metadata) = Checkpoint::open_staged(path)?;
    let found = Fingerprint::of_stored(checkpoint.weights.iter(), &mut FileCache::default())?;
    if found != metadata.contents {
        bail!(
            "`{}`: contents fingerprint mismatch (expected {}, found {found}): the file was changed, stage it again",
            path.display(),
            metadata.contents
        );
    }
    Ok((checkpoint, metadata.fingerprint))
}

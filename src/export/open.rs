//! What an export begins with: a checkpoint, wherever it is, and what
//! identifies its weights.

use std::path::{Path, PathBuf};

use super::{Error, Experts, HubSummary, Origin, Repository, Request};
use crate::checkpoint::Checkpoint;
use crate::genai;
use crate::hub;
use crate::paths::folder_of;
use crate::progress::Progress;
use crate::weights::Fingerprint;

/// A checkpoint that is ready to be exported.
pub struct Opened {
    /// As it is to be exported: with so many layers, and experts in that format.
    pub checkpoint: Checkpoint,
    /// Of its weights; unknown while they are on the hub.
    pub fingerprint: Option<Fingerprint>,
    /// The folder where the tokenizer may be too.
    pub folder: PathBuf,
    /// What came from the hub.
    pub hub: Option<HubSummary>,
}

/// Reads what there is: headers, and samples for the fingerprint.
pub fn open(request: &Request, progress: &dyn Progress) -> Result<Opened, Error> {
    let (mut checkpoint, folder, said, hub) = match &request.origin {
        Origin::Checkpoint(folder) => {
            (Checkpoint::open(folder, &request.leniency)?, folder.clone(), None, None)
        }
        Origin::Hub(repository) => {
            let (checkpoint, folder, summary) = fetch(request, repository, progress)?;
            (checkpoint, folder, None, Some(summary))
        }
        Origin::Weights(path) => {
            let (checkpoint, fingerprint) = open_staged(path)?;
            (checkpoint, folder_of(path).to_owned(), Some(fingerprint), None)
        }
    };
    let mut whole = true;
    if let Some(layers) = request.layers {
        whole = layers == checkpoint.layers_there;
        checkpoint.truncate(layers)?;
    }
    let converts = match request.experts {
        Some(Experts { format, accept_rounding }) => {
            checkpoint.convert_experts(format, accept_rounding)?
        }
        None => false,
    };
    let fingerprint = match said.filter(|_| whole && !converts) {
        _ if request.headers_only() => None,
        Some(said) => Some(said),
        None => Some(Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())?),
    };
    Ok(Opened { checkpoint, fingerprint, folder, hub })
}

/// A checkpoint from the hub. One that cannot be exported is refused by its
/// headers, before its weights are fetched.
fn fetch(
    request: &Request,
    wanted: &Repository,
    progress: &dyn Progress,
) -> Result<(Checkpoint, PathBuf, HubSummary), Error> {
    let needs = [
        (request.save_weights.is_some(), "--save-weights"),
        (request.experts.is_some(), "--experts"),
    ];
    match needs.into_iter().find(|(asked, _)| wanted.headers_only && *asked) {
        Some((_, option)) => return Err(Error::NeedsWeights(option)),
        None if wanted.headers_only && wanted.offline => {
            return Err(hub::Error::OfflineHeaders.into());
        }
        None => {}
    }
    let beside = request.output.as_deref().or(request.save_weights.as_deref());
    let root = match (&wanted.folder, beside) {
        (Some(folder), _) => folder.clone(),
        (None, Some(file)) => folder_of(file).join(wanted.name.default_folder()),
        (None, None) => wanted.name.default_folder().into(),
    };
    let mut repository = hub::Repository::open(&wanted.name, &root, wanted.offline, progress)?;
    let folder = repository.folder();
    let mut checkpoint =
        Checkpoint::open_awaited(&folder, repository.headers(), &request.leniency)?;
    if !wanted.headers_only {
        repository.download(progress)?;
        checkpoint = Checkpoint::open(&folder, &request.leniency)?;
    }
    if !wanted.headers_only || request.genai.is_some() {
        repository.download_companions(&genai::files(), progress)?;
    }
    let summary = HubSummary::new(&repository, &root);
    Ok((checkpoint, folder, summary))
}

/// A staged file whose contents are those that it says it has, with the
/// fingerprint of what it was made of.
fn open_staged(path: &Path) -> Result<(Checkpoint, Fingerprint), Error> {
    let (checkpoint, said) = Checkpoint::open_staged(path)?;
    let found = Fingerprint::of_stored(checkpoint.weights.iter())?.to_string();
    match found == said.contents {
        true => Ok((checkpoint, said.fingerprint.into())),
        false => Err(Error::Changed { path: path.to_owned(), said: said.contents, found }),
    }
}

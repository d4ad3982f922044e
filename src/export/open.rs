//! What an export begins with: a checkpoint, wherever it is, and what
//! identifies its weights.

use std::path::{Path, PathBuf};

use super::{ExternalData, FromHub, HubSummary, Origin, Request};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, err};
use crate::files::parent_dir;
use crate::hub;
use crate::model;
use crate::package::tokenizer;
use crate::progress::Progress;
use crate::weights::{Fingerprint, Role, Weight};

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

impl Opened {
    /// The fingerprint of weights that are here.
    pub fn identified(&self) -> &Fingerprint {
        self.fingerprint.as_ref().expect("weights that are here are identified")
    }
}

/// Reads what there is: headers, and samples for the fingerprint.
pub fn open(request: &Request, progress: &dyn Progress) -> Result<Opened, Error> {
    let (mut checkpoint, folder, said, hub) = match &request.origin {
        Origin::Checkpoint(folder) => {
            (Checkpoint::open(folder, &request.leniency)?, folder.clone(), None, None)
        }
        Origin::Hub(wanted) => {
            let (checkpoint, folder, summary) = fetch(request, wanted, progress)?;
            (checkpoint, folder, None, Some(summary))
        }
        Origin::Weights(path) => {
            let (checkpoint, fingerprint) = open_staged(path)?;
            (checkpoint, parent_dir(path).to_owned(), Some(fingerprint), None)
        }
    };
    let whole = prepare(&mut checkpoint, request)?;
    let converts = || checkpoint.weights.iter().any(Weight::is_converted);
    let fingerprint = match said.filter(|_| whole && !converts()) {
        _ if request.headers_only() => None,
        Some(said) => Some(said),
        None => Some(Fingerprint::of(&checkpoint.identity(), checkpoint.weights.iter())?),
    };
    Ok(Opened { checkpoint, fingerprint, folder, hub })
}

/// Makes a checkpoint what is to be exported: with so many layers, and matrices in these
/// formats. Whether it has all of its layers still.
fn prepare(checkpoint: &mut Checkpoint, request: &Request) -> Result<bool, Error> {
    let mut whole = true;
    if let Some(layers) = request.layers {
        whole = layers == checkpoint.layers_there;
        checkpoint.truncate(layers)?;
    }
    let formats = request.formats;
    if let Some(format) = formats.experts_for(request.graph.provider, &checkpoint.weights) {
        checkpoint.convert(Role::Experts, format, formats.accept_rounding)?;
    }
    if let Some(format) = formats.dense {
        checkpoint.convert(Role::Dense, format, formats.accept_rounding)?;
    }
    Ok(whole)
}

/// A checkpoint from the hub. One that cannot be exported is refused by its
/// headers, before its weights are fetched.
fn fetch(
    request: &Request,
    wanted: &FromHub,
    progress: &dyn Progress,
) -> Result<(Checkpoint, PathBuf, HubSummary), Error> {
    let FromHub { name, offline, headers_only, .. } = wanted;
    if *headers_only {
        refuse_without_weights(request, *offline)?;
    }
    let root = wanted.folder.clone().unwrap_or_else(|| {
        let beside = request.output.as_deref().or(request.save_weights.as_deref());
        beside.map_or(Path::new("."), parent_dir).join(name.default_folder())
    });
    let companions = if !headers_only || request.genai.is_some() {
        tokenizer::FILES.to_vec()
    } else {
        Vec::new()
    };
    let (root, companions) = (&*root, &*companions);
    let wanted = hub::FetchRequest { name, root, companions, offline: *offline };
    let mut repository = hub::Repository::open(wanted, progress)?;
    let open = |repository: &hub::Repository| {
        let hub::Repository { which, headers, .. } = repository;
        Checkpoint::open_files(&repository.folder(), which, headers, &request.leniency)
    };
    let mut checkpoint = open(&repository)?;
    if request.output.is_some() {
        let mut prepared = checkpoint.clone();
        prepare(&mut prepared, request)?;
        model::decoder(&prepared.config, &prepared.weights, request.options())?;
    }
    if *headers_only {
        repository.fetch_companions()?;
    } else {
        repository.fetch_all()?;
        checkpoint = open(&repository)?;
    }
    let summary = HubSummary::new(&repository, root);
    Ok((checkpoint, repository.folder(), summary))
}

/// What cannot be done with headers alone.
fn refuse_without_weights(request: &Request, offline: bool) -> Result<(), Error> {
    let asked = [
        (request.save_weights.is_some(), "a staged weights file"),
        (request.formats.experts.is_some(), "a conversion of the experts"),
        (request.formats.dense.is_some(), "a conversion of dense matrices"),
        (request.external_data == ExternalData::Copy, "a copy of the weights"),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => {
            Err(err!("only headers are fetched from the hub, and {what} needs the weights"))
        }
        None if offline => Err(err!("headers cannot be fetched from the hub in offline mode")),
        None => Ok(()),
    }
}

/// A staged file whose contents are those that it says it has, with the
/// fingerprint of what it was made of.
fn open_staged(path: &Path) -> Result<(Checkpoint, Fingerprint), Error> {
    let (checkpoint, said) = Checkpoint::open_staged(path)?;
    let found = Fingerprint::of_stored(checkpoint.weights.iter())?;
    match found == said.contents {
        true => Ok((checkpoint, said.fingerprint)),
        false => Err(err!(
            "`{}`: contents fingerprint mismatch (expected {}, found {found}): the file was changed; stage it again",
            path.display(),
            said.contents
        )),
    }
}

//! What a repository holds at a revision: from the hub, or from what is here.

use std::path::Path;

use serde::Deserialize;

use super::cached::Snapshot;
use super::client::Client;
use super::folder::Folder;
use super::{CONFIG, Error, Name, Result};
use crate::checkpoint;
use crate::digest::Digest;
use crate::progress::Progress;

/// The files of a repository at one commit.
pub struct Listing {
    /// The commit, in full.
    pub commit: String,
    /// In no order.
    pub files: Vec<File>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// From the repository's root, with `/` between components.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// The SHA-256 of a large file; for others the name that git has for it.
    /// The hub calls it by this (the ETag).
    pub digest: String,
}

impl File {
    /// A digest of the kind that this file has.
    pub fn digest(&self) -> Digest {
        if self.digest.len() == SHA256_DIGITS {
            Digest::sha256()
        } else {
            Digest::git_blob(self.size)
        }
    }
}

const SHA256_DIGITS: usize = 64;
const SHA1_DIGITS: usize = 40;

/// Whether a text is a digest of one of the two kinds. They become names of files.
pub fn is_digest(text: &str) -> bool {
    [SHA1_DIGITS, SHA256_DIGITS].contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The hub's answer, as far as it matters.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

impl Listing {
    /// Asks the hub.
    pub fn ask(client: &Client, name: &Name, progress: &dyn Progress) -> Result<Self> {
        let revision = name.revision.replace('/', "%2F");
        let address = client
            .address(&format!("api/models/{}/revision/{revision}?blobs=true", name.repository));
        let text =
            client.read(&address, None, progress).map_err(|error| client.explain(error, name))?;
        let unclear = |reason: String| Error::Listing { address: address.clone(), reason };
        let answer: Answer =
            serde_json::from_slice(&text).map_err(|error| unclear(error.to_string()))?;
        let file = |sibling: Sibling| {
            let Sibling { rfilename: path, size, blob_id, lfs } = sibling;
            let digest = lfs.map(|lfs| lfs.sha256).or(blob_id).filter(|digest| is_digest(digest));
            match (size, digest) {
                (Some(size), Some(digest)) => Ok(File { path, size, digest }),
                _ => Err(unclear(format!("it gives no size or no digest of `{path}`"))),
            }
        };
        if !is_digest(&answer.sha) {
            return Err(unclear("it names no commit".into()));
        }
        let files = answer.siblings.into_iter().map(file).collect::<Result<_>>()?;
        Ok(Self { commit: answer.sha, files })
    }

    /// What is known without asking: from the folder of an earlier download, or
    /// from Hugging Face's cache.
    pub fn offline(name: &Name, folder: &Path, snapshot: Option<&Snapshot>) -> Result<Self> {
        let config = name.path(CONFIG);
        let fits = |listing: &Self| {
            listing.find(&config).is_some()
                && (!is_digest(&name.revision) || listing.commit == name.revision)
        };
        let found = Folder::listing(folder, &config)?.filter(fits);
        match found.or(snapshot.map(Snapshot::listing).transpose()?.filter(fits)) {
            Some(listing) => Ok(listing),
            None => Err(Error::Offline { name: name.to_string(), file: config }),
        }
    }

    /// The config of the checkpoint that is meant.
    pub fn config(&self, name: &Name) -> Result<File> {
        let found = self.find(&name.path(CONFIG)).cloned();
        found.ok_or_else(|| self.lacks(name, CONFIG))
    }

    /// The weights of a checkpoint without an index.
    pub fn only_weights(&self, name: &Name) -> Result<File> {
        if let Some(usual) = self.find(&name.path("model.safetensors")) {
            return Ok(usual.clone());
        }
        let fits = |file: &&File| beside(name, file).is_some_and(|it| it.ends_with(".safetensors"));
        let found: Vec<_> = self.files.iter().filter(fits).collect();
        match found[..] {
            [only] => Ok(only.clone()),
            [] => Err(self.lacks(name, "model.safetensors")),
            _ => Err(Error::Ambiguous { name: name.to_string(), count: found.len() }),
        }
    }

    /// That there is no such file, with what there is in its place.
    fn lacks(&self, name: &Name, wanted: &'static str) -> Error {
        let released = Name { folder: "original".into(), ..name.clone() };
        let instead = match self.find(&released.path(CONFIG)) {
            Some(_) => Some(format!("a checkpoint in `{released}`")),
            None => {
                let names = self.files.iter().filter_map(|file| beside(name, file));
                checkpoint::foreign(names).map(|(what, instead)| format!("{what}: {instead}"))
            }
        };
        Error::Lacks { name: name.to_string(), commit: self.commit.clone(), wanted, instead }
    }

    /// A file by its path.
    pub fn find(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// The name of a file that lies where the checkpoint is.
fn beside<'f>(name: &Name, file: &'f File) -> Option<&'f str> {
    let within = file.path.strip_prefix(&*name.path(""))?;
    (!within.contains(['/', '\\'])).then_some(within)
}

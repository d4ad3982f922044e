//! What a repository holds at a revision: from the hub, or from what is here.

use std::path::Path;

use serde::Deserialize;

use super::cached::Cached;
use super::client::Client;
use super::folder;
use super::record::Record;
use super::{Error, Name, Result};
use crate::checkpoint::{self, CONFIG};
use crate::files::digest::Digest;
use crate::progress::Progress;

/// Nothing larger than this is a file.
const LARGEST: u64 = 1 << 50;
/// Nothing larger than this is read whole: a config, an index, a tokenizer.
const LARGEST_TEXT: u64 = 256 << 20;

/// The files of a repository at one commit.
pub struct Listing {
    /// The commit, in full.
    pub commit: String,
    /// In no order.
    pub files: Vec<File>,
    /// Whether there are no others.
    pub is_all: bool,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// From the repository's root, with `/` between components; it leads nowhere else.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// The SHA-256 of a large file; for others the name that git has for it.
    /// The hub calls it by this (the ETag).
    pub digest: String,
}

impl File {
    /// A file whose path stays in the folder that it is put into, on every system.
    pub fn new(path: String, size: u64, digest: String) -> Option<Self> {
        let odd = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
        let fits = |part: &str| !part.is_empty() && !part.ends_with(['.', ' ']);
        let fits = !path.contains(odd) && path.split('/').all(fits);
        (fits && is_hash(&digest) && size < LARGEST).then_some(Self { path, size, digest })
    }

    /// A digest of the kind that this file has, in the making.
    pub fn hasher(&self) -> Digest {
        match self.digest.len() {
            SHA256_DIGITS => Digest::sha256(),
            _ => Digest::git_blob(self.size),
        }
    }
}

const SHA256_DIGITS: usize = 64;
const SHA1_DIGITS: usize = 40;

/// Whether a text is the name of a commit or the digest of a file.
pub fn is_hash(text: &str) -> bool {
    [SHA1_DIGITS, SHA256_DIGITS].contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What the hub says of a model, as far as it matters.
#[derive(Deserialize)]
struct ModelInfo {
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
        let (repository, revision) = (&name.repository, name.revision.replace('/', "%2F"));
        let address =
            client.address(&format!("api/models/{repository}/revision/{revision}?blobs=true"));
        let text = client.read(&address, None, progress);
        let text = text.map_err(|error| error.of_repository(name, client.has_token()))?;
        let unclear = |reason: String| Error::Listing { address: address.clone(), reason };
        let info: ModelInfo =
            serde_json::from_slice(&text).map_err(|error| unclear(error.to_string()))?;
        if !is_hash(&info.sha) {
            return Err(unclear("it names no commit".into()));
        }
        // What has no size, no digest or no proper name is not taken for a file.
        let file = |sibling: Sibling| {
            let digest = sibling.lfs.map(|lfs| lfs.sha256).or(sibling.blob_id)?;
            File::new(sibling.rfilename, sibling.size?, digest)
        };
        let files = info.siblings.into_iter().filter_map(file).collect();
        Ok(Self { commit: info.sha, files, is_all: true })
    }

    /// What is known without asking: from the folder of an earlier download, or
    /// from Hugging Face's cache.
    pub fn offline(name: &Name, root: &Path, cached: Option<&Cached>) -> Result<Self> {
        let record = Record::read(root).filter(|record| record.is_of(name));
        if let Some(commit) = record.as_ref().and_then(|record| record.commit(name)) {
            return folder::noted(root, commit);
        }
        let listing = cached.map(Cached::listing).transpose()?.flatten();
        listing.ok_or_else(|| offline(name, &name.path(CONFIG)))
    }

    /// A file that must be there.
    pub fn need(&self, name: &Name, file: &'static str) -> Result<File> {
        let found = self.find(&name.path(file)).cloned();
        found.ok_or_else(|| self.lacks(name, file))
    }

    /// The weights of a checkpoint without an index.
    pub fn only_weights(&self, name: &Name) -> Result<File> {
        if let Some(usual) = self.find(&name.path(checkpoint::SINGLE_FILE)) {
            return Ok(usual.clone());
        }
        let fits = |file: &&File| beside(name, file).is_some_and(|it| it.ends_with(".safetensors"));
        let found: Vec<_> = self.files.iter().filter(fits).collect();
        match found[..] {
            [only] => Ok(only.clone()),
            [] => Err(self.lacks(name, checkpoint::SINGLE_FILE)),
            _ => Err(Error::Ambiguous { name: name.to_string(), count: found.len() }),
        }
    }

    /// That there is no such file, with what there is in its place.
    pub fn lacks(&self, name: &Name, wanted: &str) -> Error {
        if !self.is_all {
            return offline(name, &name.path(wanted));
        }
        let released = Name { folder: "original".into(), ..name.clone() };
        let instead = match self.find(&released.path(CONFIG)) {
            Some(_) => Some(format!("a checkpoint in `{released}`")),
            None => {
                let mut names = self.files.iter().filter_map(|file| beside(name, file));
                names.find_map(checkpoint::identify)
            }
        };
        let (name, wanted) = (name.to_string(), wanted.to_owned());
        Error::Lacks { name, commit: self.commit.clone(), wanted, instead }
    }

    /// That a shard which the index names is not there.
    pub fn lacks_shard(&self, name: &Name, shard: String) -> Error {
        match self.is_all {
            true => Error::NoShard { name: name.to_string(), shard },
            false => offline(name, &name.path(&shard)),
        }
    }

    /// A file by its path.
    pub fn find(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// That a file would have to be fetched.
pub fn offline(name: &Name, file: &str) -> Error {
    Error::Offline { name: name.to_string(), file: file.to_owned() }
}

/// That a file is too large for what it is said to be.
pub fn refuse_large(files: &[File]) -> Result<()> {
    match files.iter().find(|file| file.size > LARGEST_TEXT) {
        Some(File { path, size, .. }) => Err(Error::TooLarge { file: path.clone(), size: *size }),
        None => Ok(()),
    }
}

/// The name of a file that lies where the checkpoint is.
fn beside<'f>(name: &Name, file: &'f File) -> Option<&'f str> {
    let within = file.path.strip_prefix(&*name.path(""))?;
    (!within.contains('/')).then_some(within)
}

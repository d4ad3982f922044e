//! The files of a repository at one commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::RepoPath;
use super::environment::Environment;
use super::http::{Client, Failure};
use crate::checkpoint::{self, Index, SINGLE_FILE};
use crate::error::{Error, Result, Setting, ensure, err};
use crate::files::digest::Digest;

/// How the names of an adapter's weights begin, in whatever format.
const ADAPTER: &str = "adapter_model.";
const LARGEST_FILE: u64 = 1 << 50;
const SHA1_DIGITS: usize = 40;
const SHA256_DIGITS: usize = 64;
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// What is asked of the hub.
#[derive(Clone, Copy)]
pub struct HubFolder<'a> {
    pub name: &'a RepoPath,
    /// The folder for the repository's files.
    pub root: &'a Path,
    /// The name of the file that every such folder has.
    pub config: &'a str,
    /// By which a user names it.
    pub setting: Setting,
    /// Use only files that are on this machine.
    pub offline: bool,
}

pub struct Listing {
    pub name: RepoPath,
    pub commit: String,
    pub files: Vec<RemoteFile>,
    /// If only files that are on this machine are listed.
    pub offline: Option<Offline>,
}

/// Why there are no requests, and where files are looked for instead.
pub struct Offline {
    /// What forbids requests.
    pub by: &'static str,
    pub download_dir: PathBuf,
    /// Hugging Face's cache.
    pub cache: Option<PathBuf>,
}

impl Offline {
    /// The error for a file that would have to be downloaded.
    pub fn missing(&self, name: &RepoPath, path: &str) -> Error {
        let Self { by, download_dir, cache } = self;
        let cache = cache.as_ref().map_or_else(String::new, |it| format!(" `{}`", it.display()));
        err!(
            "`{path}` of `{name}` is neither in the download folder `{}` nor in Hugging Face's cache{cache}, and {by} forbids downloads",
            download_dir.display()
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Relative to the repository's root, with `/` between components.
    pub path: String,
    pub size: u64,
    /// SHA-256 of a large file, git's object id of any other. The hub uses it as the ETag.
    pub(super) digest: String,
}

impl RemoteFile {
    /// `None` if the path is not safe to create below a folder, on any system.
    pub fn new(path: String, size: u64, digest: String) -> Option<Self> {
        let is_odd = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
        let is_plain = |part: &str| !part.is_empty() && !part.ends_with(['.', ' ']);
        let is_safe = !path.contains(is_odd) && path.split('/').all(is_plain);
        (is_safe && is_hash(&digest) && size < LARGEST_FILE).then_some(Self { path, size, digest })
    }

    /// An empty digest of this file's algorithm.
    pub fn hasher(&self) -> Digest {
        if self.digest.len() == SHA256_DIGITS {
            Digest::sha256()
        } else {
            Digest::git_blob(self.size)
        }
    }
}

/// Whether a text is a commit or a file's digest.
pub fn is_hash(text: &str) -> bool {
    [SHA1_DIGITS, SHA256_DIGITS].contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

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
    pub fn request(client: &Client, name: &RepoPath) -> Result<Self> {
        let (repository, revision) = (&name.repository, name.revision.replace('/', "%2F"));
        let models = format!("{}/api/models", client.environment.endpoint);
        let url = format!("{models}/{repository}/revision/{revision}?blobs=true");
        let json = client.read(&url).map_err(|failure| refused(failure, name, client))?;
        let info: ModelInfo = serde_json::from_slice(&json).map_err(|error| {
            err!("`{url}` sent an invalid list of files ({error}): check that HF_ENDPOINT is a hub")
        })?;
        ensure!(
            is_hash(&info.sha),
            "`{url}` sent an invalid list of files (it has no commit): check that HF_ENDPOINT is a hub"
        );
        let file = |sibling: Sibling| {
            let digest = sibling.lfs.map(|lfs| lfs.sha256).or(sibling.blob_id)?;
            RemoteFile::new(sibling.rfilename, sibling.size?, digest)
        };
        let files = info.siblings.into_iter().filter_map(file).collect();
        Ok(Self { name: name.clone(), commit: info.sha, files, offline: None })
    }

    pub fn url(&self, hub: &str, file: &RemoteFile) -> String {
        let path = utf8_percent_encode(&file.path, ESCAPED);
        format!("{hub}/{}/resolve/{}/{path}", self.name.repository, self.commit)
    }

    pub fn find(&self, path: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path == path)
    }

    pub fn require(&self, file: &str) -> Result<RemoteFile> {
        self.find(&self.name.file(file)).cloned().ok_or_else(|| self.lacks(file))
    }

    /// The weights files of the checkpoint, but for shards of its `index` that are not listed.
    /// `is_own` tells files that an export wrote.
    pub fn weights(
        &self,
        index: Option<&Index>,
        is_own: impl Fn(&RemoteFile) -> bool,
    ) -> Result<Vec<RemoteFile>> {
        let listed: BTreeMap<&str, &RemoteFile> = self.in_folder().collect();
        let names = listed.keys().map(|name| (*name).to_owned()).collect();
        let is_own = |name: &str| listed.get(name).is_some_and(|file| is_own(file));
        let files = checkpoint::select(&self.name, &names, index, is_own)?;
        if files.is_empty() {
            return Err(self.lacks(SINGLE_FILE));
        }
        let found = files.iter().filter_map(|name| listed.get(&**name));
        Ok(found.map(|file| (*file).clone()).collect())
    }

    /// Files of the checkpoint's folder by their names in it.
    fn in_folder(&self) -> impl Iterator<Item = (&str, &RemoteFile)> {
        let prefix = self.name.file("");
        self.files.iter().filter_map(move |file| {
            let name = file.path.strip_prefix(&*prefix)?;
            (!name.contains('/')).then_some((name, file))
        })
    }

    /// The error for a missing file, with what the repository has instead.
    fn lacks(&self, wanted: &str) -> Error {
        let name = &self.name;
        if let Some(offline) = &self.offline {
            return offline.missing(name, &name.file(wanted));
        }
        let original = RepoPath { folder: "original".into(), ..name.clone() };
        let mut files = self.in_folder().map(|(file, _)| file);
        let found = if self.find(&original.file(checkpoint::CONFIG)).is_some() {
            Some(format!("a checkpoint in `{original}`"))
        } else if wanted.starts_with(ADAPTER) {
            files.find(|it| it.starts_with(ADAPTER)).map(|file| {
                format!("{file}: load it in PEFT and save it as SafeTensors (save_pretrained does)")
            })
        } else {
            files.find_map(checkpoint::identify).map(ToString::to_string)
        };
        let instead = found.map_or(String::new(), |found| format!("; it has {found}"));
        err!("`{name}` has no {wanted} at commit {}{instead}", self.commit)
    }
}

/// What a refused list says about its repository.
fn refused(failure: Failure, name: &RepoPath, client: &Client) -> Error {
    let Failure::Refused(status, code, _) = &failure else { return failure.into() };
    let RepoPath { repository, revision, .. } = name;
    let Environment { endpoint: hub, token, .. } = &client.environment;
    let users = if token.is_some() { "the owner of this token" } else { "users without a token" };
    match (status, code.as_deref()) {
        (401, None | Some("RepoNotFound")) => err!(
            "`{name}` is not a local folder, and {hub} shows no such repository to {users} (401): check the name, or set HF_TOKEN to a token with access"
        ),
        (404, None | Some("RepoNotFound")) => {
            err!(
                "`{name}` is neither a local folder nor a repository on {hub} (404): check the name"
            )
        }
        (404, Some("RevisionNotFound")) => {
            err!(
                "`{repository}` has no revision `{revision}` on {hub}: check the name of the branch, tag or commit"
            )
        }
        _ => failure.into(),
    }
}

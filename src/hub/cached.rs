//! What Hugging Face's cache holds of a repository: files under the names of
//! their digests, and for each commit links to them under their own.

use std::path::{Path, PathBuf};

use fs_err as fs;
use hf_hub::{Cache, Repo, RepoType};

use super::listing::{File, Listing, is_hash};
use super::{Name, Result};
use crate::checkpoint::CONFIG;

/// A repository in the cache.
pub struct Cached {
    blobs: PathBuf,
    /// Of the commit that is meant, if it is there.
    snapshot: Option<PathBuf>,
}

impl Cached {
    /// That of a commit, or of what the revision meant when it was fetched last.
    pub fn find(cache: &Cache, name: &Name, commit: Option<&str>) -> Self {
        let revision = name.revision.replace("%2F", "/");
        let repo = Repo::with_revision(name.repository.clone(), RepoType::Model, revision);
        let blobs = cache.path().join(repo.folder_name()).join("blobs");
        let cached = cache.repo(repo);
        let known = commit.or(Some(&*name.revision).filter(|revision| is_hash(revision)));
        let config = name.path(CONFIG);
        let snapshot = match known {
            Some(commit) => Some(cached.pointer_path(commit)),
            None => cached.get(&config).and_then(|path| {
                Some(path.ancestors().nth(Path::new(&config).components().count())?.to_owned())
            }),
        };
        Self { blobs, snapshot: snapshot.filter(|folder| folder.is_dir()) }
    }

    /// What it holds of the commit, as far as names of files tell their digests.
    pub fn listing(&self) -> Result<Option<Listing>> {
        let Some(snapshot) = &self.snapshot else { return Ok(None) };
        let commit = snapshot.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut files = Vec::new();
        walk(snapshot, "", &mut files)?;
        Ok(Some(Listing { commit: commit.to_owned(), files, is_all: false }))
    }

    /// Where it has a file, as far as its name and length tell.
    pub fn copy_of(&self, file: &File) -> Option<PathBuf> {
        let snapshot = self.snapshot.iter().map(|folder| folder.join(&file.path));
        let mut places = [self.blobs.join(&file.digest)].into_iter().chain(snapshot);
        places.find(|path| {
            let status = std::fs::metadata(path);
            status.is_ok_and(|status| status.is_file() && status.len() == file.size)
        })
    }
}

fn walk(folder: &Path, within: &str, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{within}{name}");
        if path.is_dir() {
            walk(&path, &format!("{name}/"), files)?;
            continue;
        }
        let Ok(blob) = path.canonicalize() else { continue };
        let digest = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        files.extend(File::new(name, fs::metadata(&blob)?.len(), digest.to_owned()));
    }
    Ok(())
}

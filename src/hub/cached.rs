//! What Hugging Face's cache holds of a repository.

use std::path::{Path, PathBuf};

use fs_err as fs;
use hf_hub::{Cache, Repo, RepoType};

use super::listing::{File, Listing, is_digest};
use super::{CONFIG, Name, Result};

/// A repository at one commit: links to files that are named by their digests.
pub struct Snapshot {
    folder: PathBuf,
    commit: String,
}

impl Snapshot {
    /// That of a commit, or of what the revision meant when it was fetched last.
    pub fn find(cache: &Cache, name: &Name, commit: Option<&str>) -> Option<Self> {
        let revision = name.revision.replace("%2F", "/");
        let repo = Repo::with_revision(name.repository.clone(), RepoType::Model, revision);
        let cached = cache.repo(repo);
        let known = commit.or(Some(&*name.revision).filter(|revision| is_digest(revision)));
        let folder = match known {
            Some(commit) => cached.pointer_path(commit),
            None => {
                let config = name.path(CONFIG);
                let depth = Path::new(&config).components().count();
                cached.get(&config)?.ancestors().nth(depth)?.to_owned()
            }
        };
        let commit = folder.file_name()?.to_str()?.to_owned();
        folder.is_dir().then_some(Self { folder, commit })
    }

    /// What it holds, as far as names of files tell their digests.
    pub fn listing(&self) -> Result<Listing> {
        let mut files = Vec::new();
        self.walk(&self.folder, &mut files)?;
        Ok(Listing { commit: self.commit.clone(), files })
    }

    fn walk(&self, folder: &Path, files: &mut Vec<File>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.walk(&path, files)?;
                continue;
            }
            let Ok(blob) = path.canonicalize() else { continue };
            let digest = blob.file_name().and_then(|name| name.to_str());
            let within = path.strip_prefix(&self.folder).expect("found below it").to_str();
            if let (Some(digest), Some(within)) = (digest.filter(|name| is_digest(name)), within) {
                files.push(File {
                    path: within.replace('\\', "/"),
                    size: fs::metadata(&blob)?.len(),
                    digest: digest.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Where it has a file, whole as far as its length tells.
    pub fn copy_of(&self, file: &File) -> Option<PathBuf> {
        let path = self.folder.join(&file.path);
        let length = std::fs::metadata(&path).ok().filter(|status| status.is_file())?.len();
        (length == file.size).then_some(path)
    }
}

//! Files that are on this machine already, in Hugging Face's cache or in the download folder.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

use super::RepoPath;
use super::folder::{DownloadRecord, ref_path};
use super::listing::{HubFolder, Listing, Offline, RemoteFile, is_hash};
use crate::error::{Error, Result, Setting, err};
use crate::files::canonicalize;

/// A repository in Hugging Face's cache: files named by their digests, and a folder of links
/// to them for each commit.
pub struct CachedRepo {
    blobs: PathBuf,
    snapshot: PathBuf,
}

impl CachedRepo {
    /// Finds a commit of a repository, by default that of the latest download of the revision.
    pub fn find(cache: &Cache, name: &RepoPath, commit: Option<&str>) -> Option<Self> {
        let revision = name.revision.replace("%2F", "/");
        let repo = Repo::with_revision(name.repository.clone(), RepoType::Model, revision);
        let folder = cache.path().join(repo.folder_name());
        let cached = cache.repo(repo);
        let snapshot = match commit {
            Some(commit) => cached.pointer_path(commit),
            None => cached.get("")?,
        };
        Some(Self { blobs: folder.join("blobs"), snapshot })
    }

    /// A file of the right size, whose digest is still to be checked.
    pub fn copy_of(&self, file: &RemoteFile) -> Option<PathBuf> {
        let places = [self.blobs.join(&file.digest), self.snapshot.join(&file.path)];
        let fits = |found: Metadata| found.is_file() && found.len() == file.size;
        places.into_iter().find(|path| fs::metadata(path).is_ok_and(fits))
    }
}

/// The files of a checkpoint that are on this machine, at the commit of the last download
/// into the folder or else into the cache. Requests are forbidden `by` something.
pub fn list_offline(source: HubFolder, cache: Option<&Cache>, by: &'static str) -> Result<Listing> {
    let HubFolder { name, root, .. } = source;
    let pinned = Some(name.revision.clone()).filter(|revision| is_hash(revision));
    let downloaded = fs::read_to_string(ref_path(root, name)).ok();
    let known = pinned.or(downloaded.filter(|commit| is_hash(commit)));
    let cached = cache.and_then(|cache| CachedRepo::find(cache, name, known.as_deref()));
    let newest = || Some(cached.as_ref()?.snapshot.file_name()?.to_str()?.to_owned());
    let offline = Offline {
        by,
        download_dir: root.to_owned(),
        cache: cache.map(|cache| cache.path().clone()),
    };
    let commit = known.or_else(newest).ok_or_else(|| unknown_commit(source, &offline))?;
    let downloaded = paths(name, root).filter_map(|path| {
        let record = DownloadRecord::read(root, &path).filter(|record| record.commit == commit)?;
        let size = fs::metadata(root.join(&path)).ok()?.len();
        RemoteFile::new(path, size, record.digest)
    });
    let snapshot = cached.iter().flat_map(|cached| {
        paths(name, &cached.snapshot).filter_map(|path| {
            let blob = canonicalize(cached.snapshot.join(&path)).ok()?;
            let digest = blob.file_name()?.to_str()?.to_owned();
            RemoteFile::new(path, blob.metadata().ok()?.len(), digest)
        })
    });
    let mut files: Vec<RemoteFile> = downloaded.chain(snapshot).collect();
    // The root may be the checkpoint's folder, and the cache may have the same files.
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files.dedup_by(|other, one| one.path == other.path);
    Ok(Listing { name: name.clone(), commit, files, offline: Some(offline) })
}

/// The error for a checkpoint of which there are files of an unknown commit, or none.
fn unknown_commit(source: HubFolder, offline: &Offline) -> Error {
    let HubFolder { name, root, config, setting, .. } = source;
    let file = name.file(config);
    match DownloadRecord::read(root, &file) {
        Some(DownloadRecord { commit, .. }) => err!(
            "no download has told which commit the revision `{}` of `{}` is, and {} forbids to ask: run the command once without it, or name the commit of the download folder, `{}`",
            name.revision,
            name.repository,
            offline.by,
            name.at(&commit)
        ),
        None if root.join(&file).exists() => err!(
            "`{file}` is in the download folder `{}` without Hugging Face's record of its download, so its commit is unknown: give the folder itself",
            root.display()
        )
        .with_remedy(setting, name.folder_in(root).display().to_string()),
        None => offline
            .missing(name, &file)
            .with_remedy(setting, "DIR")
            .with_remedy(Setting::DownloadDir, "DIR"),
    }
}

/// Paths of the files in a repository's root and in the checkpoint's folder.
fn paths(name: &RepoPath, base: &Path) -> impl Iterator<Item = String> {
    let files = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    };
    let (root, folder) = (files(base), files(&base.join(&name.folder)));
    root.chain(folder.map(|file| name.file(&file)))
}

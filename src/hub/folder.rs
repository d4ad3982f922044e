//! The folder that a repository is downloaded into. Its files have the same paths as in the
//! repository; `.cache/huggingface` holds Hugging Face's own metadata of each, the files that
//! are still incomplete, and the commits that revisions were.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

use super::RepoPath;
use super::listing::{RemoteFile, is_hash};
use crate::checkpoint::DOWNLOADS;
use crate::error::{Error, Result, Setting};
use crate::files::parent_dir;
use crate::publish::Lock;

const LOCK: &str = ".cache/huggingface/gpt-oss-export.lock";
/// For each revision, or folder of one, a file with the commit of its last download.
const REFS: &str = ".cache/huggingface/gpt-oss-export.refs";
/// How much newer than its metadata a file may be, for coarse clocks.
const TOLERANCE: Duration = Duration::from_secs(1);

/// A download folder, locked against other exports.
pub struct DownloadFolder {
    pub root: PathBuf,
    _lock: Lock,
}

/// What Hugging Face's metadata says of a downloaded file.
#[derive(PartialEq)]
pub struct DownloadRecord {
    pub commit: String,
    pub digest: String,
}

/// An error that another download folder avoids.
pub fn folder_error(sentence: String) -> Error {
    Error::new(sentence).with_remedy(Setting::DownloadDir, "DIR")
}

impl DownloadFolder {
    /// Creates and locks the folder of a repository, whose name the lock file holds.
    pub fn open(root: &Path, repository: &str) -> Result<Self> {
        fs::create_dir_all(root.join(DOWNLOADS))?;
        let ignore = root.join(".cache/huggingface/.gitignore");
        if !ignore.exists() {
            fs::write(ignore, "*\n")?;
        }
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(root.join(LOCK))?;
        let (folder, mut holds) = (root.display(), String::new());
        let lock = Lock::try_new(file.file().try_clone()?)?.ok_or_else(|| folder_error(format!(
            "another export is downloading into `{folder}`: wait for it, or choose another download folder"
        )))?;
        file.read_to_string(&mut holds)?;
        if holds.is_empty() {
            file.write_all(repository.as_bytes())?;
        } else if holds != repository {
            return Err(folder_error(format!(
                "`{folder}` holds files of `{holds}`: choose another download folder"
            )));
        }
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// Remembers the commit of a checkpoint, all of whose files are here now.
    pub fn write_commit(&self, name: &RepoPath, commit: &str) -> Result<()> {
        fs::create_dir_all(self.root.join(REFS))?;
        Ok(fs::write(ref_path(&self.root, name), commit)?)
    }

    pub fn path(&self, file: &RemoteFile) -> PathBuf {
        self.root.join(&file.path)
    }

    /// Where a file grows until it is complete.
    pub fn incomplete(&self, file: &RemoteFile) -> PathBuf {
        self.root.join(DOWNLOADS).join(format!("{}.incomplete", file.digest))
    }

    pub fn record(&self, file: &RemoteFile) -> Option<DownloadRecord> {
        DownloadRecord::read(&self.root, &file.path)
    }

    pub fn write_record(&self, file: &RemoteFile, commit: &str) -> Result<()> {
        let record = DownloadRecord { commit: commit.to_owned(), digest: file.digest.clone() };
        if self.record(file) == Some(record) {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let path = record_path(&self.root, &file.path);
        fs::create_dir_all(parent_dir(&path))?;
        Ok(fs::write(path, format!("{commit}\n{}\n{now}\n", file.digest))?)
    }
}

/// Where the commit is at which a checkpoint was downloaded last.
pub fn ref_path(root: &Path, RepoPath { revision, folder, .. }: &RepoPath) -> PathBuf {
    root.join(REFS).join(format!("{revision}@{folder}").replace('/', "%2F"))
}

fn record_path(root: &Path, path: &str) -> PathBuf {
    root.join(DOWNLOADS).join(format!("{path}.metadata"))
}

impl DownloadRecord {
    /// `None` if the file was changed after its record was written.
    pub fn read(root: &Path, path: &str) -> Option<Self> {
        let text = std::fs::read_to_string(record_path(root, path)).ok()?;
        let mut lines = text.lines().map(str::trim);
        let (commit, digest) = (lines.next()?.to_owned(), lines.next()?.to_owned());
        let written = Duration::try_from_secs_f64(lines.next()?.parse().ok()?).ok()?;
        let changed = std::fs::metadata(root.join(path)).ok()?.modified().ok()?;
        let is_unchanged = changed <= UNIX_EPOCH.checked_add(written)?.checked_add(TOLERANCE)?;
        (is_hash(&commit) && is_hash(&digest) && is_unchanged).then_some(Self { commit, digest })
    }
}

//! The folder that a repository is downloaded into: its files as they are in the
//! repository, and below `.cache/huggingface` what Hugging Face's own tools keep
//! there too: for each file what it is, and what has arrived so far.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

use super::listing::{File, Listing, is_digest};
use super::{Error, Result};
use crate::paths::folder_of;

/// Where records and unfinished files are.
const RECORDS: &str = ".cache/huggingface/download";
const RECORD: &str = ".metadata";
/// How far a file's time may be ahead of its record's, for coarse clocks.
const TOLERANCE: Duration = Duration::from_secs(1);

/// A folder that nobody else downloads into meanwhile.
pub struct Folder {
    root: PathBuf,
    /// Held until it is dropped.
    _lock: std::fs::File,
}

/// What is known of a file that was whole once.
struct Record {
    commit: String,
    digest: String,
}

/// What there is of a file.
pub enum State {
    /// Nothing.
    Absent,
    /// A file that is known to be the right one.
    Whole,
    /// A file of the right length.
    Unknown,
}

impl Folder {
    /// Makes the folder if it must be, and keeps others out.
    pub fn open(root: &Path) -> Result<Self> {
        let records = root.join(RECORDS);
        fs::create_dir_all(&records)?;
        let above = folder_of(&records);
        let ignore = above.join(".gitignore");
        if !ignore.exists() {
            fs::write(ignore, "*\n")?;
        }
        let lock = std::fs::File::create(above.join("gpt-oss-export.lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked(root.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Where a file belongs.
    pub fn path(&self, file: &File) -> PathBuf {
        self.root.join(&file.path)
    }

    /// Where it grows.
    pub fn incomplete(&self, file: &File) -> PathBuf {
        self.root.join(RECORDS).join(format!("{}.{}.incomplete", file.path, file.digest))
    }

    /// What there is of a file; one that is another is an error.
    pub fn state(&self, file: &File) -> Result<State> {
        let path = self.path(file);
        if path.symlink_metadata().is_err() {
            return Ok(State::Absent);
        }
        let record = read_record(&self.root, &file.path);
        let status = fs::metadata(&path)?;
        match record {
            Some(record) if record.digest == file.digest && status.len() == file.size => {
                Ok(State::Whole)
            }
            None if status.is_file() && status.len() == file.size => Ok(State::Unknown),
            _ => Err(self.differs(file)),
        }
    }

    /// That another file is where this one belongs.
    pub fn differs(&self, file: &File) -> Error {
        let commit = read_record(&self.root, &file.path).map(|record| record.commit);
        Error::Differs { path: self.path(file), file: file.path.clone(), commit }
    }

    /// Writes down that the file is whole, and of this commit.
    pub fn record(&self, file: &File, commit: &str) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let path = record_path(&self.root, &file.path);
        fs::create_dir_all(folder_of(&path))?;
        Ok(fs::write(path, format!("{commit}\n{}\n{now}\n", file.digest))?)
    }

    /// The files that were whole when they were written down, of the commit that
    /// `first` is of; nothing without it.
    pub fn listing(root: &Path, first: &str) -> Result<Option<Listing>> {
        let Some(Record { commit, .. }) = read_record(root, first) else { return Ok(None) };
        let mut paths = Vec::new();
        walk(&root.join(RECORDS), "", &mut paths)?;
        let file = |path: String| {
            let record = read_record(root, &path).filter(|record| record.commit == commit)?;
            let size = std::fs::metadata(root.join(&path)).ok()?.len();
            Some(File { path, size, digest: record.digest })
        };
        let files = paths.into_iter().filter_map(file).collect();
        Ok(Some(Listing { commit, files }))
    }
}

fn record_path(root: &Path, path: &str) -> PathBuf {
    root.join(RECORDS).join(format!("{path}{RECORD}"))
}

/// The record of a file that has not been touched since.
fn read_record(root: &Path, path: &str) -> Option<Record> {
    let text = std::fs::read_to_string(record_path(root, path)).ok()?;
    let mut lines = text.lines().map(str::trim);
    let (commit, digest) = (lines.next()?.to_owned(), lines.next()?.to_owned());
    let seconds: f64 = lines.next()?.parse().ok()?;
    let written = UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?;
    let touched = std::fs::metadata(root.join(path)).ok()?.modified().ok()?;
    let fits = is_digest(&commit) && is_digest(&digest) && touched <= written + TOLERANCE;
    fits.then_some(Record { commit, digest })
}

/// The paths of recorded files.
fn walk(folder: &Path, within: &str, paths: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{within}{name}/"), paths)?;
        } else if let Some(name) = name.strip_suffix(RECORD) {
            paths.push(format!("{within}{name}"));
        }
    }
    Ok(())
}

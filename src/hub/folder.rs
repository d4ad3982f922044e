//! The folder that a repository is downloaded into: its files as they are in the
//! repository. What each of them is stands below `.cache/huggingface`, as
//! Hugging Face's own tools write it; there too is what has arrived so far.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

use super::listing::{File, Listing, is_hash};
use super::{Error, Result};
use crate::files::parent_dir;
use crate::publish::Lock;

/// Where notes and unfinished files are.
const NOTES: &str = ".cache/huggingface/download";
const NOTE: &str = ".metadata";
/// How far a file's time may be ahead of its note's, for coarse clocks.
const TOLERANCE: Duration = Duration::from_secs(1);

/// A folder that nobody else downloads into meanwhile.
pub struct Folder {
    root: PathBuf,
    _lock: Lock,
}

/// What is known of a file that was whole once.
struct Note {
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
        let notes = root.join(NOTES);
        fs::create_dir_all(&notes)?;
        let above = parent_dir(&notes);
        let ignore = above.join(".gitignore");
        if !ignore.exists() {
            fs::write(ignore, "*\n")?;
        }
        let (lock, _) = fs::File::create(above.join("gpt-oss-export.lock"))?.into_parts();
        match Lock::of(lock)? {
            Some(lock) => Ok(Self { root: root.to_owned(), _lock: lock }),
            None => Err(Error::Locked(root.to_owned())),
        }
    }

    /// Where a file belongs.
    pub fn path(&self, file: &File) -> PathBuf {
        self.root.join(&file.path)
    }

    /// Where it grows: what has the same digest is the same.
    pub fn incomplete(&self, file: &File) -> PathBuf {
        self.root.join(NOTES).join(format!("{}.incomplete", file.digest))
    }

    /// What there is of a file; one that is another is an error.
    pub fn state(&self, file: &File) -> Result<State> {
        let path = self.path(file);
        if path.symlink_metadata().is_err() {
            return Ok(State::Absent);
        }
        let status = fs::metadata(&path)?;
        if !status.is_file() || status.len() != file.size {
            return Err(self.differs(file));
        }
        match read_note(&self.root, &file.path) {
            Some(note) if note.digest == file.digest => Ok(State::Whole),
            _ => Ok(State::Unknown),
        }
    }

    /// That another file is where this one belongs.
    pub fn differs(&self, file: &File) -> Error {
        let commit = read_note(&self.root, &file.path).map(|note| note.commit);
        let folder = self.root.clone();
        Error::Differs { path: self.path(file), file: file.path.clone(), commit, folder }
    }

    /// Writes down that the file is whole, and of this commit.
    pub fn note(&self, file: &File, commit: &str) -> Result<()> {
        let there = read_note(&self.root, &file.path);
        if there.is_some_and(|note| note.commit == commit && note.digest == file.digest) {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let path = note_path(&self.root, &file.path);
        fs::create_dir_all(parent_dir(&path))?;
        Ok(fs::write(path, format!("{commit}\n{}\n{now}\n", file.digest))?)
    }
}

/// The files of a commit that are noted as whole.
pub fn noted(root: &Path, commit: &str) -> Result<Listing> {
    let mut paths = Vec::new();
    walk(&root.join(NOTES), "", &mut paths)?;
    let file = |path: String| {
        let note = read_note(root, &path).filter(|note| note.commit == commit)?;
        let size = std::fs::metadata(root.join(&path)).ok()?.len();
        File::new(path, size, note.digest)
    };
    let files = paths.into_iter().filter_map(file).collect();
    Ok(Listing { commit: commit.to_owned(), files, is_all: false })
}

fn note_path(root: &Path, path: &str) -> PathBuf {
    root.join(NOTES).join(format!("{path}{NOTE}"))
}

/// The note about a file that has not been touched since.
fn read_note(root: &Path, path: &str) -> Option<Note> {
    let text = std::fs::read_to_string(note_path(root, path)).ok()?;
    let mut lines = text.lines().map(str::trim);
    let (commit, digest) = (lines.next()?.to_owned(), lines.next()?.to_owned());
    let seconds: f64 = lines.next()?.parse().ok()?;
    let written = UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?;
    let touched = std::fs::metadata(root.join(path)).ok()?.modified().ok()?;
    let fits = is_hash(&commit) && is_hash(&digest) && touched <= written + TOLERANCE;
    fits.then_some(Note { commit, digest })
}

/// The paths of noted files.
fn walk(folder: &Path, within: &str, paths: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{within}{name}/"), paths)?;
        } else if let Some(name) = name.strip_suffix(NOTE) {
            paths.push(format!("{within}{name}"));
        }
    }
    Ok(())
}

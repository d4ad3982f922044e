//! Advisory locks of the kernel, and a folder that one export writes into at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::error::{Result, err};

/// Temporary files begin with this, and end with one of the suffixes.
pub const PREFIX: &str = ".gpt-oss-export-";
pub const UNFINISHED: &str = ".part";
/// Of the copy of a file that is replaced.
pub const BACKUP: &str = ".old";

/// Held until it is dropped or the process ends.
pub struct Lock(File);

impl Lock {
    /// Locks an open file or folder; `None` if another process holds the lock.
    pub fn try_new(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Keeps other exports out of a folder, and removes what killed exports left in it. The
    /// lock is on the folder itself, so no lock file is left behind. `None` where folders
    /// cannot be locked: some network file systems, and Windows. `shown` is the path for people.
    pub fn of_folder(folder: &Path, shown: &Path) -> Result<Option<Self>> {
        let Ok(lock) = File::open(folder).and_then(Self::try_new) else { return Ok(None) };
        let shown = shown.display();
        let other = || {
            err!("another export is writing into `{shown}`: wait for it, or choose another folder")
        };
        let lock = lock.ok_or_else(other)?;
        remove_leftovers(folder);
        Ok(Some(lock))
    }
}

impl Drop for Lock {
    /// Closing is not enough: a process that another thread is starting inherits the file
    /// until it runs its own program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Removes temporary files of exports, which none can be writing while the folder is
/// locked. One that cannot be removed does no harm.
fn remove_leftovers(folder: &Path) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_temporary = name.starts_with(PREFIX)
            && [UNFINISHED, BACKUP].iter().any(|suffix| name.ends_with(suffix));
        if is_temporary && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::tests::entries;
    use super::*;

    #[test]
    fn ends_while_a_child_process_has_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lock = Lock::try_new(file.reopen().unwrap()).unwrap().unwrap();
        let inherited = lock.0.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("60").stdin(inherited).spawn().unwrap();
        let held = Lock::try_new(file.reopen().unwrap()).unwrap().is_none();
        drop(lock);
        let released = Lock::try_new(file.reopen().unwrap()).unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(held && released);
    }

    #[test]
    fn removes_temporary_files_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let kept = [".gpt-oss-export-notes.md", ".gpt-oss-export-x", "a.part", "b.old"];
        for name in kept.iter().chain(&[".gpt-oss-export-a1B2c3.part", ".gpt-oss-export-z.old"]) {
            std::fs::write(home.path().join(name), "").unwrap();
        }
        std::fs::create_dir(home.path().join(".gpt-oss-export-folder.part")).unwrap();
        drop(Lock::of_folder(home.path(), home.path()).unwrap());
        assert_eq!(entries(home.path()), [&[".gpt-oss-export-folder.part"], &kept[..]].concat());
    }
}

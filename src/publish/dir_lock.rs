//! A folder that one export writes into at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use crate::error::{Result, bail};

/// Prefix of temporary files,
pub const PREFIX: &str = ".gpt-oss-export-";
/// with this suffix while they are written,
pub const UNFINISHED: &str = ".part";
/// or with this one as a backup of a replaced file.
pub const BACKUP: &str = ".old";

/// Keeps other exports out of a folder. The lock is on the folder itself, so no lock file
/// is left behind.
pub struct DirLock {
    folder: PathBuf,
    /// `None` where folders cannot be locked: some network file systems, and Windows.
    _lock: Option<Lock>,
}

impl DirLock {
    /// Locks a folder by its canonical path, and removes what killed exports left in it.
    /// `shown` is the path for people.
    pub fn new(folder: PathBuf, shown: &Path) -> Result<Self> {
        let Ok(opened) = File::open(&folder) else { return Ok(Self { folder, _lock: None }) };
        match Lock::try_new(opened) {
            Ok(Some(lock)) => {
                remove_leftovers(&folder);
                Ok(Self { folder, _lock: Some(lock) })
            }
            Ok(None) => bail!(
                "another export is writing into `{}`: wait for it, or choose another folder",
                shown.display()
            ),
            Err(_) => Ok(Self { folder, _lock: None }),
        }
    }

    pub fn is_of(&self, folder: &Path) -> bool {
        self.folder == folder
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
    use super::*;

    #[test]
    fn admits_one_export_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().canonicalize().unwrap();
        let first = DirLock::new(folder.clone(), &folder).unwrap();
        let error = DirLock::new(folder.clone(), &folder).err().unwrap();
        assert!(error.to_string().starts_with("another export is writing into"));
        drop(first);
        assert!(DirLock::new(folder.clone(), &folder).is_ok());
    }

    #[test]
    fn removes_temporary_files_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().canonicalize().unwrap();
        let kept = [".gpt-oss-export-x", "a.part", "b.old", ".gpt-oss-export-notes.md"];
        for name in kept.iter().chain(&[".gpt-oss-export-a1B2c3.part", ".gpt-oss-export-z.old"]) {
            std::fs::write(folder.join(name), "").unwrap();
        }
        std::fs::create_dir(folder.join(".gpt-oss-export-folder.part")).unwrap();
        drop(DirLock::new(folder.clone(), &folder).unwrap());
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        let mut expected = [&kept[..], &[".gpt-oss-export-folder.part"]].concat();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}

//! A folder that one export writes into at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::{ASIDE, Error, PREFIX, UNFINISHED};

/// Others are kept out of a folder until this is dropped, or the process ends, however
/// it does: the lock is the kernel's, on the folder itself, and leaves no file behind.
pub struct Claim {
    folder: PathBuf,
    /// Nothing where there are no such locks: some network file systems, and Windows.
    /// Files then still appear whole or not at all.
    _lock: Option<Lock>,
}

impl Claim {
    /// Takes a folder by its real path, and clears what killed exports have left in it.
    /// People know it as `shown`.
    pub fn of(folder: PathBuf, shown: &Path) -> Result<Self, Error> {
        let Ok(opened) = File::open(&folder) else { return Ok(Self { folder, _lock: None }) };
        match Lock::of(opened) {
            Ok(Some(lock)) => {
                clear(&folder);
                Ok(Self { folder, _lock: Some(lock) })
            }
            Ok(None) => Err(Error::Busy(shown.to_owned())),
            Err(_) => Ok(Self { folder, _lock: None }),
        }
    }

    /// Whether it is of this folder.
    pub fn is_of(&self, folder: &Path) -> bool {
        self.folder == folder
    }
}

/// Removes files by names that only exports give, which no export can be writing while
/// the folder is locked. One that cannot be removed is in nobody's way.
fn clear(folder: &Path) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours =
            name.starts_with(PREFIX) && [UNFINISHED, ASIDE].iter().any(|it| name.ends_with(it));
        if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn one_has_a_folder_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().canonicalize().unwrap();
        let first = Claim::of(folder.clone(), &folder).unwrap();
        assert!(matches!(Claim::of(folder.clone(), &folder), Err(Error::Busy(_))));
        drop(first);
        assert!(Claim::of(folder.clone(), &folder).is_ok());
    }

    #[test]
    fn what_a_killed_export_left_goes_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().canonicalize().unwrap();
        let kept = [".gpt-oss-export-x", "a.part", "b.old", ".gpt-oss-export-notes.md"];
        for name in kept.iter().chain(&[".gpt-oss-export-a1B2c3.part", ".gpt-oss-export-z.old"]) {
            std::fs::write(folder.join(name), "").unwrap();
        }
        std::fs::create_dir(folder.join(".gpt-oss-export-folder.part")).unwrap();
        drop(Claim::of(folder.clone(), &folder).unwrap());
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        let mut expected = [&kept[..], &[".gpt-oss-export-folder.part"]].concat();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}

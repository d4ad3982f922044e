//! Files that appear whole or not at all: written beside their destination, synced, and
//! renamed; what a failed run began is removed.

mod background_sync;
mod dir_lock;
mod disk_space;
mod lock;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use tempfile::NamedTempFile;

use crate::error::{Error, Kind, Result, err};
use crate::files::parent_dir;
use background_sync::with_sync;
use dir_lock::{BACKUP, DirLock, PREFIX, UNFINISHED};
pub use disk_space::check_disk_space;
pub use lock::Lock;

/// Files and folders that appear together at [`Transaction::commit`]. Dropped before that,
/// it leaves nothing.
#[derive(Default)]
pub struct Transaction {
    files: Vec<(NamedTempFile, PathBuf, Existing)>,
    locks: Vec<DirLock>,
    /// Folders that were created, parents first.
    folders: Vec<PathBuf>,
}

/// What happens to an existing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced.
    Replace,
    /// It stays, and the transaction fails.
    Keep,
}

/// The error for a path that could not be written.
pub fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| err!("cannot write `{}`", path.display()).with_kind(Kind::Io).with_source(error)
}

impl Transaction {
    /// Creates the folder of a file if needed, and keeps other exports out of it.
    pub fn claim(&mut self, target: &Path) -> Result<()> {
        let shown = parent_dir(target);
        self.create_folder(shown)?;
        let folder = shown.canonicalize().map_err(cannot_write(shown))?;
        if !self.locks.iter().any(|lock| lock.is_of(&folder)) {
            self.locks.push(DirLock::new(folder, shown)?);
        }
        Ok(())
    }

    /// The path that the bytes of `target` have now.
    pub fn current_path(&self, target: &Path) -> PathBuf {
        let identity = |path: &Path| {
            (parent_dir(path).canonicalize().ok(), path.file_name().map(ToOwned::to_owned))
        };
        let pending = self.files.iter().find(|(_, path, _)| identity(path) == identity(target));
        pending.map_or_else(|| target.to_owned(), |(file, ..)| file.path().to_owned())
    }

    /// Writes a file that will be `target`.
    pub fn create<T>(
        &mut self,
        target: &Path,
        existing: Existing,
        write: impl FnOnce(&File) -> Result<T>,
    ) -> Result<T> {
        self.claim(target)?;
        let folder = parent_dir(target);
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(UNFINISHED);
        #[cfg(unix)]
        {
            // As any other new file; the umask still applies.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(cannot_write(folder))?;
        let written = with_sync(file.as_file(), || write(file.as_file()));
        let outcome = written.map_err(cannot_write(target))??;
        file.as_file().sync_all().map_err(cannot_write(target))?;
        self.files.push((file, target.to_owned(), existing));
        Ok(outcome)
    }

    /// Writes a small file.
    pub fn create_from(&mut self, target: &Path, existing: Existing, bytes: &[u8]) -> Result<()> {
        let write = |mut file: &File| file.write_all(bytes).map_err(cannot_write(target));
        self.create(target, existing, write)
    }

    /// Renames the files to their targets, in the order of creation. If one fails, the
    /// earlier ones are undone.
    pub fn commit(mut self) -> Result<()> {
        let mut done: Vec<(PathBuf, Option<NamedTempFile>)> = Vec::new();
        for (file, target, existing) in std::mem::take(&mut self.files) {
            let renamed = match existing {
                Existing::Replace => back_up(&target).and_then(|backup| {
                    file.persist(&target).map_err(|error| error.error).map(|_| backup)
                }),
                Existing::Keep => {
                    file.persist_noclobber(&target).map_err(|error| error.error).map(|_| None)
                }
            };
            match renamed {
                Ok(backup) => done.push((target, backup)),
                Err(error) => {
                    done.into_iter().rev().for_each(|(path, backup)| undo(&path, backup));
                    return Err(cannot_write(&target)(error));
                }
            }
        }
        // A rename is durable once its folder is synced.
        #[cfg(unix)]
        for (target, _) in &done {
            if let Ok(folder) = fs::File::open(parent_dir(target)) {
                let _ = folder.sync_all();
            }
        }
        self.folders.clear();
        Ok(())
    }

    fn create_folder(&mut self, folder: &Path) -> Result<()> {
        let parents = folder.ancestors().filter(|path| !path.as_os_str().is_empty());
        for path in parents.collect::<Vec<_>>().into_iter().rev() {
            // One by one: `a/..` exists once `a` does.
            match std::fs::create_dir(path) {
                Ok(()) => self.folders.push(path.to_owned()),
                // Perhaps created by another export a moment ago.
                Err(_) if path.is_dir() => {}
                Err(error) => return Err(cannot_write(path)(error)),
            }
        }
        Ok(())
    }
}

/// A copy of a small file that will be replaced.
fn back_up(target: &Path) -> io::Result<Option<NamedTempFile>> {
    if !target.is_file() {
        return Ok(None);
    }
    let mut builder = tempfile::Builder::new();
    let backup = builder.prefix(PREFIX).suffix(BACKUP).tempfile_in(parent_dir(target))?;
    fs::copy(target, backup.path())?;
    Ok(Some(backup))
}

/// Undoes a rename as far as possible.
fn undo(path: &Path, backup: Option<NamedTempFile>) {
    match backup {
        Some(backup) => drop(backup.persist(path)),
        None => drop(fs::remove_file(path)),
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.files.clear();
        // Empty folders only, so nothing of anyone else is removed.
        self.folders.iter().rev().for_each(|folder| drop(std::fs::remove_dir(folder)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    fn add(transaction: &mut Transaction, target: &Path, outcome: io::Result<()>) -> Result<()> {
        let write =
            |mut file: &File| file.write_all(b"bytes").and(outcome).map_err(cannot_write(target));
        transaction.create(target, Existing::Keep, write)
    }

    #[test]
    fn commit_creates_files_and_folders() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("a/b/model.onnx");
        let mut transaction = Transaction::default();
        add(&mut transaction, &target, Ok(())).unwrap();
        assert!(!target.exists());
        transaction.commit().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"bytes");
        assert_eq!(entries(target.parent().unwrap()), ["model.onnx"]);
    }

    #[test]
    fn accepts_paths_through_new_folders() {
        let home = tempfile::tempdir().unwrap();
        let mut transaction = Transaction::default();
        add(&mut transaction, &home.path().join("a/../b/model.onnx"), Ok(())).unwrap();
        transaction.commit().unwrap();
        assert!(home.path().join("b/model.onnx").exists());
    }

    #[test]
    fn keeps_files_that_appear_meanwhile() {
        let home = tempfile::tempdir().unwrap();
        let (first, second) = (home.path().join("first"), home.path().join("second"));
        let mut transaction = Transaction::default();
        add(&mut transaction, &first, Ok(())).unwrap();
        add(&mut transaction, &second, Ok(())).unwrap();
        std::fs::write(&second, "another's").unwrap();
        assert!(transaction.commit().is_err());
        assert_eq!(entries(home.path()), ["second"]);
        assert_eq!(std::fs::read(second).unwrap(), b"another's");
    }

    #[test]
    fn failure_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let mut transaction = Transaction::default();
        add(&mut transaction, &home.path().join("a/weights"), Ok(())).unwrap();
        let full = Err(io::ErrorKind::StorageFull.into());
        let error = add(&mut transaction, &home.path().join("a/b/model.onnx"), full).unwrap_err();
        assert!(error.to_string().contains("model.onnx"), "{error}");
        drop(transaction);
        assert!(entries(home.path()).is_empty());
    }

    #[test]
    fn restores_replaced_files() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("config");
        std::fs::write(&config, "older").unwrap();
        std::fs::create_dir(home.path().join("taken")).unwrap();
        let mut transaction = Transaction::default();
        transaction.create_from(&config, Existing::Replace, b"newer").unwrap();
        transaction.create_from(&home.path().join("taken"), Existing::Replace, b"x").unwrap();
        assert!(transaction.commit().is_err());
        assert_eq!(std::fs::read(&config).unwrap(), b"older");
        assert_eq!(entries(home.path()).len(), 2);
    }

    #[test]
    fn panic_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("weights");
        let outcome = std::panic::catch_unwind(|| {
            let mut transaction = Transaction::default();
            let write = |_: &File| -> Result<()> { panic!("on purpose") };
            transaction.create(&target, Existing::Keep, write)
        });
        assert!(outcome.is_err());
        assert!(entries(home.path()).is_empty());
    }

    #[test]
    fn failed_rename_undoes_earlier_ones() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("taken")).unwrap();
        let mut transaction = Transaction::default();
        add(&mut transaction, &home.path().join("weights"), Ok(())).unwrap();
        add(&mut transaction, &home.path().join("taken"), Ok(())).unwrap();
        assert!(transaction.commit().is_err());
        assert_eq!(entries(home.path()), ["taken"]);
    }
}

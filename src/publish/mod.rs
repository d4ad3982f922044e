//! Files appear whole or not at all: written beside their place, synced, and
//! renamed into it; what a failed run began is removed again.

mod claim;
mod flush;
mod lock;
mod room;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use tempfile::NamedTempFile;

use crate::display::size;
use crate::files::parent_dir;
use claim::Claim;
use flush::while_flushing;
pub use lock::Lock;
pub use room::check_room;

/// Files and folders that appear together when [`Transaction::commit`] is
/// called. Dropped before, nothing is left of them.
#[derive(Default)]
pub struct Transaction {
    files: Vec<(NamedTempFile, PathBuf, Existing)>,
    /// Folders that nobody else exports into meanwhile.
    claims: Vec<Claim>,
    /// Folders made on the way, each after the one that holds it.
    folders: Vec<PathBuf>,
}

/// What becomes of a file that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It gives way.
    Replace,
    /// It stays, and the transaction fails.
    Keep,
}

/// Why files cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("another export is writing into `{}`: wait for it, or take another folder", .0.display())]
    Busy(PathBuf),
    #[error(
        "{} are to be written into `{}`, where {} are free: make room, or take a folder on another disk",
        size(*needed), folder.display(), size(*free)
    )]
    NoRoom { folder: PathBuf, needed: u64, free: u64 },
}

impl Error {
    /// That this path could not be written.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

impl Transaction {
    /// Makes the folder of a file that will be written, if it must be, and keeps other
    /// exports out of it. What a killed one has left there goes.
    pub fn claim(&mut self, target: &Path) -> Result<(), Error> {
        let shown = parent_dir(target);
        self.make_folder(shown)?;
        let folder = shown.canonicalize().map_err(Error::at(shown))?;
        if !self.claims.iter().any(|claim| claim.is_of(&folder)) {
            self.claims.push(Claim::of(folder, shown)?);
        }
        Ok(())
    }

    /// Where the bytes of a file are that will be `target`, or is there already.
    pub fn path_now(&self, target: &Path) -> PathBuf {
        let place = |path: &Path| {
            (parent_dir(path).canonicalize().ok(), path.file_name().map(ToOwned::to_owned))
        };
        let pending = self.files.iter().find(|(_, path, _)| place(path) == place(target));
        pending.map_or_else(|| target.to_owned(), |(file, ..)| file.path().to_owned())
    }

    /// Writes a file that will be `target`; its folder is made if it must be.
    pub fn create<T, E: From<Error>>(
        &mut self,
        target: &Path,
        existing: Existing,
        write: impl FnOnce(&std::fs::File) -> Result<T, E>,
    ) -> Result<T, E> {
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
        let file = builder.tempfile_in(folder).map_err(Error::at(folder))?;
        let written = while_flushing(file.as_file(), || write(file.as_file()));
        let outcome = written.map_err(Error::at(target))??;
        file.as_file().sync_all().map_err(Error::at(target))?;
        self.files.push((file, target.to_owned(), existing));
        Ok(outcome)
    }

    /// Writes a small file whose bytes are at hand.
    pub fn create_from(
        &mut self,
        target: &Path,
        existing: Existing,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let write = |mut file: &std::fs::File| file.write_all(bytes).map_err(Error::at(target));
        self.create(target, existing, write)
    }

    /// Renames the files into place, in the order in which they were created.
    /// When one cannot be, those before it are taken back.
    pub fn commit(mut self) -> Result<(), Error> {
        let mut done: Vec<(PathBuf, Option<NamedTempFile>)> = Vec::new();
        for (file, target, existing) in std::mem::take(&mut self.files) {
            let renamed = match existing {
                Existing::Replace => set_aside(&target).and_then(|old| {
                    file.persist(&target).map_err(|error| error.error).map(|_| old)
                }),
                Existing::Keep => {
                    file.persist_noclobber(&target).map_err(|error| error.error).map(|_| None)
                }
            };
            match renamed {
                Ok(old) => done.push((target, old)),
                Err(error) => {
                    done.into_iter().rev().for_each(|(path, old)| take_back(&path, old));
                    return Err(Error::at(&target)(error));
                }
            }
        }
        // A rename is durable once the folder is.
        #[cfg(unix)]
        for (target, _) in &done {
            if let Ok(folder) = fs::File::open(parent_dir(target)) {
                let _ = folder.sync_all();
            }
        }
        self.folders.clear();
        Ok(())
    }

    fn make_folder(&mut self, folder: &Path) -> Result<(), Error> {
        let above: Vec<&Path> =
            folder.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        for path in above.into_iter().rev() {
            // Asked one by one: `a/..` is there once `a` is.
            match std::fs::create_dir(path) {
                Ok(()) => self.folders.push(path.to_owned()),
                // Perhaps since a moment ago, by another export.
                Err(_) if path.is_dir() => {}
                Err(error) => return Err(Error::at(path)(error)),
            }
        }
        Ok(())
    }
}

/// A copy of a small file that gives way, to bring it back if need be.
fn set_aside(target: &Path) -> io::Result<Option<NamedTempFile>> {
    if !target.is_file() {
        return Ok(None);
    }
    let aside =
        tempfile::Builder::new().prefix(PREFIX).suffix(ASIDE).tempfile_in(parent_dir(target))?;
    fs::copy(target, aside.path())?;
    Ok(Some(aside))
}

/// Undoes one rename; nothing more can be done where that fails.
fn take_back(path: &Path, old: Option<NamedTempFile>) {
    match old {
        Some(old) => drop(old.persist(path)),
        None => drop(fs::remove_file(path)),
    }
}

/// Names of files that are not yet in place, or no longer, begin with this,
const PREFIX: &str = ".gpt-oss-export-";
/// and end with this while they are written,
const UNFINISHED: &str = ".part";
/// or with this where they have given way and may come back.
const ASIDE: &str = ".old";

impl Drop for Transaction {
    fn drop(&mut self) {
        self.files.clear();
        // Only while they are empty, so nothing of anyone else's goes.
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

    fn add(
        transaction: &mut Transaction,
        target: &Path,
        outcome: io::Result<()>,
    ) -> Result<(), Error> {
        let write = |mut file: &std::fs::File| {
            file.write_all(b"bytes").and(outcome).map_err(Error::at(target))
        };
        transaction.create(target, Existing::Keep, write)
    }

    #[test]
    fn committed_files_appear_with_their_folders() {
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
    fn a_folder_may_be_named_through_one_that_is_made() {
        let home = tempfile::tempdir().unwrap();
        let mut transaction = Transaction::default();
        add(&mut transaction, &home.path().join("a/../b/model.onnx"), Ok(())).unwrap();
        transaction.commit().unwrap();
        assert!(home.path().join("b/model.onnx").exists());
    }

    #[test]
    fn what_appears_meanwhile_is_kept() {
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
    fn what_fails_leaves_nothing() {
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
    fn what_gave_way_comes_back() {
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
    fn a_panic_ends_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("weights");
        let outcome = std::panic::catch_unwind(|| {
            let mut transaction = Transaction::default();
            let write = |_: &std::fs::File| -> Result<(), Error> { panic!("on purpose") };
            transaction.create(&target, Existing::Keep, write)
        });
        assert!(outcome.is_err());
        assert!(entries(home.path()).is_empty());
    }

    #[test]
    fn a_rename_that_fails_takes_back_the_ones_before() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("taken")).unwrap();
        let mut transaction = Transaction::default();
        add(&mut transaction, &home.path().join("weights"), Ok(())).unwrap();
        add(&mut transaction, &home.path().join("taken"), Ok(())).unwrap();
        assert!(transaction.commit().is_err());
        assert_eq!(entries(home.path()), ["taken"]);
    }
}

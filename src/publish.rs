//! Files that appear whole or not at all: written beside their destination, synced, and
//! renamed; what a failed run began is removed. One export writes into a folder at a time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use tempfile::NamedTempFile;

use crate::background::{StopFlag, with_background};
use crate::display::size;
use crate::error::{Error, Result, bail, err};
use crate::files::metadata::device;
use crate::files::{canonicalize, parent_dir};

/// Temporary files begin with this, and end with one of the suffixes.
const PREFIX: &str = ".gpt-oss-export-";
const UNFINISHED: &str = ".part";
/// Of the copy of a file that is replaced.
const BACKUP: &str = ".old";

const SYNC_INTERVAL: Duration = Duration::from_millis(50);

/// Files and folders that appear together at [`Transaction::commit`]. Dropped before that,
/// it leaves nothing.
#[derive(Default)]
pub struct Transaction {
    /// Temporary files and what they will be.
    files: Vec<(NamedTempFile, PathBuf, Existing)>,
    /// Targets that a commit under way has renamed, with backups of the files that they replaced.
    renamed: Vec<(PathBuf, Option<NamedTempFile>)>,
    /// By the canonical paths of folders; `None` where folders cannot be locked.
    locks: BTreeMap<PathBuf, Option<Lock>>,
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
    move |error| err!("cannot write `{}`", path.display()).with_io(error)
}

/// A new file, with the permissions of any other.
fn temporary(folder: &Path, suffix: &str) -> io::Result<NamedTempFile> {
    let create = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
    tempfile::Builder::new().prefix(PREFIX).suffix(suffix).make_in(folder, create)
}

impl Transaction {
    /// Creates the folder of a file if needed, and keeps other exports out of it.
    pub fn claim(&mut self, target: &Path) -> Result<()> {
        let shown = parent_dir(target);
        self.create_folder(shown)?;
        let folder = canonicalize(shown).map_err(cannot_write(shown))?;
        if let Entry::Vacant(entry) = self.locks.entry(folder) {
            let lock = Lock::of_folder(entry.key(), shown)?;
            entry.insert(lock);
        }
        Ok(())
    }

    /// The path that the bytes of `target` have now.
    pub fn current_path(&self, target: &Path) -> PathBuf {
        let identity = |path: &Path| {
            (canonicalize(parent_dir(path)).ok(), path.file_name().map(ToOwned::to_owned))
        };
        let pending = self.files.iter().find(|(_, path, _)| identity(path) == identity(target));
        pending.map_or(target, |(file, ..)| file.path()).to_owned()
    }

    /// Writes a file that will be `target`.
    pub fn create<T>(
        &mut self,
        target: &Path,
        existing: Existing,
        write: impl FnOnce(&File) -> Result<T>,
    ) -> Result<T> {
        self.claim(target)?;
        let temporary = temporary(parent_dir(target), UNFINISHED).map_err(cannot_write(target))?;
        let file = temporary.as_file();
        // Synced while it is written, so that the final sync is short.
        let sync = |flag: &StopFlag| {
            while !flag.wait_timeout(SYNC_INTERVAL) {
                // An I/O error is reported once, so it must not get lost here.
                file.sync_data()?;
            }
            Ok(())
        };
        let (written, synced) = with_background(sync, || write(file))?;
        synced.map_err(cannot_write(target))?;
        let outcome = written?;
        file.sync_all().map_err(cannot_write(target))?;
        self.files.push((temporary, target.to_owned(), existing));
        Ok(outcome)
    }

    pub fn create_from(&mut self, target: &Path, existing: Existing, bytes: &[u8]) -> Result<()> {
        let write = |mut file: &File| file.write_all(bytes).map_err(cannot_write(target));
        self.create(target, existing, write)
    }

    /// Renames the files to their targets, in the order of creation. If one fails, the
    /// earlier ones are undone.
    pub fn commit(mut self) -> Result<()> {
        for (file, target, existing) in std::mem::take(&mut self.files) {
            let backup = rename(file, &target, existing).map_err(cannot_write(&target))?;
            self.renamed.push((target, backup));
        }
        // A rename is durable once its folder is synced.
        #[cfg(unix)]
        for (target, _) in &self.renamed {
            let _ = File::open(parent_dir(target)).and_then(|folder| folder.sync_all());
        }
        self.renamed.clear();
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
                Err(error) => return Err(cannot_create(path, error)),
            }
        }
        Ok(())
    }
}

/// The error for a folder that could not be created.
fn cannot_create(folder: &Path, error: io::Error) -> Error {
    let shown = folder.display();
    let Ok(there) = folder.symlink_metadata() else {
        return err!("cannot create the folder `{shown}`").with_io(error);
    };
    let what = if there.is_symlink() { "a link that leads to no folder" } else { "a file" };
    err!("`{shown}` is {what}, expected a folder: choose another folder, or move it away")
}

/// Renames a file to its target, and returns a backup of a file that it replaces.
fn rename(
    file: NamedTempFile,
    target: &Path,
    existing: Existing,
) -> io::Result<Option<NamedTempFile>> {
    if existing == Existing::Keep {
        file.persist_noclobber(target)?;
        return Ok(None);
    }
    let mut backup = None;
    if target.is_file() {
        let copy = temporary(parent_dir(target), BACKUP)?;
        std::fs::copy(target, copy.path())?;
        backup = Some(copy);
    }
    file.persist(target)?;
    Ok(backup)
}

impl Drop for Transaction {
    fn drop(&mut self) {
        for (target, backup) in self.renamed.drain(..).rev() {
            match backup {
                Some(backup) => drop(backup.persist(target)),
                None => drop(fs::remove_file(target)),
            }
        }
        self.files.clear();
        // Empty folders only, so nothing of anyone else is removed.
        self.folders.iter().rev().for_each(|folder| drop(std::fs::remove_dir(folder)));
    }
}

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

/// Fails if files of these sizes do not fit on their disks, before the first byte is written.
/// Their folders exist.
pub fn check_disk_space<'p>(files: impl IntoIterator<Item = (&'p Path, u64)>) -> Result<()> {
    let mut disks = BTreeMap::new();
    for (path, bytes) in files {
        let folder = parent_dir(path);
        let disk = folder.metadata().ok().and_then(|it| device(&it)).ok_or(folder);
        let (_, needed) = disks.entry(disk).or_insert((folder, 0u64));
        *needed = needed.saturating_add(bytes);
    }
    for (folder, needed) in disks.into_values() {
        // Without statistics the write itself will tell.
        let Ok(disk) = fs4::statvfs(folder) else { continue };
        let free = disk.available_space();
        if disk.total_space() > 0 && free < needed {
            bail!(
                "{} are needed in `{}`, and {} are free: free some space, or choose a folder on another disk",
                size(needed),
                folder.display(),
                size(free)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_at_commit_and_nothing_after_a_panic() {
        let home = tempfile::tempdir().unwrap();
        let [weights, model] = ["a/../b/weights", "b/model.onnx"].map(|it| home.path().join(it));
        let run = |write: fn(&File) -> Result<()>| {
            let mut transaction = Transaction::default();
            transaction.create_from(&weights, Existing::Keep, b"bytes")?;
            transaction.create(&model, Existing::Keep, write)?;
            assert!(!home.path().join("b/weights").exists());
            transaction.commit()
        };
        assert!(std::panic::catch_unwind(|| run(|_| panic!("on purpose"))).is_err());
        assert!(entries(home.path()).is_empty());
        run(|_| Ok(())).unwrap();
        assert_eq!(entries(&home.path().join("b")), ["model.onnx", "weights"]);
        assert_eq!(std::fs::read(weights).unwrap(), b"bytes");
    }

    #[test]
    fn failed_rename_undoes_earlier_ones() {
        let home = tempfile::tempdir().unwrap();
        let [config, weights, folder, file] =
            ["config", "weights", "folder", "file"].map(|name| home.path().join(name));
        std::fs::write(&config, "older").unwrap();
        std::fs::create_dir(&folder).unwrap();
        let mut there = vec!["config", "folder"];
        for (taken, existing) in
            [(&folder, Existing::Keep), (&folder, Existing::Replace), (&file, Existing::Keep)]
        {
            let mut transaction = Transaction::default();
            transaction.create_from(&config, Existing::Replace, b"newer").unwrap();
            transaction.create_from(&weights, Existing::Keep, b"bytes").unwrap();
            transaction.create_from(taken, existing, b"bytes").unwrap();
            if taken == &file {
                std::fs::write(&file, "another's").unwrap();
                there.insert(1, "file");
            }
            assert!(transaction.commit().is_err());
            assert_eq!(entries(home.path()), there);
            assert_eq!(std::fs::read(&config).unwrap(), b"older");
        }
        assert_eq!(std::fs::read(file).unwrap(), b"another's");
    }

    #[test]
    fn adds_up_files_on_one_disk() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one"), home.path().join("two"));
        let free = fs4::available_space(home.path()).unwrap();
        let check = |bytes| check_disk_space([(&*one, bytes), (&*two, bytes)]);
        check(free / 3).unwrap();
        let error = check(free / 3 * 2).unwrap_err().to_string();
        assert!(error.ends_with("or choose a folder on another disk"), "{error}");
        assert!(check(u64::MAX).is_err());
    }

    #[cfg(unix)]
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

    #[cfg(unix)]
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

//! Files appear whole or not at all: written beside their place, synced, and
//! renamed into it; what a failed run began is removed again.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use tempfile::NamedTempFile;

/// Files and folders that appear together when [`Transaction::commit`] is
/// called. Dropped before, nothing is left of them.
#[derive(Default)]
pub struct Transaction {
    files: Vec<(NamedTempFile, PathBuf)>,
    /// Folders made on the way, each after the one that holds it.
    folders: Vec<PathBuf>,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Error {
    /// An error at this path.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { path: path.to_owned(), source }
    }
}

impl Transaction {
    /// Writes a file that will be `target`; its folder is made if it must be.
    pub fn create<E: From<Error>>(
        &mut self,
        target: &Path,
        write: impl FnOnce(&mut std::fs::File) -> Result<(), E>,
    ) -> Result<(), E> {
        let folder = folder_of(target);
        self.make_folder(folder).map_err(Error::at(target))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".gpt-oss-export-").suffix(".part");
        #[cfg(unix)]
        {
            // As any other new file; the umask still applies.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder).map_err(Error::at(target))?;
        write(file.as_file_mut())?;
        file.as_file().sync_all().map_err(Error::at(target))?;
        self.files.push((file, target.to_owned()));
        Ok(())
    }

    /// Renames the files into place, in the order in which they were created.
    pub fn commit(mut self) -> Result<(), Error> {
        let mut appeared = Vec::new();
        for (file, target) in std::mem::take(&mut self.files) {
            let new = !target.exists();
            if let Err(error) = file.persist(&target) {
                appeared.iter().for_each(|path| drop(fs::remove_file(path)));
                return Err(Error::at(&target)(error.error));
            }
            // The rename is durable once the folder is.
            #[cfg(unix)]
            if let Ok(folder) = fs::File::open(folder_of(&target)) {
                let _ = folder.sync_all();
            }
            if new {
                appeared.push(target);
            }
        }
        self.folders.clear();
        Ok(())
    }

    fn make_folder(&mut self, folder: &Path) -> io::Result<()> {
        let missing =
            folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        for path in missing.into_iter().rev() {
            std::fs::create_dir(&path)?;
            self.folders.push(path);
        }
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.files.clear();
        // Only while they are empty, so nothing of anyone else's goes.
        self.folders.iter().rev().for_each(|folder| drop(std::fs::remove_dir(folder)));
    }
}

/// The folder that holds a path.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The path without symbolic links, as far as it exists already.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for existing in absolute.ancestors() {
        if let Ok(real) = fs::canonicalize(existing) {
            let rest = absolute.strip_prefix(existing).expect("an ancestor");
            return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
        }
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
        transaction
            .create(target, |file| file.write_all(b"bytes").and(outcome).map_err(Error::at(target)))
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

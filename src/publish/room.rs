//! Whether there is room for what is to be written, before the first byte of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Error;
use crate::files::parent_dir;

/// Fails where files of these sizes do not fit. Their folders exist. What is free where
/// nobody can tell is found out by writing.
pub fn check_room<'p>(files: impl IntoIterator<Item = (&'p Path, u64)>) -> Result<(), Error> {
    let mut disks: BTreeMap<Disk, (PathBuf, u64)> = BTreeMap::new();
    for (path, bytes) in files {
        let folder = parent_dir(path);
        let disk = disks.entry(disk_of(folder)).or_insert_with(|| (folder.to_owned(), 0));
        disk.1 = disk.1.saturating_add(bytes);
    }
    for (folder, needed) in disks.into_values() {
        match fs4::statvfs(&folder) {
            Ok(disk) if disk.total_space() > 0 && disk.available_space() < needed => {
                let free = disk.available_space();
                return Err(Error::NoRoom { folder, needed, free });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What tells one disk from another: its number where there is one.
#[cfg(unix)]
type Disk = Option<u64>;
#[cfg(not(unix))]
type Disk = PathBuf;

#[cfg(unix)]
fn disk_of(folder: &Path) -> Disk {
    folder.metadata().ok().map(|status| std::os::unix::fs::MetadataExt::dev(&status))
}

#[cfg(not(unix))]
fn disk_of(folder: &Path) -> Disk {
    folder.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files on one disk share what is free.
    #[test]
    fn what_does_not_fit_is_told_beforehand() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one"), home.path().join("two"));
        let free = fs4::available_space(home.path()).unwrap();
        check_room([(&*one, free / 3), (&*two, free / 3)]).unwrap();
        let error = check_room([(&*one, free / 3 * 2), (&*two, free / 3 * 2)]).unwrap_err();
        assert!(error.to_string().ends_with("or take a folder on another disk"), "{error}");
        assert!(check_room([(&*one, u64::MAX), (&*two, u64::MAX)]).is_err());
    }
}

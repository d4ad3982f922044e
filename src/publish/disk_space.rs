//! Disk space, checked before the first byte is written.

use std::collections::BTreeMap;
use std::path::Path;

use crate::display::size;
use crate::error::{Result, bail};
use crate::files::parent_dir;

/// Fails if files of these sizes do not fit on their disks. Their folders exist.
pub fn check_disk_space<'p>(files: impl IntoIterator<Item = (&'p Path, u64)>) -> Result<()> {
    let mut disks = BTreeMap::new();
    for (path, bytes) in files {
        let folder = parent_dir(path);
        // The device number, where there is one.
        #[cfg(unix)]
        let disk = folder.metadata().ok().map(|it| std::os::unix::fs::MetadataExt::dev(&it));
        #[cfg(not(unix))]
        let disk = folder;
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
}

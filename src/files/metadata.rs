//! What not every system tells of a file.

use std::fs::Metadata;

#[cfg(unix)]
use std::os::unix::fs::MetadataExt;

/// The number of the device that a file is on; `None` on systems without.
#[cfg(unix)]
pub fn device(file: &Metadata) -> Option<u64> {
    Some(file.dev())
}

/// The number of names that a file has; 1 on systems that do not tell.
#[cfg(unix)]
pub fn links(file: &Metadata) -> u64 {
    file.nlink()
}

#[cfg(not(unix))]
pub fn device(_: &Metadata) -> Option<u64> {
    None
}

#[cfg(not(unix))]
pub fn links(_: &Metadata) -> u64 {
    1
}

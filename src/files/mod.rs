//! Files and paths: byte ranges, positional reads and writes, bounded JSON, digests, and what
//! came in the place of a file.

pub mod digest;
pub mod foreign;
pub mod json;
pub mod metadata;
pub mod positional;

use std::fs::Metadata;
use std::io::{self, BufRead, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use dunce::canonicalize;
use fs_err as fs;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::error::{Result, ensure, err};

/// Refuses anything but a regular file, or a link to one. Opening a FIFO blocks, so its type is
/// checked first.
pub fn require_file(path: &Path) -> Result<Metadata> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(found) => {
            ensure!(
                found.is_file(),
                "`{shown}` is not a regular file: put a copy of the file in its place"
            );
            Ok(found)
        }
        // A link in a circle has a kind that is not stable.
        Err(error) => Err(match (error.kind(), path.read_link()) {
            (ErrorKind::PermissionDenied, _) => error.into(),
            (_, Ok(to)) => {
                let is_annex = to.components().any(|it| it.as_os_str() == "annex");
                let remedy =
                    if is_annex { "run `git annex get` on it" } else { "download it again" };
                err!("`{shown}` is a link to `{}`, where nothing is: {remedy}", to.display())
            }
            (ErrorKind::NotFound, _) => err!("there is no file `{shown}`"),
            _ => error.into(),
        }),
    }
}

/// A byte range of a file. The path is absolute, or relative to a folder that the
/// context names; in an ONNX model it is relative to the model's folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileRange {
    pub file: Arc<Path>,
    pub range: Range<u64>,
}

impl FileRange {
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl Serialize for FileRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("FileRange", 3)?;
        fields.serialize_field("file", &self.file.to_string_lossy())?;
        fields.serialize_field("offset", &self.range.start)?;
        fields.serialize_field("length", &self.len())?;
        fields.end()
    }
}

/// Serializes a path that need not be UTF-8.
pub fn lossy_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

pub fn lossy_paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// The parent directory of a path, `.` for a plain file name.
pub fn parent_dir(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The absolute path with symbolic links resolved in the part that exists.
pub fn canonicalize_existing(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|error| {
        let shown = path.display();
        io::Error::new(
            error.kind(),
            format!("cannot find `{shown}` from the working folder: {error}"),
        )
    })?;
    for existing in absolute.ancestors() {
        if let Ok(real) = canonicalize(existing) {
            let rest = absolute.strip_prefix(existing).expect("an ancestor");
            return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
        }
    }
    Ok(absolute)
}

/// Whether both have the same bytes.
pub fn are_equal(mut one: impl BufRead, mut other: impl BufRead) -> io::Result<bool> {
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 || left[..length] != right[..length] {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(length);
        other.consume(length);
    }
}

//! Files beside a model.

use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::error::{Result, err};
use crate::model::GraphOptions;

/// The most bytes of a file to copy: the released models' have up to 28 MB.
pub const LARGEST_COPY: u64 = 256 << 20;

pub struct PackagedModel<'m> {
    pub path: &'m Path,
    pub options: &'m GraphOptions,
    pub checkpoint: &'m Checkpoint,
    pub checkpoint_dir: &'m Path,
}

pub enum Contents {
    /// A text, which replaces an existing file.
    Text(String),
    /// A copy of a file, which replaces none.
    CopyOf(PathBuf),
}

/// The name by which other files refer to the model.
pub fn model_name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    let path = path.display();
    name.ok_or_else(|| err!("`{path}` is not valid UTF-8, so no other file can name it"))
}

/// JSON as it is written: indented, with a line break at the end.
pub fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

//! Files beside a model, planned before anything is written.

use std::path::{Path, PathBuf};

use crate::checkpoint::Config;
use crate::error::{Result, err};
use crate::files::json;
use crate::model::GraphOptions;
use crate::publish::{Existing, Transaction};

/// The most bytes of a file to copy: the released models' have up to 28 MB.
pub const LARGEST_COPY: u64 = 256 << 20;

#[derive(Clone, Copy)]
pub struct PackagedModel<'m> {
    pub path: &'m Path,
    pub config: &'m Config,
    pub options: &'m GraphOptions,
    /// Layers of the checkpoint; the model may have fewer.
    pub checkpoint_layers: usize,
    pub checkpoint_dir: &'m Path,
}

/// Files to write for a runtime, with a summary of them.
pub struct Package<S> {
    pub files: Vec<(PathBuf, Contents)>,
    pub summary: S,
}

pub enum Contents {
    /// A text, which replaces an existing file.
    Text(String),
    /// A copy of a file, which replaces none.
    CopyOf(PathBuf),
}

impl<S> Package<S> {
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    pub fn write(&self, transaction: &mut Transaction) -> Result<()> {
        for (path, contents) in &self.files {
            let (existing, bytes) = match contents {
                Contents::Text(text) => (Existing::Replace, text.clone().into_bytes()),
                Contents::CopyOf(file) => (Existing::Keep, json::read(file, LARGEST_COPY)?),
            };
            transaction.create_from(path, existing, &bytes)?;
        }
        Ok(())
    }
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

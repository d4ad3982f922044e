//! Weights files of former exports that no model in their folder reads any more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::container::Header;
use crate::files::parent_dir;
use crate::onnx;

/// The weights files beside a model that exports have named, and no model of that folder reads. None
/// are known if some model cannot be read.
pub fn unread_weights(model: &Path) -> Vec<PathBuf> {
    let folder = parent_dir(model);
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let (models, files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.map(|it| it.path()).partition(|path| onnx::has_extension(path));
    let is_named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("weights-") && Header::is_own(path)
    };
    let mut weights: Vec<PathBuf> = files.into_iter().filter(is_named).collect();
    if weights.is_empty() {
        return weights;
    }
    let mut read = BTreeSet::new();
    for path in models {
        let Ok(model) = onnx::read(&path) else { return Vec::new() };
        read.extend(model.external_files().into_keys().map(|name| folder.join(name)));
    }
    weights.retain(|path| !read.contains(path));
    weights.sort();
    weights
}

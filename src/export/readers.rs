//! Which models read the weights files that exports have named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::container::Header;
use crate::error::Result;
use crate::files::{canonicalize, parent_dir};
use crate::onnx;

/// How many folders may hold models that read a file: its own, and those above it.
const FOLDERS: usize = 3;
/// Folders above may hold anything, and larger files in them are not read: a graph with external data has
/// fewer bytes.
const LARGEST_GRAPH: u64 = 64 << 20;

/// The weights files beside a model that no model there or above reads. None are known if some model
/// cannot be read.
pub fn unread_weights(model: &Path) -> Vec<PathBuf> {
    let is_named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("weights-") && Header::is_own(path)
    };
    let folder = parent_dir(model);
    let mut weights: Vec<PathBuf> = entries(folder).filter(is_named).collect();
    if weights.is_empty() {
        return weights;
    }
    let read = models(folder).map(|model| files_of(&model)).collect::<Result<Vec<_>>>();
    let Ok(read) = read else { return Vec::new() };
    let read: BTreeSet<PathBuf> = read.into_iter().flatten().collect();
    weights.retain(|path| canonicalize(path).is_ok_and(|real| !read.contains(&real)));
    weights.sort();
    weights
}

/// The models in the folder of a file and above it that read the file.
pub fn readers(file: &Path) -> BTreeSet<PathBuf> {
    let Ok(real) = canonicalize(file) else { return BTreeSet::new() };
    let reads_it =
        |model: &PathBuf| files_of(model).is_ok_and(|mut files| files.any(|it| it == real));
    models(parent_dir(file)).filter(reads_it).collect()
}

fn models(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let is_small = |path: &PathBuf| path.metadata().is_ok_and(|it| it.len() <= LARGEST_GRAPH);
    let real = canonicalize(folder).unwrap_or_default();
    let above: Vec<PathBuf> = real.ancestors().take(FOLDERS).skip(1).map(Path::to_owned).collect();
    let above = above.into_iter().flat_map(|it| entries(&it)).filter(is_small);
    entries(folder).chain(above).filter(|path| onnx::has_extension(path))
}

/// The real paths of the data files of a model.
fn files_of(model: &Path) -> Result<impl Iterator<Item = PathBuf> + use<>> {
    let folder = parent_dir(model).to_owned();
    let files = onnx::read(model)?.external_files().into_keys();
    Ok(files.filter_map(move |file| canonicalize(folder.join(file)).ok()))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    folder.read_dir().into_iter().flatten().flatten().map(|it| it.path())
}

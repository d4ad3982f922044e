//! ONNX's rules for external data: a regular file without links, in the model's folder or
//! below, named by a relative path.

use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;

use super::{Recipe, Weight};
use crate::error::Result;
use crate::files::{FileRange, canonicalize_existing};

/// Why external data cannot be referenced in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    Outside,
    Symlink,
    HardLink,
    NotUnicode,
    /// A file or folder name that begins with two dots.
    DotDotName,
    /// Several byte ranges make one weight.
    MultipleRanges,
    Converted,
}

impl Obstacle {
    /// Whether no byte of the file can be referenced.
    pub fn concerns_file(self) -> bool {
        !matches!(self, Self::MultipleRanges | Self::Converted)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "it is outside the model's folder, where ONNX allows no external data",
            Self::Symlink => "it is a symbolic link (as in a Hugging Face cache), which onnx.checker and onnx.load refuse as external data, and onnxruntime where it leads out of the model's folder",
            Self::HardLink => "it has several hard links, which onnx.checker and onnx.load refuse as external data",
            Self::NotUnicode => "its path is not valid UTF-8, so an ONNX file cannot name it",
            Self::DotDotName => "its path has a name that begins with two dots, which onnx takes for the parent folder",
            Self::MultipleRanges => "several of its tensors make one weight of the model, and ONNX reads a single byte range",
            Self::Converted => "a weight of the model is converted from its tensors",
        })
    }
}

/// Which weights a model can reference in place.
#[derive(Default)]
pub struct References<'w> {
    pub in_place: Vec<(&'w Weight, FileRange)>,
    /// Weights that must be written.
    pub others: Vec<&'w Weight>,
    /// Why there are others: the first file that cannot be referenced, and what keeps it from
    /// that. No weight is in place if it concerns the file itself.
    pub obstacle: Option<(PathBuf, Obstacle)>,
}

/// Finds the weights that a model in `folder` can reference in place. Paths of the ranges
/// are relative to that folder.
pub fn reference<'w>(
    weights: impl Iterator<Item = &'w Weight> + Clone,
    folder: &Path,
) -> Result<References<'w>> {
    let mut names: HashMap<&Path, Arc<Path>> = HashMap::new();
    let mut found = References::default();
    for weight in weights.clone() {
        let Recipe::Slice(FileRange { file: path, range }) = &weight.recipe else {
            let obstacle =
                if weight.is_converted() { Obstacle::Converted } else { Obstacle::MultipleRanges };
            let file = weight.recipe.sources()[0].file.to_path_buf();
            found.obstacle.get_or_insert((file, obstacle));
            found.others.push(weight);
            continue;
        };
        if !names.contains_key(&**path) {
            let name = match link_kind(path)? {
                Some(link) => Err(link),
                None => relative_to(folder, path)?,
            };
            match name {
                Ok(name) => names.insert(path, Path::new(&name).into()),
                Err(obstacle) => {
                    let obstacle = Some((path.to_path_buf(), obstacle));
                    let others = weights.collect();
                    return Ok(References { others, obstacle, ..References::default() });
                }
            };
        }
        let range = FileRange { file: names[&**path].clone(), range: range.clone() };
        found.in_place.push((weight, range));
    }
    Ok(found)
}

/// The kind of link that a file is, if ONNX refuses it as external data. A missing file is
/// none.
pub fn link_kind(file: &Path) -> Result<Option<Obstacle>> {
    let status = match fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        status => status?,
    };
    if status.is_symlink() {
        return Ok(Some(Obstacle::Symlink));
    }
    #[cfg(unix)]
    if status.is_file() && std::os::unix::fs::MetadataExt::nlink(&status) > 1 {
        return Ok(Some(Obstacle::HardLink));
    }
    Ok(None)
}

/// The path by which a model in `folder` could refer to a file, with `/` between its names.
/// Neither needs to exist.
pub fn relative_to(folder: &Path, file: &Path) -> Result<Result<String, Obstacle>> {
    let (folder, file) = (canonicalize_existing(folder)?, canonicalize_existing(file)?);
    let Ok(relative) = file.strip_prefix(&folder) else { return Ok(Err(Obstacle::Outside)) };
    let name = |component| match component {
        Component::Normal(name) => match name.to_str() {
            Some(name) if name.starts_with("..") => Err(Obstacle::DotDotName),
            Some(name) => Ok(name),
            None => Err(Obstacle::NotUnicode),
        },
        _ => Err(Obstacle::Outside),
    };
    let names: Result<Vec<&str>, _> = relative.components().map(name).collect();
    Ok(names.map(|names| names.join("/")))
}

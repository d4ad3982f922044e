//! ONNX's rules for external data: a regular file without links, in the model's folder or
//! below, named by a relative path.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;

use super::{Recipe, Weight};
use crate::error::Result;
use crate::files::metadata::links;
use crate::files::{FileRange, canonicalize_existing, parent_dir};

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
    /// that.
    pub obstacle: Option<(PathBuf, Obstacle)>,
}

/// Finds the weights that a model in `folder` can reference in place: of each folder with weights
/// all files, or none. Paths of the ranges are relative to the model's folder.
pub fn reference<'w>(
    weights: impl Iterator<Item = &'w Weight> + Clone,
    folder: &Path,
) -> Result<References<'w>> {
    let mut names: HashMap<&Path, Arc<Path>> = HashMap::new();
    let (mut found, mut unusable) = (References::default(), HashSet::new());
    for weight in weights.clone() {
        let Recipe::Slice(FileRange { file, .. }) = &weight.recipe else { continue };
        if names.contains_key(&**file) || unusable.contains(parent_dir(file)) {
            continue;
        }
        let name = match link_kind(file)? {
            Some(link) => Err(link),
            None => relative_to(folder, file)?,
        };
        match name {
            Ok(name) => drop(names.insert(file, Path::new(&name).into())),
            Err(obstacle) => {
                found.obstacle.get_or_insert((file.to_path_buf(), obstacle));
                unusable.insert(parent_dir(file));
            }
        }
    }
    for weight in weights {
        match &weight.recipe {
            Recipe::Slice(FileRange { file, .. }) if unusable.contains(parent_dir(file)) => {
                found.others.push(weight);
            }
            Recipe::Slice(FileRange { file, range }) => {
                let range = FileRange { file: names[&**file].clone(), range: range.clone() };
                found.in_place.push((weight, range));
            }
            recipe => {
                let is_converted = weight.is_converted();
                let obstacle =
                    if is_converted { Obstacle::Converted } else { Obstacle::MultipleRanges };
                let file = recipe.sources()[0].file.to_path_buf();
                found.obstacle.get_or_insert((file, obstacle));
                found.others.push(weight);
            }
        }
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
    Ok((status.is_file() && links(&status) > 1).then_some(Obstacle::HardLink))
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

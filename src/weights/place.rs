//! Whether weights can stay where they lie, under ONNX's rules for external
//! data: a regular file in the model's folder or below, by a relative path.

use std::fmt;
use std::path::{Component, Path};

use fs_err as fs;

use super::{Error, Recipe, Result, Weight};
use crate::container::Location;
use crate::files::canonicalize_existing;

/// What keeps a file from being referenced where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Obstacle {
    Outside,
    Symlink,
    HardLink,
    Unicode,
    Dots,
    Scattered,
    Converted,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "it is not in the folder of the model or below, and ONNX allows no other place",
            Self::Symlink => "it is a symbolic link (as in a Hugging Face cache), which onnx.checker and onnx.load refuse as external data, and onnxruntime where it leads out of the model's folder",
            Self::HardLink => "it has several hard links, which onnx.checker and onnx.load refuse as external data",
            Self::Scattered => "a weight of the model is in several of its tensors, and ONNX reads one range",
            Self::Converted => "a weight of the model is converted from its tensors (as by --experts, --dense or --ep cuda)",
            Self::Dots => "its path has a name that begins with two dots, which onnx takes for the folder above",
            Self::Unicode => "its path is not valid UTF-8, so an ONNX file cannot name it",
        })
    }
}

impl Obstacle {
    /// What to do where a model was to be in place.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Scattered | Self::Converted => {
                "leave --external-data out, and such weights alone go into a file beside the model"
            }
            _ => "use --external-data copy",
        }
    }
}

/// What keeps a weight from staying where its bytes are, wherever that is.
pub fn obstacle(weight: &Weight) -> Option<Obstacle> {
    match weight.recipe {
        Recipe::Bytes(_) => None,
        Recipe::Stacked(_) | Recipe::Interleaved { .. } => Some(Obstacle::Scattered),
        Recipe::Converted(..) => Some(Obstacle::Converted),
    }
}

/// The location of each weight when those that can stay where they lie, and
/// the model is put into `folder`; nothing for those that must be made.
pub fn in_place<'w>(
    weights: impl IntoIterator<Item = &'w Weight>,
    folder: &Path,
) -> Result<Vec<Option<Location>>> {
    let mut last: Option<(&Path, String)> = None;
    let mut locations = Vec::new();
    for weight in weights {
        let Recipe::Bytes(source) = &weight.recipe else {
            locations.push(None);
            continue;
        };
        let file = match &last {
            Some((path, file)) if *path == &*source.file => file.clone(),
            _ => referable(&source.file, folder)?,
        };
        last = Some((&source.file, file.clone()));
        locations.push(Some(Location { file, range: source.range.clone() }));
    }
    Ok(locations)
}

/// The name by which a model in `folder` can refer to an existing file.
fn referable(file: &Path, folder: &Path) -> Result<String> {
    let refuse = |obstacle| Err(Error::NotInPlace { file: file.to_owned(), obstacle });
    match link(file)? {
        Some(obstacle) => refuse(obstacle),
        None => relative_to(folder, file)?.or_else(refuse),
    }
}

/// Whether a file is a link, of a kind that ONNX refuses as external data. One
/// that is not there yet is none.
pub fn link(file: &Path) -> std::io::Result<Option<Obstacle>> {
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

/// The path of a file from a folder, with `/` between components; the inner
/// error says why ONNX could not use it. Neither needs to exist.
pub fn relative_to(
    folder: &Path,
    file: &Path,
) -> std::io::Result<std::result::Result<String, Obstacle>> {
    let (folder, file) = (canonicalize_existing(folder)?, canonicalize_existing(file)?);
    let Ok(relative) = file.strip_prefix(&folder) else {
        return Ok(Err(Obstacle::Outside));
    };
    let mut names = Vec::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => match name.to_str() {
                // onnx takes any name that begins so for the folder above.
                Some(name) if name.starts_with("..") => return Ok(Err(Obstacle::Dots)),
                Some(name) => names.push(name),
                None => return Ok(Err(Obstacle::Unicode)),
            },
            _ => return Ok(Err(Obstacle::Outside)),
        }
    }
    Ok(Ok(names.join("/")))
}

//! What was probably meant by a path that is no checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};

use super::CONFIG;
use crate::files::parent_dir;

/// A checkpoint near a folder that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// OpenAI's below it, as in the released repositories.
    Original(PathBuf),
    /// The folder above it, as of `onnx` or a shard's.
    Above(PathBuf),
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Original(path) => {
                write!(f, "; `{}` holds a checkpoint, with the weights as released", path.display())
            }
            Self::Above(path) => write!(f, "; `{}` above it holds a checkpoint", path.display()),
        }
    }
}

/// The one that a folder is near to.
pub fn of_folder(folder: &Path) -> Option<Meant> {
    let below = folder.join("original");
    if below.join(CONFIG).is_file() {
        return Some(Meant::Original(below));
    }
    // By its own name: `.` has no folder above in it.
    let real = folder.canonicalize().ok()?;
    let above = real.parent().filter(|above| is_checkpoint(above))?;
    Some(Meant::Above(above.to_owned()))
}

/// The folder of a checkpoint's file.
pub fn of_file(file: &Path) -> Option<PathBuf> {
    Some(parent_dir(file)).filter(|folder| is_checkpoint(folder)).map(Path::to_owned)
}

/// The checkpoint beside a folder that is not there whose name is most like its name.
pub fn of_name(folder: &Path) -> Option<PathBuf> {
    let wanted = folder.file_name()?.to_string_lossy().to_lowercase();
    let entries = parent_dir(folder).read_dir().ok()?.flatten().map(|entry| entry.path());
    let alike = entries.filter(|path| is_checkpoint(path)).filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let alike = strsim::jaro_winkler(&name, &wanted);
        (alike > LIKE_ENOUGH).then_some((alike, path))
    });
    alike.max_by(|one, two| one.0.total_cmp(&two.0)).map(|(_, path)| path)
}

/// From 0 to 1: as in clap, which asks the same of options.
const LIKE_ENOUGH: f64 = 0.7;

/// Whether a folder has a config and weights.
pub fn is_checkpoint(folder: &Path) -> bool {
    let is_weights = |path: PathBuf| path.extension().is_some_and(|it| it == "safetensors");
    folder.join(CONFIG).is_file()
        && folder.read_dir().is_ok_and(|all| all.flatten().any(|entry| is_weights(entry.path())))
}

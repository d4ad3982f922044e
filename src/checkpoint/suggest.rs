//! Suggestions for paths that are no checkpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::config::CONFIG;
use super::unsupported;
use crate::error::{Error, err};
use crate::files::parent_dir;

/// Jaro-Winkler similarity from which a name is suggested, as in clap.
const SIMILAR: f64 = 0.7;

/// That a folder holds no checkpoint, because `file` is missing.
pub fn missing_file(folder: &Path, file: &str) -> Error {
    let lacks = format!("`{}` holds no {file}", folder.display());
    let original = folder.join("original");
    if original.join(CONFIG).is_file() {
        let original = original.display();
        return err!("{lacks}; `{original}` holds a checkpoint with the weights as released");
    }
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let files: BTreeSet<PathBuf> = entries.map(|entry| entry.path()).collect();
    if let Some(error) = files.iter().find_map(|file| unsupported::refuse_file(file)) {
        return error;
    }
    // The real path, because `.` has no parent in its name.
    let real = folder.canonicalize().ok();
    match real.as_deref().and_then(Path::parent).filter(|parent| is_checkpoint(parent)) {
        Some(parent) => err!("{lacks}; `{}` above it holds a checkpoint", parent.display()),
        None => err!("{lacks}"),
    }
}

/// That a checkpoint's path is no folder.
pub fn not_a_folder(path: &Path) -> Error {
    let shown = path.display();
    if !path.is_file() {
        let similar = did_you_mean(similar_dir(path).as_deref());
        return err!(
            "there is no folder `{shown}`{similar}; a checkpoint is a folder with {CONFIG}, or owner/name of a repository on the hub"
        );
    }
    unsupported::refuse_file(path).unwrap_or_else(|| {
        let folder = Some(parent_dir(path)).filter(|folder| is_checkpoint(folder));
        err!("`{shown}` is a file{}; a checkpoint is a folder with {CONFIG}", did_you_mean(folder))
    })
}

fn did_you_mean(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" (did you mean `{}`?)", path.display()))
}

/// The checkpoint with the most similar name in the same folder.
pub fn similar_dir(folder: &Path) -> Option<PathBuf> {
    let wanted = folder.file_name()?.to_string_lossy().to_lowercase();
    let siblings = parent_dir(folder).read_dir().ok()?.flatten().map(|entry| entry.path());
    let similar = siblings.filter(|path| is_checkpoint(path)).filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let similarity = strsim::jaro_winkler(&name, &wanted);
        (similarity > SIMILAR).then_some((similarity, path))
    });
    similar.max_by(|one, two| one.0.total_cmp(&two.0)).map(|(_, path)| path)
}

pub fn is_checkpoint(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
        && folder.read_dir().is_ok_and(|all| all.flatten().any(|it| is_safetensors(&it.path())))
}

pub fn is_safetensors(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "safetensors")
}

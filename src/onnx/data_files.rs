//! Whether the files of a model's external data are there, and as they were at the export.

use std::fs;
use std::path::{Component, Path};

use super::data_digest::is_changed;
use super::read::OnnxFile;
use crate::error::{Error, Result, err};
use crate::files::foreign;
use crate::files::{FileRange, canonicalize_existing, parent_dir};

/// Refuses missing and truncated data of a model, which onnxruntime would report without a file's name.
pub fn require_data(model: &Path, onnx: &OnnxFile) -> Result<()> {
    let problem = |(file, ranges): (String, Vec<FileRange>)| {
        let needed = ranges.iter().map(|it| it.range.end).max().unwrap_or(0);
        let problem = data_problem(model, &file, needed)?;
        let (model, file) = (model.display(), parent_dir(model).join(file));
        Some(err!("`{model}` cannot read its weights from `{}`: {problem}", file.display()))
    };
    Error::all(onnx.external_files().into_iter().filter_map(problem))
}

/// Why onnxruntime does not read the first `needed` bytes of a file, which a model names, and what to
/// do.
pub fn data_problem(model: &Path, name: &str, needed: u64) -> Option<String> {
    let is_below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(name).components().all(is_below) {
        return Some("it is outside the model's folder, where onnxruntime reads no external data: export again".to_owned());
    }
    let file = &parent_dir(model).join(name);
    let what = match fs::metadata(file) {
        Err(_) => "it does not exist".to_owned(),
        Ok(_) if !is_followed(model, file) => return Some("it is a symbolic link out of the model's folder, which onnxruntime does not follow: put a copy of the file there, or export again".to_owned()),
        Ok(status) if !status.is_file() => "it is not a regular file".to_owned(),
        Ok(status) if status.len() < needed => match foreign(file) {
            Some(what) => return Some(what),
            None => format!("it has {} bytes, and the model reads up to {needed}", status.len()),
        },
        Ok(_) => return None,
    };
    Some(format!("{what}: restore it, or export again"))
}

/// Whether onnxruntime follows a link: its target is in the model's folder or below, or
/// beside the target of the model's own link, as in a Hugging Face cache.
fn is_followed(model: &Path, file: &Path) -> bool {
    let folders = [
        canonicalize_existing(parent_dir(model)),
        canonicalize_existing(model).map(|it| parent_dir(&it).to_owned()),
    ];
    let file = canonicalize_existing(file);
    folders.iter().flatten().any(|folder| file.as_ref().is_ok_and(|file| file.starts_with(folder)))
}

/// Why a file does not hold in `ranges` what the export found there, by its recorded digest, and
/// what to do.
pub fn data_change(file: &Path, ranges: &[FileRange], recorded: &str) -> Option<String> {
    let changed = || "it was changed since the export: restore it, or export again".to_owned();
    is_changed(recorded, ranges, file).then(|| foreign(file).unwrap_or_else(changed))
}

/// What came in the place of a file.
fn foreign(file: &Path) -> Option<String> {
    let first = foreign::first_bytes(file);
    // The length of a SafeTensors header may look like the beginning of another file.
    let is_safetensors = first.get(8) == Some(&b'{');
    foreign::identify(&first).filter(|_| !is_safetensors).map(|what| format!("it is {what}"))
}

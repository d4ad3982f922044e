//! Whether the files of a model's external data are there, and as they were at the export.

use std::fs;
use std::path::Path;

use super::data_digest::is_changed;
use super::read::OnnxFile;
use crate::error::{Error, Result, err};
use crate::files::foreign;
use crate::files::{FileRange, parent_dir};

/// Refuses missing and truncated data of a model, which onnxruntime would report without a file's name.
pub fn require_data(model: &Path, onnx: &OnnxFile) -> Result<()> {
    let problem = |(file, ranges): (String, Vec<FileRange>)| {
        let file = parent_dir(model).join(file);
        let needed = ranges.iter().map(|it| it.range.end).max().unwrap_or(0);
        let (model, problem) = (model.display(), data_problem(&file, needed)?);
        Some(err!("`{model}` cannot read its weights from `{}`: {problem}", file.display()))
    };
    Error::all(onnx.external_files().into_iter().filter_map(problem))
}

/// Why a file does not hold the first `needed` bytes, which a model reads, and what to do.
pub fn data_problem(file: &Path, needed: u64) -> Option<String> {
    let what = match fs::metadata(file) {
        Err(_) => "it does not exist".to_owned(),
        Ok(status) if !status.is_file() => "it is not a regular file".to_owned(),
        Ok(status) if status.len() < needed => match foreign(file) {
            Some(what) => return Some(what),
            None => format!("it has {} bytes, and the model reads up to {needed}", status.len()),
        },
        Ok(_) => return None,
    };
    Some(format!("{what}: restore it, or export again"))
}

/// Why a file does not hold in `ranges` what the export found there, by its recorded digest, and
/// what to do.
pub fn data_change(file: &Path, ranges: &[FileRange], recorded: &str) -> Option<String> {
    let changed = || "it was changed since the export: restore it, or export again".to_owned();
    is_changed(recorded, ranges.iter().cloned(), file)
        .then(|| foreign(file).unwrap_or_else(changed))
}

/// What came in the place of a file.
fn foreign(file: &Path) -> Option<String> {
    let first = foreign::first_bytes(file);
    // The length of a SafeTensors header may look like the beginning of another file.
    let is_safetensors = first.get(8) == Some(&b'{');
    foreign::identify(&first).filter(|_| !is_safetensors).map(|what| format!("it is {what}"))
}

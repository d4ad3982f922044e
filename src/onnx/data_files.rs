//! Whether the files of a model's external data are there, and as they were at the export.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::data_digest::is_changed;
use crate::files::FileRange;
use crate::files::foreign::{self, FIRST_BYTES};

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
    let mut first = Vec::new();
    File::open(file).ok()?.take(FIRST_BYTES as u64).read_to_end(&mut first).ok()?;
    // The length of a SafeTensors header may look like the beginning of another file.
    let is_safetensors = first.get(8) == Some(&b'{');
    foreign::identify(&first).filter(|_| !is_safetensors).map(|what| format!("it is {what}"))
}

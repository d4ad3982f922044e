//! Whether the files of a model's external data are there.

use std::fs;
use std::path::Path;

/// Why a file does not hold the first `needed` bytes, which a model reads, and what to do.
pub fn data_problem(file: &Path, needed: u64) -> Option<String> {
    let what = match fs::metadata(file) {
        Err(_) => "it does not exist".to_owned(),
        Ok(status) if !status.is_file() => "it is not a regular file".to_owned(),
        Ok(status) if status.len() < needed => {
            format!("it has {} bytes, and the model reads up to {needed}", status.len())
        }
        Ok(_) => return None,
    };
    Some(format!("{what}: restore it, or export again"))
}

//! What is beside files or in their place: unfinished downloads and copies, parts, pointers.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, Result, err};
use crate::files::foreign::Foreign;

/// Refuses files of a folder that lack data, although their length may be whole.
pub fn refuse_unfinished<'f>(
    folder: &Path,
    there: &BTreeSet<String>,
    files: impl Iterator<Item = &'f str>,
) -> Result<()> {
    let errors = files.filter(|file| there.contains(*file)).filter_map(|file| {
        let (name, format) = Foreign::instead_of(file, there)?;
        let (path, what) = (folder.join(name), format.what);
        Some(err!("`{}` is {what}, so `{file}` lacks data: {}", path.display(), format.remedy))
    });
    Error::all(errors.collect::<Vec<_>>())
}

/// Where Hugging Face's tools keep unfinished downloads and records of others, below the folder of the
/// files.
pub const DOWNLOADS: &str = ".cache/huggingface/download";

/// The end of a sentence about missing files of a folder: that a download of them is unfinished.
pub fn unfinished_on_hub(folder: &Path) -> &'static str {
    let mut entries = folder.join(DOWNLOADS).read_dir().into_iter().flatten().flatten();
    let unfinished = entries.any(|it| it.path().extension().is_some_and(|it| it == "incomplete"));
    if unfinished {
        "; a download into this folder is unfinished: run the same `hf download` again"
    } else {
        ""
    }
}

/// The end of a sentence about missing files: what has the place of the first.
pub fn instead_of<'f>(
    there: &BTreeSet<String>,
    mut files: impl Iterator<Item = &'f String>,
) -> String {
    let found = files.find_map(|file| Foreign::instead_of(file, there));
    found.map_or(String::new(), |(name, format)| format!("; `{name}` is {format}"))
}

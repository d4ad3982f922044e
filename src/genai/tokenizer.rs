//! The tokenizer's files: found beside the weights, and copied byte for byte.

use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{Error, Result, generation};
use crate::paths::real_path;

/// Without these, text cannot become tokens.
const NEEDED: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];
/// What belongs to them where a checkpoint has it.
const WELCOME: [&str; 3] = ["special_tokens_map.json", "chat_template.jinja", generation::FILE];

/// What is to be done so that a folder has the tokenizer.
#[derive(Debug, Default)]
pub struct Tokenizer {
    /// Files to copy, from where and to where.
    pub copies: Vec<(PathBuf, PathBuf)>,
    /// Names of files that are there already.
    pub there: Vec<&'static str>,
    /// Names of files that are nowhere.
    pub missing: Vec<&'static str>,
}

/// The names of all of them.
pub fn files() -> Vec<&'static str> {
    NEEDED.into_iter().chain(WELCOME).collect()
}

/// Whether text cannot become tokens without this file.
pub fn is_needed(name: &str) -> bool {
    NEEDED.contains(&name)
}

/// The folders that may hold the tokenizer of weights in `folder`: that one,
/// above OpenAI's `original` the one that has the released files, and last the
/// target itself.
pub fn sources(folder: &Path, target: &Path) -> Result<Vec<PathBuf>> {
    let real = real_path(folder)?;
    let above = real.parent().filter(|_| real.file_name().is_some_and(|name| name == "original"));
    let folders = [folder.to_owned()].into_iter().chain(above.map(Path::to_owned));
    Ok(folders.chain([target.to_owned()]).collect())
}

impl Tokenizer {
    /// Looks for each file in the source folders, the first first.
    pub fn plan(sources: &[PathBuf], target: &Path) -> Result<Self> {
        let mut plan = Self::default();
        for name in files() {
            let to = target.join(name);
            match find(sources, name)? {
                None => plan.missing.push(name),
                Some(from) if !exists(&to) => plan.copies.push((from, to)),
                Some(from) if read(&from)? == read(&to)? => plan.there.push(name),
                Some(source_file) => return Err(Error::Differs { there: to, source_file }),
            }
        }
        Ok(plan)
    }
}

/// Where a file is that belongs to the weights. What is there and cannot be
/// read (a link that leads nowhere) is an error, and not passed over.
pub fn find(sources: &[PathBuf], name: &str) -> Result<Option<PathBuf>> {
    let Some(path) = sources.iter().map(|folder| folder.join(name)).find(|path| exists(path))
    else {
        return Ok(None);
    };
    if path.is_file() { Ok(Some(path)) } else { Err(Error::NoFile(path)) }
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.is_file() { Ok(fs::read(path)?) } else { Err(Error::NoFile(path.to_owned())) }
}

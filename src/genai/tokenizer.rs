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
    /// Names of needed files that are nowhere.
    pub missing: Vec<&'static str>,
}

/// The folders that may hold the tokenizer of weights in `folder`: that one,
/// and above OpenAI's `original` the one that has the released files.
pub fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let real = real_path(folder)?;
    let above = real.parent().filter(|_| real.file_name().is_some_and(|name| name == "original"));
    Ok([folder.to_owned()].into_iter().chain(above.map(Path::to_owned)).collect())
}

impl Tokenizer {
    /// Looks for each file in the source folders, the first first.
    pub fn plan(sources: &[PathBuf], target: &Path) -> Result<Self> {
        let mut plan = Self::default();
        for name in NEEDED.into_iter().chain(WELCOME) {
            let to = target.join(name);
            match find(sources, name) {
                None if to.is_file() => plan.there.push(name),
                None if NEEDED.contains(&name) => plan.missing.push(name),
                None => {}
                Some(from) if !to.exists() => plan.copies.push((from, to)),
                Some(from) if fs::read(&from)? == fs::read(&to)? => plan.there.push(name),
                Some(source_file) => return Err(Error::Differs { there: to, source_file }),
            }
        }
        Ok(plan)
    }
}

/// Where a file is that belongs to the weights.
pub fn find(sources: &[PathBuf], name: &str) -> Option<PathBuf> {
    sources.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

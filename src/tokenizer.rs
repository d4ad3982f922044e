//! The tokenizer's files, which runtimes want beside a model: found beside the weights,
//! and copied byte for byte.

use std::path::{Path, PathBuf};

use crate::files::canonicalize_existing;
use crate::files::json;
use crate::publish::{self, Existing, Transaction};

/// Which tokens begin and end a text, and how others are chosen.
pub const GENERATION: &str = "generation_config.json";

/// Without these, text cannot become tokens.
const NEEDED: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];
/// What belongs to them where a checkpoint has it.
const WELCOME: [&str; 3] = ["special_tokens_map.json", "chat_template.jinja", GENERATION];

/// No such file is larger: that of the released models has 28 MB.
pub const LARGEST: u64 = 256 << 20;

/// Why a folder cannot have the tokenizer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    File(#[from] crate::error::Error),
    #[error(transparent)]
    Publish(#[from] publish::Error),
    #[error("`{}` is no file that can be read (a folder, or a link that leads nowhere): remove it", .0.display())]
    NoFile(PathBuf),
    #[error(
        "`{}` exists and differs from `{}`, and a model there may be using it: write into another folder, or move it away",
        there.display(),
        source_file.display()
    )]
    Differs { there: PathBuf, source_file: PathBuf },
}

/// The result of looking for it.
pub type Result<T> = std::result::Result<T, Error>;

/// What is to be done so that a folder has the tokenizer.
#[derive(Debug, Default)]
pub struct Tokenizer {
    /// Files to copy, from where and to where.
    copies: Vec<(PathBuf, PathBuf)>,
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
    let folders = [folder.to_owned()].into_iter().chain(above_original(folder)?);
    Ok(folders.chain([target.to_owned()]).collect())
}

/// The root of a repository as OpenAI's are, if a folder is the `original` in it.
pub fn above_original(folder: &Path) -> std::io::Result<Option<PathBuf>> {
    let real = canonicalize_existing(folder)?;
    let above = real.parent().filter(|_| real.ends_with("original"));
    Ok(above.map(Path::to_owned))
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

    /// Copies what is not there.
    pub fn write(&self, transaction: &mut Transaction) -> Result<()> {
        for (from, to) in &self.copies {
            transaction.create_from(to, Existing::Keep, &read(from)?)?;
        }
        Ok(())
    }

    /// Where the copies are.
    pub fn copied(&self) -> Vec<PathBuf> {
        self.copies.iter().map(|(_, to)| to.clone()).collect()
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
    match path.is_file() {
        true => Ok(json::read(path, LARGEST)?),
        false => Err(Error::NoFile(path.to_owned())),
    }
}

//! What this program has written down about a download folder: whose it is, and
//! which commit a revision was when all was there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{Error, Name, Result};

/// Below the folder.
const FILE: &str = ".cache/huggingface/gpt-oss-export.json";

/// A folder's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its files are all of this one.
    repository: String,
    /// By revision and folder, as in `main/original`, the commit that is there whole.
    whole: BTreeMap<String, String>,
}

impl Record {
    /// That of a folder, if it has one that can be read.
    pub fn read(root: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(root.join(FILE)).ok()?).ok()
    }

    /// That of a folder which is to hold a repository; one that holds another is
    /// an error.
    pub fn of(root: &Path, name: &Name) -> Result<Self> {
        match Self::read(root) {
            Some(record) if record.repository != name.repository => {
                Err(Error::AnotherRepository { folder: root.to_owned(), holds: record.repository })
            }
            Some(record) => Ok(record),
            None => Ok(Self { repository: name.repository.clone(), whole: BTreeMap::new() }),
        }
    }

    /// Whether the folder is for this repository.
    pub fn is_of(&self, name: &Name) -> bool {
        self.repository == name.repository
    }

    /// The commit of a checkpoint that is there whole.
    pub fn commit(&self, name: &Name) -> Option<&str> {
        self.whole.get(&key(name)).map(String::as_str)
    }

    /// Writes down that a checkpoint is there whole.
    pub fn set_whole(&mut self, name: &Name, commit: &str) {
        self.whole.insert(key(name), commit.to_owned());
        self.whole
            .insert(key(&Name { revision: commit.to_owned(), ..name.clone() }), commit.to_owned());
    }

    /// Puts it where it is read from.
    pub fn write(&self, root: &Path) -> Result<()> {
        let path: PathBuf = root.join(FILE);
        let text = serde_json::to_string_pretty(self).expect("plain data");
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, path)?)
    }
}

fn key(Name { revision, folder, .. }: &Name) -> String {
    format!("{revision}/{folder}")
}

//! Names of checkpoints on the hub.

use std::fmt;
use std::path::{Path, PathBuf};

const MAIN: &str = "main";
/// The hub's own hosts.
const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];
/// First components of the hub's addresses that are no owner's.
const NOT_OWNERS: [&str; 8] =
    ["api", "blog", "collections", "datasets", "docs", "models", "papers", "spaces"];

/// A checkpoint on the hub: `owner/name[@revision][/folder]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoPath {
    /// `owner/name`.
    pub repository: String,
    /// A branch, a tag, a commit, or a pull request's `refs/pr/N`.
    pub revision: String,
    /// The checkpoint's folder in the repository, empty for its root.
    pub folder: String,
}

impl RepoPath {
    /// Parses a name, `None` for any other text. Without a revision, `original` is the only
    /// accepted folder, because other texts may be local paths.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_folder(text, |folder| ["", "original"].contains(&folder))
    }

    /// Parses a name that is certainly none of a local path, so that it may have any folder.
    pub fn parse_certain(text: &str) -> Option<Self> {
        Self::parse_folder(text, |_| true)
    }

    fn parse_folder(text: &str, is_certain: impl Fn(&str) -> bool) -> Option<Self> {
        let (owner, rest) = text.trim_end_matches('/').split_once('/')?;
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (revision, folder) = match rest.strip_prefix('@') {
            Some(rest) => {
                // `refs/pr/N` contains slashes; in the name of a branch a slash is written
                // `%2F`, as in the hub's own URLs.
                let slashes = if rest.starts_with("refs/") { 2 } else { 0 };
                let end = rest.match_indices('/').nth(slashes).map_or(rest.len(), |(at, _)| at);
                rest.split_at(end)
            }
            None => (MAIN, rest),
        };
        let folder = folder.strip_prefix('/').unwrap_or(folder);
        let named = is_name(owner) && is_name(name) && !revision.is_empty();
        let folders = folder.is_empty() || folder.split('/').all(is_name);
        let certain = rest.starts_with('@') || is_certain(folder);
        (named && folders && certain && revision.split('/').all(is_name)).then(|| Self {
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// Parses the address of a repository on the hub, of a folder in it or of a file of that; `None`
    /// for any other text.
    pub fn from_address(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("hf://") {
            return Self::parse_certain(name);
        }
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        // A user, and maybe a password, before the host.
        let user = rest.split_once('@').filter(|(user, _)| !user.contains('/'));
        let (host, path) = user.map_or(rest, |(_, rest)| rest).split_once(['/', ':'])?;
        let host = host.to_lowercase();
        let path = path.split(['?', '#']).next()?.trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        let [owner, name, place @ ..] = &parts[..] else { return None };
        if !HOSTS.contains(&&*host) || NOT_OWNERS.contains(owner) {
            return None;
        }
        let name = name.strip_suffix(".git").unwrap_or(name);
        let (revision, folder) = match place {
            [] => (MAIN, &[][..]),
            ["tree" | "commit", revision, folder @ ..]
            | ["blob" | "raw" | "resolve", revision, folder @ .., _] => (*revision, folder),
            _ => return None,
        };
        let place = [&[revision], folder].concat().join("/");
        Self::parse(&format!("{owner}/{name}@{place}"))
    }

    /// The same checkpoint at a commit.
    pub fn at(&self, commit: &str) -> Self {
        Self { revision: commit.to_owned(), ..self.clone() }
    }

    /// The default download folder, named as in Hugging Face's cache.
    pub fn default_folder(&self) -> String {
        let name = self.repository.replace('/', "--");
        match &*self.revision {
            MAIN => name,
            revision => format!("{name}@{}", revision.replace('/', "-")),
        }
    }

    /// The checkpoint's folder in a copy of the repository.
    pub fn folder_in(&self, root: &Path) -> PathBuf {
        // Joined to nothing, a path would end with a slash.
        if self.folder.is_empty() { root.to_owned() } else { root.join(&self.folder) }
    }

    /// The path of one of the checkpoint's files in the repository.
    pub fn file(&self, file: &str) -> String {
        match &*self.folder {
            "" => file.to_owned(),
            folder => format!("{folder}/{file}"),
        }
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        if self.folder.is_empty() { Ok(()) } else { write!(f, "/{}", self.folder) }
    }
}

/// Whether a text can be one component: never `.`, `..` or an option.
fn is_name(part: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-%".contains(c);
    let begins = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.starts_with(begins) && part.chars().all(fits) && !part.contains("..")
}

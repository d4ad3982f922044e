//! What a checkpoint on the hub is called on a command line.

use std::fmt;

/// The revision that is meant where none is named.
const MAIN: &str = "main";

/// `owner/name`, `owner/name@revision`, and a folder of the repository behind
/// either: `owner/name/original`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The repository's owner and name, with `/` between them.
    pub repository: String,
    /// A branch, a tag, a commit, or a pull request's `refs/pr/N`.
    pub revision: String,
    /// The folder that holds the checkpoint; empty for the repository's root.
    pub folder: String,
}

impl Name {
    /// Reads a name; nothing where the text cannot be one. Without a revision
    /// only the folder `original` counts, since any other text may be a path.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, rest) = text.trim_end_matches('/').split_once('/')?;
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (revision, folder) = match rest.strip_prefix('@') {
            Some(rest) => revision(rest),
            None => (MAIN, rest.strip_prefix('/').unwrap_or(rest)),
        };
        let named = is_name(owner) && is_name(name) && !revision.is_empty();
        let folders = folder.is_empty() || folder.split('/').all(is_name);
        let certain = rest.starts_with('@') || matches!(folder, "" | "original");
        (named && folders && certain && revision.split('/').all(is_name)).then(|| Self {
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// The folder into which the repository goes unless another is named, called
    /// like those of Hugging Face's cache.
    pub fn default_folder(&self) -> String {
        let name = self.repository.replace('/', "--");
        match &*self.revision {
            MAIN => name,
            revision => format!("{name}@{}", revision.replace('/', "-")),
        }
    }

    /// The path of one of the checkpoint's files in the repository.
    pub fn path(&self, file: &str) -> String {
        match &*self.folder {
            "" => file.to_owned(),
            folder => format!("{folder}/{file}"),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        if self.folder.is_empty() { Ok(()) } else { write!(f, "/{}", self.folder) }
    }
}

/// Splits a revision from the folder behind it. Those of pull requests and
/// conversions have slashes of their own; a branch with one is written `%2F`,
/// as the hub does.
fn revision(text: &str) -> (&str, &str) {
    let parts = if text.starts_with("refs/") { 3 } else { 1 };
    let end = text.match_indices('/').nth(parts - 1).map_or(text.len(), |(at, _)| at);
    let (revision, folder) = text.split_at(end);
    (revision, folder.strip_prefix('/').unwrap_or(folder))
}

/// Whether this can be a part of a name: never `.`, `..` or an option.
fn is_name(part: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-%".contains(c);
    let begins = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.starts_with(begins) && part.chars().all(fits) && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let cases = [
            ("openai/gpt-oss-20b", Some(("openai/gpt-oss-20b", "main", ""))),
            ("openai/gpt-oss-20b/", Some(("openai/gpt-oss-20b", "main", ""))),
            ("openai/gpt-oss-20b/original", Some(("openai/gpt-oss-20b", "main", "original"))),
            ("openai/gpt-oss-20b@v1.0", Some(("openai/gpt-oss-20b", "v1.0", ""))),
            ("a/b@v1/original", Some(("a/b", "v1", "original"))),
            ("a/b@v1/step/500", Some(("a/b", "v1", "step/500"))),
            ("a/b@refs/pr/3", Some(("a/b", "refs/pr/3", ""))),
            ("a/b@refs/pr/3/original", Some(("a/b", "refs/pr/3", "original"))),
            ("a/b@topic%2Fone", Some(("a/b", "topic%2Fone", ""))),
            ("gpt2", None),
            ("a/b@", None),
            ("a/b/c", None),
            ("a/", None),
            ("/a/b", None),
            ("./a", None),
            ("../a", None),
            ("~/a", None),
            ("a/../b", None),
            ("a/b@v1/../../x", None),
            ("a/b c", None),
            (r"a\b/c", None),
            ("C:/models", None),
        ];
        for (text, expected) in cases {
            let found = Name::parse(text);
            let found =
                found.as_ref().map(|name| (&*name.repository, &*name.revision, &*name.folder));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["a/b", "a/b@v1", "a/b/original", "a/b@refs/pr/3/original"] {
            assert_eq!(Name::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_folder_of_its_own_for_each_revision() {
        let folder = |text| Name::parse(text).unwrap().default_folder();
        assert_eq!(folder("openai/gpt-oss-20b/original"), "openai--gpt-oss-20b");
        assert_eq!(folder("a/b@refs/pr/3"), "a--b@refs-pr-3");
    }
}

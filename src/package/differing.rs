//! The tokenizer's files of adapters: those of the checkpoint are copied, and adapters may have been trained
//! with others.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tokenizer::{LARGEST_FILE, TOKENIZER};
use crate::files::json;
use crate::text::ChatTemplate;

/// The files in the folders of adapters with other tokens or another chat template than the first file in
/// the folders of a checkpoint. Unreadable files count as equal: nobody needs them.
pub fn differing(adapters: &[PathBuf], checkpoint_dirs: &[PathBuf]) -> Vec<PathBuf> {
    let template = |folder: &Path| ChatTemplate::read(folder).ok().flatten();
    let tokens = |folder: &Path| TokenList::read(&folder.join(TOKENIZER));
    let of_checkpoint = checkpoint_dirs.iter().find_map(|it| template(it));
    let mut found = Vec::new();
    for folder in adapters {
        let own = template(folder);
        let is_other = |it: &ChatTemplate| of_checkpoint.as_ref().is_none_or(|of| !it.equals(of));
        found.extend(own.filter(is_other).map(|it| it.path().to_owned()));
        let known = || checkpoint_dirs.iter().find_map(|it| tokens(it));
        let is_other = tokens(folder).is_some_and(|own| known().is_none_or(|it| it != own));
        found.extend(is_other.then(|| folder.join(TOKENIZER)));
    }
    found
}

/// The tokens of a `tokenizer.json`; what else programs write there differs between their versions.
#[derive(PartialEq)]
struct TokenList {
    vocabulary: Value,
    /// Ids and texts.
    added: Vec<[Value; 2]>,
}

impl TokenList {
    fn read(path: &Path) -> Option<Self> {
        let text = json::read(path, LARGEST_FILE).ok()?;
        let mut file: Value = json::parse(path.display(), &text).ok()?;
        let added = file["added_tokens"].as_array().cloned().unwrap_or_default();
        let added = added.into_iter().map(|it| [it["id"].clone(), it["content"].clone()]);
        Some(Self { added: added.collect(), vocabulary: file["model"]["vocab"].take() })
    }
}

//! The tokenizer's files: found beside the weights and copied byte for byte.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::display::{Table, with_thousands};
use crate::error::{Error, Result, bail, ensure};
use crate::files::{are_equal, canonicalize_existing, foreign, json, lossy_paths};

/// The most bytes of a file: the released models' have up to 28 MB.
pub const LARGEST_FILE: u64 = 256 << 20;

/// Special tokens and sampling parameters.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// The tokenizer's files.
pub const FILES: [&str; 5] =
    [TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", CHAT_TEMPLATE, GENERATION_CONFIG];

pub const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The tokenizer in a folder.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TokenizerSummary {
    #[serde(serialize_with = "lossy_paths")]
    pub copied: Vec<PathBuf>,
    /// Files that the folder had already.
    #[serde(rename = "there")]
    pub present: Vec<&'static str>,
    /// Those of them that the checkpoint lacks: another model may have left them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only_there: Vec<&'static str>,
    pub missing: Vec<&'static str>,
    /// Files of adapters with other tokens or another chat template.
    #[serde(serialize_with = "lossy_paths", skip_serializing_if = "Vec::is_empty")]
    pub differing: Vec<PathBuf>,
    /// The largest token id of `tokenizer.json`, if the model's vocabulary does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beyond_vocabulary: Option<u64>,
}

/// What a package needs to know of a file.
#[derive(Default)]
struct Contents {
    /// The largest token id of `tokenizer.json`.
    largest_id: Option<u64>,
    /// Whether `tokenizer_config.json` has chat templates.
    has_template: bool,
}

/// The chat templates in `tokenizer_config.json`.
#[derive(Deserialize)]
struct Templates {
    chat_template: Option<IgnoredAny>,
}

/// The token ids in `tokenizer.json`.
#[derive(Deserialize)]
struct TokenIds {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    model: TokenizerModel,
}

#[derive(Default, Deserialize)]
struct TokenizerModel {
    #[serde(default)]
    vocab: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
}

impl TokenIds {
    /// The largest id. A vocabulary is an object of ids, or a list in their order.
    fn largest_id(&self) -> Option<u64> {
        let vocabulary = match &self.model.vocab {
            Value::Object(ids) => ids.values().filter_map(Value::as_u64).max(),
            Value::Array(tokens) => (tokens.len() as u64).checked_sub(1),
            _ => None,
        };
        self.added_tokens.iter().map(|token| token.id).chain(vocabulary).max()
    }
}

impl TokenizerSummary {
    /// What to do about files of adapters.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        self.differing.iter().map(|path| {
            format!(
                "`{}` differs from the checkpoint's file, which was copied: replace the copy if the adapter was trained with this file",
                path.display()
            )
        })
    }

    /// What was copied, and what the runtime lacks.
    pub(super) fn notes(&self, table: &mut Table, runtime: &str) {
        let copied = self.copied.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        for (what, names) in [
            ("copied", &copied),
            ("unchanged", &self.present),
            ("not in the checkpoint, and perhaps left by another model:", &self.only_there),
            ("missing", &self.missing),
        ] {
            if !names.is_empty() {
                table.note(format!("{what} {}", names.join(", ")));
            }
        }
        let is_missing = |name| self.missing.contains(&name);
        if is_missing(TOKENIZER) || is_missing(TOKENIZER_CONFIG) {
            table.note(format!("without the tokenizer's files, {runtime} takes tokens, not text"));
        } else if is_missing(CHAT_TEMPLATE) {
            table
                .note(format!("without a chat template, {runtime} takes texts, not conversations"));
        }
        if let Some(id) = self.beyond_vocabulary {
            table.note(format!(
                "{TOKENIZER} has tokens up to {}, which are not in the model's vocabulary: it may be another model's",
                with_thousands(id)
            ));
        }
    }
}

/// The folders of a checkpoint: its own and, where that is `original` in a repository as
/// OpenAI publishes it, the repository's root.
pub fn checkpoint_dirs(checkpoint_dir: &Path) -> Result<Vec<PathBuf>> {
    let real = canonicalize_existing(checkpoint_dir)?;
    let root = real.parent().filter(|_| real.ends_with("original"));
    Ok([checkpoint_dir].into_iter().chain(root).map(Path::to_owned).collect())
}

/// Refuses a folder of a tokenizer that is none.
pub fn require_folder(path: &Path) -> Result<()> {
    ensure!(path.is_dir(), "`{}` is no folder: name the one that has {TOKENIZER}", path.display());
    Ok(())
}

/// A file in the first folder that has it. A folder or broken link of that name is an
/// error, and not passed over.
pub fn find(dirs: &[PathBuf], name: &str) -> Result<Option<PathBuf>> {
    let mut paths = dirs.iter().map(|dir| dir.join(name));
    let found = paths.find(|path| path.symlink_metadata().is_ok());
    if let Some(path) = &found {
        let shown = path.display();
        ensure!(path.is_file(), "`{shown}` is neither a file nor a link to one: remove it");
    }
    Ok(found)
}

/// Plans copies into a folder, each from the first of a checkpoint's folders that has the file.
/// Returns their sources and targets. Refuses files that are something else, such as pointers of Git LFS.
pub fn plan(
    checkpoint_dirs: &[PathBuf],
    target: &Path,
    vocab_size: u64,
) -> Result<(Vec<[PathBuf; 2]>, TokenizerSummary)> {
    let (mut copies, mut summary, mut wrong) =
        (Vec::new(), TokenizerSummary::default(), Vec::new());
    let mut has_template = false;
    for name in FILES {
        let of_checkpoint = find(checkpoint_dirs, name)?;
        let present = find(&[target.to_owned()], name)?;
        let Some(source) = of_checkpoint.as_ref().or(present.as_ref()) else {
            summary.missing.push(name);
            continue;
        };
        match check(source, name) {
            Ok(contents) => {
                let largest_id = contents.largest_id.filter(|id| *id >= vocab_size);
                summary.beyond_vocabulary = summary.beyond_vocabulary.or(largest_id);
                has_template |= contents.has_template;
            }
            Err(error) => {
                wrong.push(error);
                continue;
            }
        }
        let open = |path| json::open(path, LARGEST_FILE).map(BufReader::new);
        if let Some(path) = &present {
            ensure!(
                are_equal(open(source)?, open(path)?)?,
                "`{}` differs from `{}`, and a model beside it may use it: move it away, or choose another output folder",
                path.display(),
                source.display()
            );
            summary.present.push(name);
            if of_checkpoint.is_none() {
                summary.only_there.push(name);
            }
        } else {
            summary.copied.push(target.join(name));
            copies.push([source.clone(), target.join(name)]);
        }
    }
    summary.missing.retain(|name| *name != CHAT_TEMPLATE || !has_template);
    Error::all(wrong)?;
    Ok((copies, summary))
}

/// Refuses a file that is not what its name says.
fn check(path: &Path, name: &str) -> Result<Contents> {
    let (shown, text) = (path.display(), json::read(path, LARGEST_FILE)?);
    let mut contents = Contents::default();
    if name == TOKENIZER {
        contents.largest_id = json::parse::<TokenIds>(&shown, &text)?.largest_id();
        ensure!(
            contents.largest_id.is_some(),
            "`{shown}` has no tokens: it is damaged; download it again"
        );
    } else if name == TOKENIZER_CONFIG {
        contents.has_template = json::parse::<Templates>(shown, &text)?.chat_template.is_some();
    } else if name.ends_with(".json") {
        json::parse::<IgnoredAny>(shown, &text)?;
    } else if text.trim_ascii().is_empty() {
        bail!("`{shown}` is empty: download it again, or delete it");
    } else if let Some(what) = foreign::identify(&text) {
        // A template may begin as any text.
        let is_template =
            ["{{", "{%"].iter().any(|it| text.windows(2).any(|two| two == it.as_bytes()));
        ensure!(is_template, "`{shown}` is {what}");
    }
    Ok(contents)
}

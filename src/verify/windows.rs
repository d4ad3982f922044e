//! A text in windows of tokens, each of which predicts all but its first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::request::TextSource;
use crate::checkpoint::Config;
use crate::display::{LISTED, listed, plural, with_thousands};
use crate::error::{Result, Setting, ensure, err};
use crate::files::{json, parent_dir};
use crate::package::tokenizer;
use crate::text::Tokenizer;

/// The most bytes of a file.
const LARGEST_FILE: u64 = 1 << 30;
/// Default tokens of a window.
const WINDOW: usize = 512;
/// The field of a line of JSON with its text, unless another is named.
const FIELD: &str = "text";
/// The extension of files with an object of JSON in each line.
const LINES: &str = "jsonl";
/// Those of files with other data than the text.
const TABLES: [&str; 5] = ["json", "csv", "tsv", "parquet", "arrow"];

/// The windows of a text.
#[derive(Clone, Debug)]
pub struct Windows {
    pub file: PathBuf,
    /// Token ids of each, all of one length.
    pub rows: Vec<Vec<u32>>,
}

impl Windows {
    /// Reads a text with the tokenizer of a checkpoint, in windows of so many tokens; by default
    /// of 512, or the model's context if that is shorter. Texts of a `.jsonl` file follow each
    /// other. A last incomplete window is left out.
    pub fn read(
        source: &TextSource,
        checkpoint: &Path,
        config: &Config,
        tokens: Option<usize>,
    ) -> Result<Self> {
        let (file, context) = (&source.file, config.rope.context() as usize);
        let length = tokens.unwrap_or(WINDOW.min(context));
        ensure!(
            (2..=context).contains(&length),
            "a window of {} was requested, and one has 2 to {}, the model's context",
            plural(length, "token"),
            with_thousands(context as u64)
        );
        let named = source.tokenizer.as_deref();
        let tokenizer = open_tokenizer(checkpoint, named, config.vocab_size as usize)?;
        let mut ids = Vec::new();
        for text in texts(source)? {
            ids.extend(tokenizer.encode(&text, false)?);
        }
        if ids.len() < length {
            let error = err!(
                "`{}` has {}, and a window has {}: take a longer text or shorter windows",
                file.display(),
                plural(ids.len(), "token"),
                with_thousands(length as u64)
            );
            return Err(match ids.len() {
                0 | 1 => error,
                shorter => error.with_remedy(Setting::Tokens, shorter.to_string()),
            });
        }
        let rows = ids.chunks_exact(length).map(<[u32]>::to_vec).collect();
        Ok(Self { file: file.clone(), rows })
    }
}

/// The tokenizer in a folder that is named, or else in that of a checkpoint or a staged file.
fn open_tokenizer(checkpoint: &Path, named: Option<&Path>, vocab: usize) -> Result<Tokenizer> {
    let of_checkpoint = if checkpoint.is_dir() { checkpoint } else { parent_dir(checkpoint) };
    let folder = named.unwrap_or(of_checkpoint);
    tokenizer::require_folder(folder)?;
    let found = tokenizer::find(&tokenizer::checkpoint_dirs(folder)?, Tokenizer::FILE)?;
    let path = found.ok_or_else(|| {
        let (folder, name) = (folder.display(), Tokenizer::FILE);
        err!("`{folder}` has no `{name}`, which a text needs: put the checkpoint's there, or name the folder that has it")
            .with_remedy(Setting::Tokenizer, "DIR")
    })?;
    Tokenizer::open(&path, vocab)
}

/// The text of a file, or that of each line.
fn texts(TextSource { file, field, .. }: &TextSource) -> Result<Vec<String>> {
    let shown = file.display();
    ensure!(!file.is_dir(), "`{shown}` is a folder, expected a text: name a file");
    let extension = file.extension().unwrap_or_default();
    ensure!(
        !file.exists() || TABLES.iter().all(|it| extension != *it),
        "`{shown}` is structured data, and its markup would be predicted too: save its texts as plain text (.txt), or as a .{LINES} file with an object of JSON in each line"
    );
    let text = String::from_utf8(json::read(file, LARGEST_FILE)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        err!("`{shown}` is not UTF-8, first in byte {at}: save it as UTF-8, or take another text")
    })?;
    ensure!(!text.trim().is_empty(), "`{shown}` is empty, expected a text: take another file");
    if extension != LINES {
        ensure!(
            field.is_none(),
            "the field of a text is named, and `{shown}` is no `.{LINES}` file: name no field, or a file with an object of JSON in each line"
        );
        return Ok(vec![text]);
    }
    let field = field.as_deref().unwrap_or(FIELD);
    let (mut texts, mut lacking) = (Vec::new(), Vec::new());
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (at, line) in lines {
        let name = format!("{shown}:{}", at + 1);
        let mut fields: BTreeMap<String, Field> = json::parse_line(&name, line)?;
        match fields.remove(field) {
            Some(Field::Text(text)) => texts.push(text),
            found => lacking.push((at + 1, found.is_some(), fields)),
        }
    }
    let Some((line, has_it, fields)) = lacking.first() else { return Ok(texts) };
    let found = if *has_it { "something else there" } else { "no such field" };
    let others = fields.iter().filter(|(_, value)| matches!(value, Field::Text(_)));
    let others: Vec<&String> = others.map(|(name, _)| name).collect();
    let (is_mixed, names) = (!texts.is_empty(), listed(others.iter()));
    let has = match others.len() {
        0 => "it has no text in other fields: take another file".to_owned(),
        _ if is_mixed => format!("its texts are in {names}: give all texts one field"),
        _ => format!("its texts are in {names}: name the field"),
    };
    let count = plural(lacking.len(), "line");
    let mut error = err!(
        "`{shown}` lacks a text in the field `{field}` in {count}; line {line} has {found}, and {has}"
    );
    for name in others.into_iter().take(LISTED).filter(|_| !is_mixed) {
        error = error.with_remedy(Setting::TextField, name);
    }
    Err(error)
}

/// The value of a field.
#[derive(Deserialize)]
#[serde(untagged)]
enum Field {
    Text(String),
    Other(IgnoredAny),
}

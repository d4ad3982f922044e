//! What onnxruntime-genai wants beside the model.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::open::Opened;
use super::{Genai, Request};
use crate::checkpoint::{CONFIG, LARGEST_CONFIG};
use crate::error::{Error, bail, err};
use crate::files::json;
use crate::files::parent_dir;
use crate::genai::{self, Generation, Setup};
use crate::model::Target;
use crate::publish::{Existing, Transaction};
use crate::tokenizer::{self, Tokenizer};

/// The files of one folder, planned.
pub struct Companions {
    text: String,
    tokenizer: Tokenizer,
    summary: GenaiSummary,
}

/// What there is for onnxruntime-genai.
#[derive(Clone, Debug, Serialize)]
pub struct GenaiSummary {
    /// The file that describes the model.
    pub config: PathBuf,
    /// Whether that file was there already, and said something else.
    pub replaced: bool,
    /// For how many tokens a generator makes room unless told otherwise.
    pub max_length: u64,
    /// What the cache of a text of that length takes, for a row or the batch.
    pub cache_bytes: u64,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u64>,
    /// Whether they are the released models', as nothing said which.
    #[serde(rename = "eos_assumed")]
    pub is_assumed: bool,
    /// Tokenizer files that were copied.
    pub copied: Vec<PathBuf>,
    /// Those that were there already.
    pub there: Vec<&'static str>,
    /// Those that are nowhere.
    pub missing: Vec<&'static str>,
}

impl Companions {
    /// Reads what must be known, where they are asked for; nothing is written yet.
    pub fn plan(
        request: &Request,
        output: &Path,
        Opened { checkpoint, folder, .. }: &Opened,
    ) -> Result<Option<Self>, Error> {
        let Some(Genai { max_length }) = request.genai else { return Ok(None) };
        let options = request.options();
        let sources = tokenizer::sources(folder, parent_dir(output))?;
        let file = tokenizer::find(&sources, tokenizer::GENERATION)?;
        // The target's own may be another model's.
        let own = sources[..sources.len() - 1].iter().map(|folder| folder.join(CONFIG));
        let configs: Vec<PathBuf> = own.filter(|config| config.is_file()).collect();
        let vocab = checkpoint.config.vocab_size;
        let generation = Generation::read(file.as_deref(), &configs, vocab)?;
        let name = output.file_name().and_then(|name| name.to_str());
        let setup = Setup {
            model: name.ok_or_else(|| {
                err!("`{}` is not valid UTF-8, so no other file can name it", output.display())
            })?,
            batch: options.batch,
            shared_buffer: options.target == Target::Ort,
            cache: options.compute,
            provider: options.provider,
            max_length,
        };
        let config = &checkpoint.config;
        let (text, max_length) = genai::genai_config(config, &generation, &setup)?;
        let folder = parent_dir(output);
        let path = folder.join(genai::CONFIG_FILE);
        let replaced = replaces(&path, setup.model, &text)?;
        let tokenizer = Tokenizer::plan(&sources, folder)?;
        let summary = GenaiSummary {
            config: path,
            replaced,
            max_length,
            cache_bytes: genai::bytes_per_token(config, &setup).saturating_mul(max_length),
            eos_token_ids: generation.eos,
            is_assumed: generation.is_assumed,
            copied: tokenizer.copied(),
            there: tokenizer.there.clone(),
            missing: tokenizer.missing.clone(),
        };
        Ok(Some(Self { text, tokenizer, summary }))
    }

    /// Writes all of them.
    pub fn write(&self, transaction: &mut Transaction) -> Result<(), Error> {
        self.tokenizer.write(transaction)?;
        transaction.create_from(&self.summary.config, Existing::Replace, self.text.as_bytes())?;
        Ok(())
    }

    /// What was done.
    pub fn summarise(self) -> GenaiSummary {
        self.summary
    }
}

/// Whether another text gives way to this one. A folder has one such file, so
/// one that describes another model stays.
fn replaces(path: &Path, model: &str, text: &str) -> Result<bool, Error> {
    if path.is_dir() {
        bail!("`{}` is a folder, expected a file to write", path.display());
    }
    if !path.is_file() {
        return Ok(false);
    }
    let there = json::read(path, LARGEST_CONFIG)?;
    match genai::described_model(&there) {
        Some(other) if other != model && parent_dir(path).join(&other).exists() => {
            let path = path.to_owned();
            Err(genai::Error::AnotherModel { path, model: other }.into())
        }
        _ => Ok(there != text.as_bytes()),
    }
}

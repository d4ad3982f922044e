//! Packages: the files that a runtime needs beside a model, planned before they are written.

mod chunk;
mod differing;
pub mod genai;
mod generation;
pub mod tokenizer;
pub mod transformers_js;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::display::{Table, size};
use crate::error::{Result, err};
use crate::files::digest::sha256;
use crate::files::{json, lossy_path};
use crate::model::GraphOptions;
use crate::publish::{Existing, Transaction};
pub use chunk::chunk_size;
pub use generation::{GENAI_CONFIG, ending_tokens};
use tokenizer::{LARGEST_FILE, TokenizerSummary};

pub struct PackagedModel<'m> {
    pub path: &'m Path,
    pub options: &'m GraphOptions,
    pub checkpoint: &'m Checkpoint,
    pub checkpoint_dir: &'m Path,
    /// The folders of its adapters.
    pub adapter_dirs: Vec<PathBuf>,
    /// Whether the checkpoint's values in BF16 got another dtype.
    pub replaces_bf16: bool,
}

impl PackagedModel<'_> {
    /// Plans copies of the tokenizer's files from the folders of the checkpoint.
    fn tokenizer(
        &self,
        checkpoint_dirs: &[PathBuf],
        target: &Path,
    ) -> Result<(Vec<[PathBuf; 2]>, TokenizerSummary)> {
        let vocab_size = self.checkpoint.config.vocab_size;
        let (copies, summary) = tokenizer::plan(checkpoint_dirs, target, vocab_size)?;
        let differing = differing::differing(&self.adapter_dirs, checkpoint_dirs);
        Ok((copies, TokenizerSummary { differing, ..summary }))
    }
}

#[derive(Default)]
pub struct Package {
    /// Configs that were written for another model under the name of this one.
    pub outdated: Vec<PathBuf>,
    /// Sources and targets of copies, which replace nothing.
    pub copies: Vec<[PathBuf; 2]>,
    /// A config, which replaces an existing one.
    pub config: Option<(PathBuf, String)>,
    pub genai: Option<GenaiSummary>,
    pub transformers_js: Option<TransformersJsSummary>,
}

impl Package {
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        let copies = self.copies.iter().map(|[_, path]| &**path);
        copies.chain(self.config.iter().map(|(path, _)| &**path))
    }

    /// The digest of the config for onnxruntime-genai, by which a later export knows it again.
    pub fn genai_digest(&self) -> Option<String> {
        let (_, text) = self.config.as_ref().filter(|_| self.genai.is_some())?;
        Some(sha256(text.as_bytes()))
    }

    pub fn write(&self, transaction: &mut Transaction) -> Result<()> {
        for [from, path] in &self.copies {
            let mut source = json::open(from, LARGEST_FILE)?;
            let failed = err!("cannot copy `{}` to `{}`", from.display(), path.display());
            transaction.create(path, Existing::Keep, |mut file| {
                let copied = io::copy(&mut source, &mut file);
                copied.map_err(|error| failed.with_io(error))
            })?;
        }
        self.config.iter().try_for_each(|(path, text)| {
            transaction.create_from(path, Existing::Replace, text.as_bytes())
        })
    }
}

/// The package for onnxruntime-genai.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct GenaiSummary {
    #[serde(serialize_with = "lossy_path")]
    pub config: PathBuf,
    /// Whether a different `genai_config.json` was replaced.
    pub replaced: bool,
    /// The longest text in tokens, prompt included, unless a program says otherwise.
    pub max_length: u64,
    /// Whether generators draft tokens.
    pub speculative: bool,
    /// Bytes of the cache for a text of that length, for the whole batch.
    pub cache_bytes: u64,
    pub eos_token_ids: Vec<u64>,
    /// Whether these are the released models', because no file names others.
    pub eos_assumed: bool,
    /// Sampling parameters and tokens of configs that onnxruntime-genai does not accept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    #[serde(flatten)]
    pub tokenizer: TokenizerSummary,
}

/// The package for transformers.js.
#[derive(Clone, Debug, Serialize)]
pub struct TransformersJsSummary {
    /// The root of the repository, which transformers.js opens.
    #[serde(serialize_with = "lossy_path")]
    pub folder: PathBuf,
    /// The option `dtype` that chooses the model.
    pub dtype: &'static str,
    /// The option `device` that the model is for.
    pub device: &'static str,
    /// Whether values in BF16 are stored in another dtype.
    #[serde(skip)]
    pub(crate) replaces_bf16: bool,
    /// The tokenizer's files.
    #[serde(flatten)]
    pub tokenizer: TokenizerSummary,
}

/// The name by which other files refer to the model.
pub fn model_name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    let path = path.display();
    name.ok_or_else(|| err!("`{path}` is not valid UTF-8, so no other file can name it"))
}

impl GenaiSummary {
    pub(crate) fn rows(&self, table: &mut Table) {
        let replaced = if self.replaced { " (replaced)" } else { "" };
        table.row("genai", format!("{}{replaced}", self.config.display()));
        let cache = size(self.cache_bytes);
        table.note(format!("max_length {} (a cache of {cache})", self.max_length));
        if self.speculative {
            table.note("drafts of tokens where a text repeats itself, in generators of one row");
        }
        let eos: Vec<String> = self.eos_token_ids.iter().map(u64::to_string).collect();
        let assumed = if self.eos_assumed { ", as in the released models" } else { "" };
        table.note(format!("eos {}{assumed}", eos.join(", ")));
        if !self.left_out.is_empty() {
            let unusable = self.left_out.join(", ");
            table.note(format!("left out, because onnxruntime-genai cannot use it: {unusable}"));
        }
        self.tokenizer.notes(table, "onnxruntime-genai");
    }
}

impl TransformersJsSummary {
    pub(crate) fn rows(&self, table: &mut Table) {
        let Self { folder, dtype, device, replaces_bf16, tokenizer } = self;
        let folder = folder.display();
        let node = if *device == "wasm" { ", in Node device: \"cpu\"" } else { "" };
        table.row(
            "web",
            format!("{folder}: AutoModelForCausalLM.from_pretrained(…, {{ dtype: {dtype:?}, device: {device:?} }}){node}"),
        );
        if *replaces_bf16 {
            table.note(
                "BF16 is stored as F32, or as F16 for products in F16: browsers have no BF16",
            );
        }
        tokenizer.notes(table, "transformers.js");
    }
}

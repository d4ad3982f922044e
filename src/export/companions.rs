//! What onnxruntime-genai wants beside the model.

use std::io::Write;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;

use super::{Error, Origin, Request};
use crate::checkpoint::Checkpoint;
use crate::genai::{self, Generation, Setup, Tokenizer};
use crate::model::Target;
use crate::paths::folder_of;
use crate::publish::{self, Existing, Transaction};

/// The files of one folder, planned.
pub struct Companions {
    folder: PathBuf,
    config: String,
    max_length: u64,
    tokenizer: Tokenizer,
}

/// What there is for onnxruntime-genai.
#[derive(Clone, Debug, Serialize)]
pub struct GenaiSummary {
    /// The file that describes the model.
    pub config: PathBuf,
    /// For how many tokens a generator makes room unless told otherwise.
    pub max_length: u64,
    /// Tokenizer files that were copied.
    pub copied: Vec<PathBuf>,
    /// Those that were there already.
    pub there: Vec<&'static str>,
    /// Those that text needs and that are nowhere.
    pub missing: Vec<&'static str>,
}

impl Companions {
    /// Reads what must be known; nothing is written yet.
    pub fn plan(
        request: &Request,
        output: &Path,
        max_length: Option<u64>,
        checkpoint: &Checkpoint,
    ) -> Result<Self, Error> {
        let options = &request.graph;
        if options.length.is_some() {
            return Err(Error::GenaiLength);
        }
        let weights = match &request.origin {
            Origin::Checkpoint(folder) => folder,
            Origin::Weights(file) => folder_of(file),
        };
        let sources = genai::sources(weights)?;
        let file = genai::find(&sources, genai::GENERATION_FILE);
        let generation = Generation::read(file.as_deref(), checkpoint.config.vocab_size)?;
        let name = output.file_name().and_then(|name| name.to_str());
        let setup = Setup {
            model: name.ok_or_else(|| Error::NotUnicode(output.to_owned()))?,
            batch: options.batch,
            shared_buffer: options.target == Target::Ort,
            max_length,
        };
        let (config, max_length) = genai::genai_config(&checkpoint.config, &generation, &setup)?;
        let folder = folder_of(output).to_owned();
        let tokenizer = Tokenizer::plan(&sources, &folder)?;
        Ok(Self { folder, config, max_length, tokenizer })
    }

    /// Writes all of them.
    pub fn write(&self, transaction: &mut Transaction) -> Result<(), Error> {
        for (from, to) in &self.tokenizer.copies {
            let bytes = fs::read(from).map_err(genai::Error::Io)?;
            publish(transaction, to, Existing::Keep, &bytes)?;
        }
        publish(transaction, &self.config_path(), Existing::Replace, self.config.as_bytes())
    }

    fn config_path(&self) -> PathBuf {
        self.folder.join(genai::CONFIG_FILE)
    }

    /// What was done.
    pub fn summarise(self) -> GenaiSummary {
        let config = self.config_path();
        let Tokenizer { copies, there, missing } = self.tokenizer;
        let copied = copies.into_iter().map(|(_, to)| to).collect();
        GenaiSummary { config, max_length: self.max_length, copied, there, missing }
    }
}

/// Adds a small file whose bytes are at hand.
pub fn publish(
    transaction: &mut Transaction,
    path: &Path,
    existing: Existing,
    bytes: &[u8],
) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::IsFolder(path.to_owned()));
    }
    let write = |mut file: &std::fs::File| file.write_all(bytes).map_err(publish::Error::at(path));
    transaction.create(path, existing, |file| write(file).map_err(Error::Publish))
}

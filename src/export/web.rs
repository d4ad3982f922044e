//! What transformers.js wants in the folder above the model's.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;

use super::open::Opened;
use super::{Error, Request};
use crate::genai::{self, Tokenizer};
use crate::model::Target;
use crate::paths::folder_of;
use crate::publish::{Existing, Transaction};
use crate::runtime::Provider;
use crate::tensor::DType;
use crate::transformers_js::{self, FOLDER};

/// The files of one repository, planned.
pub struct Page {
    config: String,
    tokenizer: Tokenizer,
    summary: WebSummary,
}

/// What there is for transformers.js.
#[derive(Clone, Debug, Serialize)]
pub struct WebSummary {
    /// The folder that is opened by transformers.js.
    pub folder: PathBuf,
    /// By which word the model is chosen: `dtype`.
    pub dtype: String,
    /// Where it runs: `device`.
    pub device: &'static str,
    /// Tokenizer files that were copied.
    pub copied: Vec<PathBuf>,
    /// Those that are nowhere.
    pub missing: Vec<&'static str>,
}

impl Page {
    /// Reads what must be known; nothing is written yet.
    pub fn plan(
        output: &Path,
        files: usize,
        opened: &Opened,
        request: &Request,
    ) -> Result<Self, Error> {
        let options = request.options();
        let refused = match (options.target, options.provider) {
            (Target::Ort, Provider::Cpu | Provider::Cuda) => Some(transformers_js::Error::Provider),
            _ if options.length.is_some() => Some(transformers_js::Error::Length),
            _ if options.compute == DType::BF16 => Some(transformers_js::Error::Compute),
            _ => None,
        };
        if let Some(error) = refused {
            return Err(error.into());
        }
        let folder = folder_of(output);
        let name = output.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::NotUnicode(output.to_owned()))?;
        if folder.file_name().is_none_or(|last| last != FOLDER) {
            return Err(transformers_js::Error::Folder(folder.join(FOLDER).join(name)).into());
        }
        let above = folder_of(folder).to_owned();
        // One that is there may speak of other models.
        let mut sources = vec![above.clone()];
        sources.extend(genai::sources(&opened.folder, &above)?);
        let dtype = transformers_js::quantisation(name)?;
        let config = config(&sources, &above, (name, dtype), files, options.compute)?;
        let tokenizer = Tokenizer::plan(&sources[1..], &above)?;
        let summary = WebSummary {
            folder: above,
            dtype: dtype.to_owned(),
            device: if options.provider == Provider::WebGpu { "webgpu" } else { "wasm" },
            copied: tokenizer.copies.iter().map(|(_, to)| to.clone()).collect(),
            missing: tokenizer.missing.clone(),
        };
        Ok(Self { config, tokenizer, summary })
    }

    /// Writes all of them.
    pub fn write(&self, transaction: &mut Transaction) -> Result<(), Error> {
        for (from, to) in &self.tokenizer.copies {
            let bytes = fs::read(from).map_err(genai::Error::Io)?;
            transaction.create_from(to, Existing::Keep, &bytes)?;
        }
        let path = self.summary.folder.join("config.json");
        transaction.create_from(&path, Existing::Replace, self.config.as_bytes())?;
        Ok(())
    }

    /// What was done.
    pub fn summarise(self) -> WebSummary {
        self.summary
    }
}

/// The text of config.json: the first of Hugging Face's that there is, with our words.
fn config(
    sources: &[PathBuf],
    above: &Path,
    name: (&str, &str),
    files: usize,
    cache: DType,
) -> Result<String, Error> {
    for path in sources.iter().map(|folder| folder.join("config.json")) {
        if !path.is_file() {
            continue;
        }
        let text = fs::read(&path).map_err(transformers_js::Error::Io)?;
        if transformers_js::is_config(&text) {
            let made = transformers_js::config(&text, name, files, cache);
            return made.map_err(|reason| transformers_js::Error::Json { path, reason }.into());
        }
    }
    Err(transformers_js::Error::NoConfig(above.to_owned()).into())
}

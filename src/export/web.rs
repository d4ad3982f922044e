//! What transformers.js wants in the folder above the model's.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;

use super::open::Opened;
use super::shards::MOST_FOR_A_BROWSER;
use super::{Error, Origin, Request};
use crate::genai::{self, Tokenizer};
use crate::model::{Options, Target};
use crate::paths::{folder_of, real_path};
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

/// Most files of data that transformers.js looks for.
const MOST_FILES: usize = 100;

/// What is refused whatever the checkpoint is.
pub fn check(output: &Path, options: &Options, most: Option<u64>) -> Result<(), Error> {
    let refused = match (options.target, options.provider) {
        (Target::Ort, Provider::Cpu | Provider::Cuda) => Some(transformers_js::Error::Provider),
        _ if options.length.is_some() => Some(transformers_js::Error::Length),
        _ if options.compute == DType::BF16 => Some(transformers_js::Error::Compute),
        _ if most.is_some_and(|most| most > MOST_FOR_A_BROWSER) => {
            Some(transformers_js::Error::FileSize(MOST_FOR_A_BROWSER))
        }
        _ => None,
    };
    if let Some(error) = refused {
        return Err(error.into());
    }
    let name = name_of(output)?;
    let folder = folder_of(output);
    if folder.file_name().is_none_or(|last| last != FOLDER) {
        return Err(transformers_js::Error::Folder(folder.join(FOLDER).join(name)).into());
    }
    transformers_js::quantisation(name)?;
    Ok(())
}

fn name_of(output: &Path) -> Result<&str, Error> {
    let name = output.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| Error::NotUnicode(output.to_owned()))
}

impl Page {
    /// Reads what must be known, where it is asked for; nothing is written yet.
    pub fn plan(
        output: &Path,
        files: usize,
        opened: &Opened,
        request: &Request,
    ) -> Result<Option<Self>, Error> {
        let options = request.options();
        if !options.transformers_js {
            return Ok(None);
        }
        if files > MOST_FILES {
            return Err(transformers_js::Error::Files { files, most: MOST_FILES }.into());
        }
        let (folder, name) = (folder_of(output), name_of(output)?);
        let above = folder_of(folder).to_owned();
        let is_staged = matches!(request.origin, Origin::Weights(_));
        if !is_staged && real_path(&above)? == real_path(&opened.folder)? {
            return Err(transformers_js::Error::OverSource(above.join("config.json")).into());
        }
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
        Ok(Some(Self { config, tokenizer, summary }))
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

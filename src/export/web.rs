//! What transformers.js wants in the folder above the model's.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Request;
use super::open::Opened;
use super::shards::MOST_FOR_A_BROWSER;
use crate::checkpoint::{CONFIG, LARGEST_CONFIG, is_checkpoint};
use crate::error::{Error, err};
use crate::files::json;
use crate::files::{canonicalize_existing, parent_dir};
use crate::model::Provider;
use crate::model::{GraphOptions, Target};
use crate::publish::{Existing, Transaction};
use crate::tensor::DType;
use crate::tokenizer::{self, Tokenizer};
use crate::transformers_js::{self, FOLDER};

/// The files of one repository, planned.
pub struct Page {
    path: PathBuf,
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
pub fn check(output: &Path, options: &GraphOptions, most: Option<u64>) -> Result<(), Error> {
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
    let folder = named(parent_dir(output))?;
    if folder.file_name().is_none_or(|last| last != FOLDER) {
        return Err(transformers_js::Error::Folder(folder.join(FOLDER).join(name)).into());
    }
    transformers_js::quantisation(name)?;
    Ok(())
}

/// A folder by a path that ends in its name.
fn named(folder: &Path) -> Result<PathBuf, Error> {
    Ok(if folder.file_name().is_some() {
        folder.to_owned()
    } else {
        canonicalize_existing(folder)?
    })
}

/// The folder above the model's.
fn above(output: &Path) -> Result<PathBuf, Error> {
    Ok(parent_dir(&named(parent_dir(output))?).to_owned())
}

pub(super) fn name_of(output: &Path) -> Result<&str, Error> {
    let name = output.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| {
        err!("`{}` is not valid UTF-8, so no other file can name it", output.display())
    })
}

impl Page {
    /// Reads what must be known, where it is asked for; nothing is written yet.
    pub fn plan(
        output: &Path,
        files: usize,
        opened: &Opened,
        request: &Request,
    ) -> Result<Option<Self>, Error> {
        if !request.transformers_js {
            return Ok(None);
        }
        let options = request.options();
        if files > MOST_FILES {
            return Err(transformers_js::Error::Files { files, most: MOST_FILES }.into());
        }
        let (name, above) = (name_of(output)?, above(output)?);
        let own = [
            Some(canonicalize_existing(&opened.folder)?),
            tokenizer::above_original(&opened.folder)?,
        ];
        let is_own = own.contains(&Some(canonicalize_existing(&above)?));
        if is_own || is_checkpoint(&above) {
            return Err(transformers_js::Error::OverSource(above.join(CONFIG)).into());
        }
        // One that is there may speak of other models.
        let mut sources = vec![above.clone()];
        sources.extend(tokenizer::sources(&opened.folder, &above)?);
        let dtype = transformers_js::quantisation(name)?;
        let model = transformers_js::Model { name, dtype, files, cache: options.compute };
        let config = config(&sources, &above, &model, opened)?;
        let tokenizer = Tokenizer::plan(&sources[1..], &above)?;
        let path = above.join(CONFIG);
        let summary = WebSummary {
            folder: above,
            dtype: dtype.to_owned(),
            device: if options.provider == Provider::WebGpu { "webgpu" } else { "wasm" },
            copied: tokenizer.copied(),
            missing: tokenizer.missing.clone(),
        };
        Ok(Some(Self { path, config, tokenizer, summary }))
    }

    /// Writes all of them.
    pub fn write(&self, transaction: &mut Transaction) -> Result<(), Error> {
        self.tokenizer.write(transaction)?;
        transaction.create_from(&self.path, Existing::Replace, self.config.as_bytes())?;
        Ok(())
    }

    /// Where the config goes.
    pub fn config(&self) -> &Path {
        &self.path
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
    model: &transformers_js::Model,
    opened: &Opened,
) -> Result<String, Error> {
    let config = &opened.checkpoint.config;
    let sizes = [
        ("num_hidden_layers", opened.checkpoint.layers_there as u64),
        ("vocab_size", config.vocab_size),
        ("hidden_size", config.hidden_size),
        ("num_attention_heads", config.num_heads),
        ("num_key_value_heads", config.num_kv_heads),
        ("head_dim", config.head_dim),
    ];
    for path in sources.iter().map(|folder| folder.join(CONFIG)) {
        if !path.exists() {
            continue;
        }
        let text = json::read(&path, LARGEST_CONFIG)?;
        if transformers_js::is_config(&text) {
            let made = transformers_js::config(&text, model, &sizes, config.num_layers());
            return made.map_err(|reason| transformers_js::Error::Json { path, reason }.into());
        }
    }
    Err(transformers_js::Error::NoConfig(above.to_owned()).into())
}

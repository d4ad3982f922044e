//! The files beside a model that say what its tokens are.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::Value;

use crate::checkpoint::{CONFIG, LARGEST_CONFIG, Subfolder, below, choice, nearest};
use crate::display::listed;
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::exported::{ExportedModel, by_model};
use crate::files::{json, parent_dir};
use crate::onnx::has_extension;
use crate::package::tokenizer::{GENERATION_CONFIG, checkpoint_dirs, find};
use crate::package::transformers_js::MODEL_DIR;
use crate::package::{GENAI_CONFIG, ending_tokens};
use crate::text::{ChatTemplate, Tokenizer};

/// The files of a model: those that are given, the one that a folder's `genai_config.json` names, or
/// those of the only one in a folder or in `onnx` below it.
pub fn model_files(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let [path] = given else { return Ok(given.to_vec()) };
    if !path.is_dir() {
        return Ok(given.to_vec());
    }
    let genai = path.join(GENAI_CONFIG);
    if genai.is_file() {
        let config: Value = json::parse(genai.display(), &json::read(&genai, LARGEST_CONFIG)?)?;
        if let Some(name) = config["model"]["decoder"]["filename"].as_str() {
            return Ok(vec![path.join(name)]);
        }
    }
    let models = |dir: &Path| {
        let entries = dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> = entries.filter(|path| has_extension(path)).collect();
        files.sort();
        by_model(&files)
    };
    let here = models(path)?;
    let mut found = if here.is_empty() { models(&path.join(MODEL_DIR))? } else { here };
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let below = below(path);
            let has_model = |it: &Subfolder| it.names.iter().any(|it| has_extension(it.as_ref()));
            let instead = choice(&nearest(&below, has_model), "model");
            let instead = instead.unwrap_or("export one, or name another folder".to_owned());
            bail!("`{}` holds no ONNX model: {instead}", path.display())
        }
        _ => {
            let names = listed(found.iter().map(|files| files[0].display()));
            bail!("`{}` holds several models, {names}: name one of them", path.display())
        }
    }
}

/// The folders in which a model's companions may be, the nearest first.
pub struct Companions {
    model: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Companions {
    /// A folder that is named, or else the model's folder, the root of a repository for
    /// transformers.js, and the checkpoint that the model reads in place.
    pub fn new(model: &ExportedModel, named: Option<&Path>) -> Result<Self> {
        let dir = parent_dir(&model.path);
        let mut dirs = vec![dir.to_owned()];
        if let Some(named) = named {
            let (shown, file) = (named.display(), Tokenizer::FILE);
            ensure!(named.is_dir(), "`{shown}` is no folder: name the one that has {file}");
            dirs = vec![named.to_owned()];
        } else {
            let real = fs::canonicalize(dir)?;
            dirs.extend(real.parent().filter(|_| real.ends_with(MODEL_DIR)).map(Path::to_owned));
            for tensor in model.tensors() {
                for dir in checkpoint_dirs(parent_dir(&tensor.data.file))? {
                    if !dirs.contains(&dir) {
                        dirs.push(dir);
                    }
                }
            }
        }
        Ok(Self { model: model.path.clone(), dirs })
    }

    pub fn tokenizer(&self, vocab_size: usize) -> Result<Tokenizer> {
        let path = find(&self.dirs, Tokenizer::FILE)?;
        let path = path.ok_or_else(|| self.lacks(Tokenizer::FILE, "a prompt of token ids"))?;
        Tokenizer::open(&path, vocab_size)
    }

    pub fn chat_template(&self) -> Result<ChatTemplate> {
        for dir in &self.dirs {
            if let Some(template) = ChatTemplate::read(dir)? {
                return Ok(template);
            }
        }
        let template = "chat template (chat_template.jinja, or in tokenizer_config.json)";
        Err(self.lacks(template, "the whole prompt as text"))
    }

    /// The error for a companion that no folder has, which a prompt in another form does not need.
    fn lacks(&self, companion: &str, prompt: &str) -> Error {
        let (model, dirs) = (self.model.display(), listed(self.dirs.iter().map(|it| it.display())));
        err!("`{model}` has no {companion} in {dirs}: put the checkpoint's there, name the folder that has it, or give {prompt}")
            .with_remedy(Setting::Tokenizer, "DIR")
    }

    /// Tokens that end a text; none if no file names them.
    pub fn ending_tokens(&self, vocab_size: u64) -> Result<Vec<u64>> {
        let generation = find(&self.dirs, GENERATION_CONFIG)?;
        let configs: Vec<PathBuf> = self.dirs.iter().map(|dir| dir.join(CONFIG)).collect();
        ending_tokens(parent_dir(&self.model), generation.as_deref(), &configs, vocab_size)
    }
}

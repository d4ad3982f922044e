//! The files beside a model that say what its tokens are.

use std::path::{Path, PathBuf};

use crate::checkpoint::CONFIG;
use crate::display::listed;
use crate::error::{Error, Result, Setting, err};
use crate::exported::ExportedModel;
use crate::files::{canonicalize, parent_dir};
use crate::package::ending_tokens;
use crate::package::tokenizer::{GENERATION_CONFIG, checkpoint_dirs, find, require_folder};
use crate::package::transformers_js::MODEL_DIR;
use crate::text::{ChatTemplate, Tokenizer};

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
            require_folder(named)?;
            dirs = vec![named.to_owned()];
        } else {
            let real = canonicalize(dir)?;
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

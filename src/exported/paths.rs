//! The files of models by their names: a folder stands for the model in it, a pattern for several
//! files, and those of a model in stages are `NAME.stage-1-of-4.onnx` to `NAME.stage-4-of-4.onnx`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::{LARGEST_CONFIG, Subfolder, below, choice, nearest};
use crate::display::listed;
use crate::error::{Result, bail, ensure, err};
use crate::files::{json, parent_dir};
use crate::onnx::has_extension;
use crate::package::GENAI_CONFIG;
use crate::package::transformers_js::MODEL_DIR;

/// Of a model's file.
pub const EXTENSION: &str = "onnx";

/// Existing files as they are, those of the models in folders, and those that patterns match.
pub fn expand(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in given {
        if path.is_dir() {
            found.extend(in_folder(path)?);
            continue;
        }
        let pattern = path.to_str().filter(|it| it.contains(['*', '?', '[']));
        let Some(pattern) = pattern.filter(|_| path.symlink_metadata().is_err()) else {
            found.push(path.clone());
            continue;
        };
        let matches = glob::glob(pattern).map_err(|error| {
            err!("there is no file `{pattern}`, and it is no pattern ({}): correct it", error.msg)
        })?;
        let before = found.len();
        found.extend(matches.flatten());
        ensure!(
            found.len() > before,
            "no file has a name like `{pattern}`: correct it, or name the files"
        );
    }
    Ok(found)
}

/// The files of the model that a folder's `genai_config.json` names, or else of the only one in the
/// folder or in `onnx` below it.
pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let genai = folder.join(GENAI_CONFIG);
    if genai.is_file() {
        let config: Value = json::parse(genai.display(), &json::read(&genai, LARGEST_CONFIG)?)?;
        if let Some(name) = config["model"]["decoder"]["filename"].as_str() {
            return Ok(vec![folder.join(name)]);
        }
    }
    let models = |folder: &Path| {
        let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> = entries.filter(|it| has_extension(it) && it.is_file()).collect();
        files.sort();
        by_model(&files)
    };
    let here = models(folder)?;
    let mut found = if here.is_empty() { models(&folder.join(MODEL_DIR))? } else { here };
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let below = below(folder);
            let has_model = |it: &Subfolder| it.names.iter().any(|it| has_extension(it.as_ref()));
            let instead = choice(&nearest(&below, has_model), "model");
            let instead = instead.unwrap_or("export one, or name another folder".to_owned());
            bail!("`{}` holds no ONNX model: {instead}", folder.display())
        }
        _ => {
            let names = listed(found.iter().map(|files| files[0].display()));
            bail!("`{}` holds several models, {names}: name one of them", folder.display())
        }
    }
}

/// The paths of each model, with its stages together, in the order in which they are given.
pub fn by_model(given: &[PathBuf]) -> Result<Vec<Vec<PathBuf>>> {
    let mut models: Vec<Vec<PathBuf>> = Vec::new();
    for path in expand(given)? {
        let pattern = stages_of(&path);
        let is_same = |model: &&mut Vec<PathBuf>| stages_of(&model[0]) == pattern;
        match models.iter_mut().find(is_same).filter(|_| pattern.is_some()) {
            Some(model) => model.push(path),
            None => models.push(vec![path]),
        }
    }
    Ok(models)
}

/// A pattern of the paths of all stages of a model, by the path of one; `None` for other paths.
pub fn stages_of(path: &Path) -> Option<PathBuf> {
    StageName::of(path).map(|it| it.with("*"))
}

/// The name of a stage's file.
pub struct StageName<'p> {
    pub path: &'p Path,
    name: &'p str,
    /// From 1.
    pub number: usize,
    pub of: usize,
}

impl<'p> StageName<'p> {
    /// `None` for other names.
    pub fn of(path: &'p Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
        let (name, numbers) = name.rsplit_once(".stage-")?;
        let (number, of) = numbers.split_once("-of-")?;
        Some(Self { path, name, number: number.parse().ok()?, of: of.parse().ok()? })
    }

    /// The path of another stage beside this one.
    pub fn other(&self, number: usize) -> PathBuf {
        self.with(&number.to_string())
    }

    fn with(&self, number: &str) -> PathBuf {
        let Self { path, name, of, .. } = self;
        path.with_file_name(format!("{name}.stage-{number}-of-{of}.{EXTENSION}"))
    }

    /// The files of all stages in its folder, models or others with this extension.
    pub fn beside(&self, extension: &str) -> Vec<PathBuf> {
        let entries = parent_dir(self.path).read_dir().into_iter().flatten().flatten();
        let paths = entries.map(|entry| self.path.with_file_name(entry.file_name()));
        let mut stages: Vec<PathBuf> = paths.collect();
        stages.retain(|it| it.extension().is_some_and(|it| it == extension));
        stages.retain(|it| stages_of(&it.with_extension(EXTENSION)) == Some(self.with("*")));
        stages.sort();
        stages
    }
}

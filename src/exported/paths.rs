//! The files of models by their names: a pattern stands for several, and those of a model in stages
//! are `NAME.stage-1-of-4.onnx` to `NAME.stage-4-of-4.onnx`.

use std::path::{Path, PathBuf};

use crate::error::{Result, ensure, err};
use crate::files::parent_dir;

/// Of a model's file.
pub const EXTENSION: &str = "onnx";

/// Existing paths as they are, and those that patterns match.
pub fn expand(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in given {
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

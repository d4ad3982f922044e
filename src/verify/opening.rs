//! A model's file, before it is loaded: what it says of itself, and how much of its
//! inside it is to show once it is.

use std::path::Path;

use super::model::Model;
use crate::error::{Error, Kind, Result, Setting, bail, err};
use crate::files::parent_dir;
use crate::metadata::ModelMetadata;
use crate::model::{GraphOptions, Provider, Target};
use crate::onnx::{self, OnnxFile, Size, ValueInfo};
use crate::progress::{Progress, Unit, phase};
use crate::runtime::{Library, Session};

/// A model that is about to be loaded, as often as is needed.
pub struct Opening<'r> {
    library: &'r Library,
    path: &'r Path,
    /// What the file says.
    pub description: OnnxFile,
    /// `None` for a model of another program.
    pub metadata: Option<ModelMetadata>,
}

/// What a model is to give besides its outputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// The residual stream.
    pub residuals: bool,
    /// The scores of its routers.
    pub routers: bool,
}

impl<'r> Opening<'r> {
    /// Of a model that this onnxruntime is to run.
    pub fn read(library: &'r Library, path: &'r Path) -> Result<Self> {
        let description = onnx::read(path)?;
        let metadata = ModelMetadata::read(&description.properties)?;
        let opening = Self { library, path, description, metadata };
        opening.check_files()?;
        check_version(library, opening.options().target)?;
        match opening.options().provider {
            Provider::Cpu => Ok(opening),
            other => Err(err!(
                "the model is for execution provider `{other}`, and it is verified on a CPU: verify an export for `cpu`, which has the same numbers"
            )),
        }
    }

    /// Whether the files with its weights are there.
    fn check_files(&self) -> Result<()> {
        let named = self.description.external_data();
        let mut files = named.map(|(_, external)| parent_dir(self.path).join(&external.file));
        match files.find(|file| !file.exists()) {
            Some(file) => Err(err!(
                "`{}` reads its weights from `{}`, which does not exist",
                self.path.display(),
                file.display()
            )),
            None => Ok(()),
        }
    }

    /// The options of the graph.
    pub fn options(&self) -> GraphOptions {
        self.metadata.as_ref().map(|metadata| metadata.options).unwrap_or_default()
    }

    /// That the model is none of ours.
    pub fn strange(&self, what: &str) -> Error {
        err!("`{}` has {what}: it was not written by gpt-oss-export", self.path.display())
    }

    /// Whether it can show its routers' scores.
    pub fn has_routers(&self) -> bool {
        self.metadata.as_ref().is_some_and(|it| !it.routers.is_empty())
    }

    /// What is to be seen: the residual stream if it was asked for, and where it is
    /// all that there is of most tokens.
    pub fn look(&self, trace: bool) -> Result<Look> {
        let there = self.metadata.as_ref().is_some_and(|it| !it.residuals.is_empty());
        if trace && !there {
            bail!(
                "`{}` does not list the values of its residual stream, which a trace compares: export it again with this version",
                self.path.display()
            );
        }
        let OnnxFile { inputs, outputs, .. } = &self.description;
        let takes_one = |ports: &[ValueInfo], name: &str| {
            let port = ports.iter().find(|port| port.name == name);
            matches!(port.and_then(|port| port.shape.get(1)), Some(Size::Known(1)))
        };
        let last = takes_one(outputs, "logits") && !takes_one(inputs, "input_ids");
        Ok(Look { residuals: there && (trace || last), routers: false })
    }

    /// Loads it.
    pub fn model(&self, look: Look, progress: &dyn Progress) -> Result<Model> {
        let stop = || progress.is_cancelled();
        let _loading = phase(progress, "loading the model", Unit::Seconds, 0);
        let (mut residuals, mut routers) = (Vec::new(), Vec::new());
        if let Some(metadata) = &self.metadata {
            residuals.extend(metadata.residuals.iter().filter(|_| look.residuals).cloned());
            routers.extend(metadata.routers.iter().filter(|_| look.routers).cloned());
        }
        let session = match [&residuals[..], &routers[..]].concat() {
            more if more.is_empty() => Session::open(self.library, self.path, &stop)?,
            more => {
                let edited = onnx::with_outputs(fs_err::read(self.path)?, &more);
                Session::open_edited(self.library, self.path, &edited, &stop)?
            }
        };
        let mut model = Model::new(self.path, session, self.options().target)?;
        (model.residuals, model.routers) = (residuals, routers);
        Ok(model)
    }
}

/// The onnxruntime that is to run models of a target: the one at a path, or one that
/// is found. One that is too old may compute something else and say nothing.
pub fn library(path: Option<&Path>, target: Target) -> Result<Library> {
    let library = Library::load(path)?;
    check_version(&library, target)?;
    Ok(library)
}

fn check_version(library: &Library, target: Target) -> Result<()> {
    let needed = target.oldest_onnxruntime();
    match library.version {
        Some(version) if version.0 < needed => {
            let needed = needed.map(|number| number.to_string()).join(".");
            let path = library.path.display();
            Err(err!("`{path}` is onnxruntime {version}, and a model for target `{target}` needs {needed} or newer")
                .with_kind(Kind::OldRuntime)
                .with_remedy(Setting::Onnxruntime, "PATH"))
        }
        _ => Ok(()),
    }
}

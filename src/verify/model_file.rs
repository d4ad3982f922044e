//! A model before it is loaded: its metadata, its inputs and outputs, where its weights are.

use std::ops::Range;
use std::path::Path;

use super::session::{Interface, ModelSession};
use crate::error::{Error, Kind, Result, Setting, bail, ensure, err};
use crate::files::{FileRange, parent_dir};
use crate::metadata::ModelMetadata;
use crate::model::{GraphOptions, Provider, Target};
use crate::onnx::{self, OnnxFile, StoredInitializer};
use crate::progress::{Progress, Unit, phase};
use crate::runtime::{Library, Session};

/// A model that can be loaded as often as needed.
pub struct ModelFile<'m> {
    library: &'m Library,
    path: &'m Path,
    onnx: OnnxFile,
    /// `None` for a model of another program.
    pub metadata: Option<ModelMetadata>,
    pub interface: Interface,
}

/// An initializer with external data.
pub struct ExternalTensor<'m> {
    pub stored: &'m StoredInitializer,
    /// Canonical name of the weight that it holds.
    pub weight: &'m str,
    /// The bytes of the weight that it holds; `None` for all.
    pub slice: Option<&'m Range<u64>>,
    pub data: FileRange,
}

impl<'m> ModelFile<'m> {
    /// Reads a model, and checks that its files exist and that onnxruntime runs it.
    pub fn open(library: &'m Library, path: &'m Path) -> Result<Self> {
        let onnx = onnx::read(path)?;
        let metadata = ModelMetadata::read(&onnx.properties)?;
        let interface = Interface::new(&onnx.inputs, &onnx.outputs);
        let interface = interface.map_err(|what| unexpected(path, what))?;
        let model = Self { library, path, onnx, metadata, interface };
        if let Some(missing) = model.tensors().find(|tensor| !tensor.data.file.exists()) {
            let (path, file) = (path.display(), missing.data.file.display());
            bail!("`{path}` reads its weights from `{file}`, which does not exist");
        }
        let GraphOptions { target, provider, .. } = model.options();
        check_provider(provider)?;
        check_version(library, target)?;
        Ok(model)
    }

    fn options(&self) -> GraphOptions {
        self.metadata.as_ref().map(|metadata| metadata.options).unwrap_or_default()
    }

    /// Initializers with external data, whose paths include the model's folder.
    pub fn tensors(&self) -> impl Iterator<Item = ExternalTensor<'_>> {
        self.onnx.external_data().map(|(stored, external)| {
            let metadata = self.metadata.as_ref();
            let slice = metadata.and_then(|metadata| metadata.slices.get(&stored.name));
            let file = parent_dir(self.path).join(&external.file).into();
            ExternalTensor {
                stored,
                weight: slice.map_or(&stored.name, |slice| &slice.weight),
                slice: slice.map(|slice| &slice.bytes),
                data: FileRange { file, range: external.range.clone() },
            }
        })
    }

    /// Names of the residual stream's values, if a trace was requested or the model returns
    /// few logits.
    pub fn residuals(&self, trace: bool) -> Result<Vec<String>> {
        let names = self.metadata.as_ref().map(|metadata| metadata.residuals.clone());
        let names = names.unwrap_or_default();
        ensure!(
            !trace || !names.is_empty(),
            "`{}` does not list the values of its residual stream, which a trace compares: export it again with this version",
            self.path.display()
        );
        let is_compared = trace || self.interface.signature.last;
        Ok(if is_compared { names } else { Vec::new() })
    }

    /// Loads the model with these inner values as outputs too.
    pub fn load(
        &self,
        residuals: Vec<String>,
        routers: Vec<String>,
        progress: &dyn Progress,
    ) -> Result<ModelSession> {
        let stop = || progress.is_cancelled();
        let _phase = phase(progress, "loading the model", Unit::Seconds, 0);
        let names = [&residuals[..], &routers].concat();
        let session = if names.is_empty() {
            Session::open(self.library, self.path, &stop)?
        } else {
            let edited = onnx::with_outputs(fs_err::read(self.path)?, &names);
            Session::open_edited(self.library, self.path, &edited, &stop)?
        };
        let (interface, is_packed) = (self.interface.clone(), self.options().target == Target::Ort);
        Ok(ModelSession { session, interface, residuals, routers, is_packed })
    }

    /// The error of a model that is not like ours.
    pub fn unexpected(&self, what: &str) -> Error {
        unexpected(self.path, what)
    }
}

fn unexpected(path: &Path, what: impl std::fmt::Display) -> Error {
    err!("`{}` has {what}: it was not written by gpt-oss-export", path.display())
}

pub fn check_provider(provider: Provider) -> Result<()> {
    ensure!(
        provider == Provider::Cpu,
        "a model for execution provider `{provider}` cannot be verified on a CPU: verify an export for `cpu`, which has the same weights"
    );
    Ok(())
}

/// Refuses an onnxruntime that is too old for a target: it may compute wrong logits.
pub fn check_version(library: &Library, target: Target) -> Result<()> {
    let oldest = target.oldest_onnxruntime();
    let Some(version) = library.version.filter(|version| version.0 < oldest) else {
        return Ok(());
    };
    let oldest = oldest.map(|number| number.to_string()).join(".");
    let path = library.path.display();
    Err(err!("`{path}` is onnxruntime {version}, and a model for target `{target}` needs {oldest} or newer")
        .with_kind(Kind::OldRuntime)
        .with_remedy(Setting::Onnxruntime, "PATH"))
}

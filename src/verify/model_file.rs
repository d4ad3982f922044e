//! A model before it is loaded: its metadata, and where its weights are.

use std::ops::Range;
use std::path::Path;

use super::session::{ExtraOutputs, ModelSession};
use crate::error::{Kind, Result, Setting, bail, ensure, err};
use crate::files::{FileRange, parent_dir};
use crate::metadata::ModelMetadata;
use crate::model::{GraphOptions, Provider, Target};
use crate::onnx::{self, Description, Interface, Size};
use crate::progress::{Progress, Unit, phase};
use crate::runtime::{Library, Session};
use crate::tensor::DType;

/// A model that this onnxruntime can load, as often as needed.
pub struct ModelFile<'m> {
    library: &'m Library,
    pub path: &'m Path,
    description: Description,
    /// `None` for a model of another program.
    pub metadata: Option<ModelMetadata>,
}

/// An initializer with external data.
pub struct ExternalTensor<'m> {
    pub name: &'m str,
    /// Canonical name of the weight that it holds.
    pub weight: &'m str,
    /// The weight's bytes that it holds; `None` if all.
    pub slice: Option<Range<u64>>,
    /// `None` for a dtype that no weight has.
    pub dtype: Option<DType>,
    /// Size by dtype and shape.
    pub bytes: Option<u64>,
    pub data: FileRange,
}

impl<'m> ModelFile<'m> {
    /// Reads a model, and checks that its files exist and that onnxruntime can run it.
    pub fn open(library: &'m Library, path: &'m Path) -> Result<Self> {
        let description = onnx::read(path)?;
        let metadata = ModelMetadata::read(&description.properties)?;
        let model = Self { library, path, description, metadata };
        if let Some(missing) = model.tensors().find(|tensor| !tensor.data.file.exists()) {
            let (path, file) = (path.display(), missing.data.file.display());
            bail!("`{path}` reads its weights from `{file}`, which does not exist");
        }
        let GraphOptions { target, provider, .. } = model.options();
        check_version(library, target)?;
        ensure!(
            provider == Provider::Cpu,
            "the model is for execution provider `{provider}`, and it is verified on a CPU: verify an export for `cpu`, which has the same weights"
        );
        Ok(model)
    }

    pub fn options(&self) -> GraphOptions {
        self.metadata.as_ref().map(|metadata| metadata.options).unwrap_or_default()
    }

    /// Initializers with external data; paths include the model's folder.
    pub fn tensors(&self) -> impl Iterator<Item = ExternalTensor<'_>> {
        let folder = parent_dir(self.path);
        self.description.initializers.iter().filter_map(move |stored| {
            let external = stored.external.as_ref()?;
            let slices = self.metadata.as_ref().map(|metadata| &metadata.slices);
            let slice = slices.and_then(|slices| slices.get(&stored.name));
            let bytes = stored.dtype.and_then(|dtype| dtype.bytes(&stored.shape));
            let (file, start) = (folder.join(&external.file).into(), external.offset);
            let length = external.length.or(bytes).unwrap_or_default();
            Some(ExternalTensor {
                name: &stored.name,
                weight: slice.map_or(&stored.name, |slice| &slice.weight),
                slice: slice.map(|slice| slice.bytes.clone()),
                dtype: stored.dtype,
                bytes,
                data: FileRange { file, range: start..start.saturating_add(length) },
            })
        })
    }

    /// The values of the residual stream, if a trace of them was requested, and also if the
    /// logits of most tokens are not outputs.
    pub fn residuals(&self, trace: bool) -> Result<ExtraOutputs> {
        let names = self.metadata.as_ref().map(|metadata| &metadata.residuals[..]);
        let names = names.unwrap_or_default();
        if trace && names.is_empty() {
            bail!(
                "`{}` does not list the values of its residual stream, which a trace compares: export it again with this version",
                self.path.display()
            );
        }
        let Description { inputs, outputs, .. } = &self.description;
        let is_one_token = |values: &[Interface], name: &str| {
            let value = values.iter().find(|value| value.name == name);
            matches!(value.and_then(|value| value.shape.get(1)), Some(Size::Known(1)))
        };
        let last_logits = is_one_token(outputs, "logits") && !is_one_token(inputs, "input_ids");
        let names = if trace || last_logits { names.to_vec() } else { Vec::new() };
        Ok(ExtraOutputs { residuals: names, routers: Vec::new() })
    }

    /// Names of the router scores; empty if they are unknown.
    pub fn routers(&self) -> Vec<String> {
        self.metadata.as_ref().map(|metadata| metadata.routers.clone()).unwrap_or_default()
    }

    /// Loads the model with more outputs.
    pub fn load(&self, extra: ExtraOutputs, progress: &dyn Progress) -> Result<ModelSession> {
        let stop = || progress.is_cancelled();
        let _loading = phase(progress, "loading the model", Unit::Seconds, 0);
        let names = [&extra.residuals[..], &extra.routers].concat();
        let session = if names.is_empty() {
            Session::open(self.library, self.path, &stop)?
        } else {
            let edited = onnx::with_outputs(fs_err::read(self.path)?, &names);
            Session::open_edited(self.library, self.path, &edited, &stop)?
        };
        ModelSession::new(self.path, session, self.options().target, extra)
    }
}

/// Refuses an onnxruntime that is too old: it might compute wrong logits.
pub fn check_version(library: &Library, target: Target) -> Result<()> {
    let oldest = target.oldest_onnxruntime();
    match library.version {
        Some(version) if version.0 < oldest => {
            let oldest = oldest.map(|number| number.to_string()).join(".");
            let path = library.path.display();
            Err(err!("`{path}` is onnxruntime {version}, and a model for target `{target}` needs {oldest} or newer")
                .with_kind(Kind::OldRuntime)
                .with_remedy(Setting::Onnxruntime, "PATH"))
        }
        _ => Ok(()),
    }
}

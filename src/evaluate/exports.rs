//! Exports that are made to be evaluated, in a folder that is removed afterwards.

use std::env;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::error::{Result, err};
use crate::export::{Request, Spec, export};
use crate::progress::Progress;
use crate::weights::MatrixFormat;

/// The formats of an export; those of the checkpoint where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFormats {
    /// What to call it.
    pub name: String,
    /// The format of experts.
    pub experts: Option<MatrixFormat>,
    /// The format of attention and lm_head.
    pub dense: Option<MatrixFormat>,
}

/// Models in a folder that is removed when this is dropped.
pub struct Exports {
    /// In the order of their formats.
    pub models: Vec<PathBuf>,
    _folder: TempDir,
}

impl Exports {
    /// Exports as requested, in these formats, with a cache, and logits of all tokens. Conversions
    /// may round: how much that costs is the question.
    pub fn new(base: &Request, formats: &[ExportFormats], progress: &dyn Progress) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("gpt-oss-export-").tempdir();
        let folder = folder.map_err(|error| {
            let parent = env::temp_dir();
            err!(
                "cannot create a folder for exports in `{}` (set TMPDIR to choose another)",
                parent.display()
            )
            .with_io(error)
        })?;
        let one = |formats: &ExportFormats| {
            let model = folder.path().join(&formats.name).with_extension("onnx");
            let mut request = base.clone();
            request.output = Some(model.clone());
            (request.experts, request.dense) = (formats.experts, formats.dense);
            request.accept_rounding = formats.experts.is_some() || formats.dense.is_some();
            request.kv_cache = true;
            export(&Spec::resolve(request)?, progress)?;
            Ok(model)
        };
        let models = formats.iter().map(one).collect::<Result<_>>()?;
        Ok(Self { models, _folder: folder })
    }
}

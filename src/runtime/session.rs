//! Models that onnxruntime has loaded, and tensors for them.

use std::path::Path;
use std::time::Duration;

use ::ort::ErrorCode;
use ::ort::value::{DynValue, Tensor};
use half::f16;

use super::{Library, message};
use crate::background::{StopFlag, with_background};
use crate::error::{Error, Result, bail, err};
use crate::files::{canonicalize, parent_dir};
use crate::progress::Progress;
use crate::tensor::DType;

pub struct Session(pub(super) ::ort::session::Session);

/// A tensor in the memory of onnxruntime.
pub struct TensorValue(pub(super) DynValue);

impl Session {
    /// Loads a model from its file, or from `edited` in place of it. External data is found
    /// from the folder of the file.
    pub fn open(
        library: &Library,
        model: &Path,
        edited: Option<&[u8]>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        const FOLDER: &str = "session.model_external_initializers_file_folder_path";
        let failed = |error: ::ort::Error| {
            let (path, message) = (model.display(), message(&error));
            let is_graph = error.code() == ErrorCode::InvalidGraph;
            let advice = if is_graph { " The file was changed: export again" } else { "" };
            err!("{library} cannot load `{path}`: {message}{advice}")
        };
        let builder = ::ort::session::Session::builder(library.environment()).map_err(failed)?;
        // Threads that wait busily would take the cores from what runs next, such as another stage.
        let builder = builder.with_config_entry("session.force_spinning_stop", "1");
        let mut builder = builder.map_err(|error| failed(error.into()))?;
        if edited.is_some() {
            let folder = parent_dir(&canonicalize(model)?).display().to_string();
            let configured = builder.with_config_entry(FOLDER, folder);
            builder = configured.map_err(|error| failed(error.into()))?;
        }
        let canceler = builder.canceler();
        let load = || match edited {
            Some(bytes) => builder.commit_from_memory(bytes).map_err(failed),
            None => builder.commit_from_file(model).map_err(failed),
        };
        cancellable(progress, || drop(canceler.cancel()), load).map(Self)
    }
}

/// Does work while another thread watches for cancellation, and calls `cancel` then. The work
/// may fail because of that, and the error says so.
pub(super) fn cancellable<R>(
    progress: &dyn Progress,
    cancel: impl FnOnce() + Send,
    work: impl FnOnce() -> Result<R>,
) -> Result<R> {
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    let watch = |finished: &StopFlag| {
        while !progress.is_cancelled() {
            if finished.wait_timeout(POLL_INTERVAL) {
                return;
            }
        }
        cancel();
    };
    let (outcome, ()) = with_background(watch, work)?;
    outcome.map_err(|failure| progress.check_cancelled().err().unwrap_or(failure))
}

pub(super) fn failed_run(error: ::ort::Error) -> Error {
    err!("onnxruntime cannot run the model: {}", message(&error))
}

impl TensorValue {
    pub fn i64(shape: &[usize], values: Vec<i64>) -> Result<Self> {
        let tensor = Tensor::from_array((shape, values)).map_err(failed_run)?;
        Ok(Self(tensor.into_dyn()))
    }

    pub fn f32(shape: &[usize], values: Vec<f32>) -> Result<Self> {
        let tensor = Tensor::from_array((shape, values)).map_err(failed_run)?;
        Ok(Self(tensor.into_dyn()))
    }

    /// A tensor of F32 or F16 without elements: some axis of `shape` is 0.
    pub fn empty(dtype: DType, shape: &[usize]) -> Result<Self> {
        let tensor = match dtype {
            DType::F32 => Tensor::<f32>::from_array((shape, Vec::new())).map(Tensor::into_dyn),
            DType::F16 => Tensor::<f16>::from_array((shape, Vec::new())).map(Tensor::into_dyn),
            _ => bail!("no tensor of {dtype} can be made for onnxruntime"),
        };
        Ok(Self(tensor.map_err(failed_run)?))
    }

    /// The elements of an f32 tensor, row-major.
    pub fn values(&self) -> Result<&[f32]> {
        Ok(self.0.try_extract_tensor().map_err(failed_run)?.1)
    }
}

//! A loaded model.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use ::ort::session::{NoSelectedOutputs, RunOptions, SessionInputValue};
use ::ort::value::{DynValue, Tensor};
use half::f16;

use super::{Library, Stop, message};
use crate::background::{StopFlag, with_background};
use crate::error::{Error, Result, bail, err};
use crate::files::parent_dir;
use crate::tensor::DType;

/// A loaded model.
pub struct Session(::ort::session::Session);

/// A tensor in the memory of onnxruntime.
pub struct TensorValue(DynValue);

impl Session {
    /// Loads a model from its file, or from `edited` in place of it. External data is found
    /// from the folder of the file.
    pub fn open(
        library: &Library,
        model: &Path,
        edited: Option<&[u8]>,
        stop: &Stop,
    ) -> Result<Self> {
        const FOLDER: &str = "session.model_external_initializers_file_folder_path";
        let folder = parent_dir(&model.canonicalize()?).display().to_string();
        let load = || {
            let mut builder = ::ort::session::Session::builder(library.environment())?;
            if edited.is_some() {
                builder = builder.with_config_entry(FOLDER, folder)?;
            }
            let canceler = builder.canceler();
            cancellable(
                stop,
                || drop(canceler.cancel()),
                || match edited {
                    Some(bytes) => builder.commit_from_memory(bytes),
                    None => builder.commit_from_file(model),
                },
            )
        };
        let session = load().map_err(|error| {
            let (model, reason) = (model.display(), message(&error));
            or_interrupted(stop, err!("{library} cannot load `{model}`: {reason}"))
        })?;
        Ok(Self(session))
    }

    /// Runs the model: inputs by name to outputs by name.
    pub fn run(
        &mut self,
        inputs: &[(&str, &TensorValue)],
        stop: &Stop,
    ) -> Result<HashMap<String, TensorValue>> {
        let values: Vec<(Cow<str>, SessionInputValue)> =
            inputs.iter().map(|(name, tensor)| ((*name).into(), (&tensor.0).into())).collect();
        let options = RunOptions::<NoSelectedOutputs>::new().map_err(failed_run)?;
        let cancel = || drop(options.terminate());
        let outputs = cancellable(stop, cancel, || self.0.run_with_options(values, &options));
        let outputs = outputs.map_err(|error| or_interrupted(stop, failed_run(error)))?;
        let named = |(name, value): (&str, _)| (name.to_owned(), TensorValue(value));
        Ok(outputs.into_iter().map(named).collect())
    }
}

/// Runs `work` while another thread polls `stop`, and calls `cancel` once it is true.
fn cancellable<R>(stop: &Stop, cancel: impl FnOnce() + Send, work: impl FnOnce() -> R) -> R {
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    let poll = |finished: &StopFlag| {
        while !stop() {
            if finished.wait_timeout(POLL_INTERVAL) {
                return;
            }
        }
        cancel();
    };
    with_background(poll, work).0
}

fn or_interrupted(stop: &Stop, failure: Error) -> Error {
    if stop() { Error::interrupted() } else { failure }
}

fn failed_run(error: ::ort::Error) -> Error {
    err!("onnxruntime cannot run the model: {}", message(&error))
}

impl TensorValue {
    pub fn i64(shape: &[usize], values: Vec<i64>) -> Result<Self> {
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

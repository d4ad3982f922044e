//! A loaded model.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;

use ::ort::session::builder::SessionBuilder;
use ::ort::session::{NoSelectedOutputs, RunOptions, SessionInputValue};
use ::ort::value::{DynValue, PrimitiveTensorElementType, Value};

use super::cancel::cancellable;
use super::{Library, Stop, message};
use crate::error::{Error, Result, bail, err};
use crate::files::parent_dir;
use crate::tensor::DType;

/// A loaded model.
pub struct Session {
    inner: ::ort::session::Session,
}

/// A tensor in the memory of onnxruntime.
pub struct TensorValue(DynValue);

impl Session {
    /// Loads a model from its file.
    pub fn open(library: &Library, model: &Path, stop: &Stop) -> Result<Self> {
        Self::load(library, model, stop, |builder| builder.commit_from_file(model))
    }

    /// Loads a model from `bytes` in place of its file. External data is found from the
    /// folder of the file.
    pub fn open_edited(library: &Library, model: &Path, bytes: &[u8], stop: &Stop) -> Result<Self> {
        const FOLDER: &str = "session.model_external_initializers_file_folder_path";
        let folder = parent_dir(&model.canonicalize()?).display().to_string();
        Self::load(library, model, stop, |builder| {
            builder.clone().with_config_entry(FOLDER, &folder)?.commit_from_memory(bytes)
        })
    }

    fn load(
        library: &Library,
        model: &Path,
        stop: &Stop,
        commit: impl FnOnce(&mut SessionBuilder) -> ::ort::Result<::ort::session::Session>,
    ) -> Result<Self> {
        let failed = |error: &::ort::Error| {
            let reason = message(error);
            or_interrupted(stop, || err!("{library} cannot load `{}`: {reason}", model.display()))
        };
        let builder = ::ort::session::Session::builder(library.environment());
        let mut builder = builder.map_err(|error| failed(&error))?;
        let canceler = builder.canceler();
        let inner = cancellable(stop, || drop(canceler.cancel()), || commit(&mut builder));
        Ok(Self { inner: inner.map_err(|error| failed(&error))? })
    }

    /// Runs the model: inputs by name to outputs by name.
    pub fn run(
        &mut self,
        inputs: &[(&str, &TensorValue)],
        stop: &Stop,
    ) -> Result<HashMap<String, TensorValue>> {
        let values: Vec<(Cow<str>, SessionInputValue)> =
            inputs.iter().map(|(name, tensor)| ((*name).into(), (&tensor.0).into())).collect();
        let options = RunOptions::<NoSelectedOutputs>::new().map_err(|error| failed_run(&error))?;
        let cancel = || drop(options.terminate());
        let outputs = cancellable(stop, cancel, || self.inner.run_with_options(values, &options));
        let outputs = outputs.map_err(|error| or_interrupted(stop, || failed_run(&error)))?;
        let named = |(name, value): (&str, _)| (name.to_owned(), TensorValue(value));
        Ok(outputs.into_iter().map(named).collect())
    }
}

fn or_interrupted(stop: &Stop, failure: impl FnOnce() -> Error) -> Error {
    if stop() { Error::interrupted() } else { failure() }
}

fn failed_run(error: &::ort::Error) -> Error {
    err!("onnxruntime cannot run the model: {}", message(error))
}

impl TensorValue {
    pub fn i64(shape: &[usize], values: Vec<i64>) -> Result<Self> {
        Self::new(shape, values)
    }

    /// A tensor of F32 or F16 without elements: some axis of `shape` is 0.
    pub fn empty(dtype: DType, shape: &[usize]) -> Result<Self> {
        match dtype {
            DType::F32 => Self::new(shape, Vec::<f32>::new()),
            DType::F16 => Self::new(shape, Vec::<half::f16>::new()),
            _ => bail!("no tensor of {dtype} can be made for onnxruntime"),
        }
    }

    fn new<T>(shape: &[usize], values: Vec<T>) -> Result<Self>
    where
        T: PrimitiveTensorElementType + Clone + Debug + 'static,
    {
        let tensor = Value::from_array((shape, values)).map_err(|error| failed_run(&error))?;
        Ok(Self(tensor.into_dyn()))
    }

    /// The elements of an f32 tensor, row-major.
    pub fn values(&self) -> Result<&[f32]> {
        let tensor = self.0.try_extract_tensor::<f32>().map_err(|error| failed_run(&error))?;
        Ok(tensor.1)
    }
}

//! A model that runs.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use ::ort::session::builder::SessionBuilder;
use ::ort::session::{NoSelectedOutputs, RunOptions, SessionInputValue};
use ::ort::value::{DynValue, Outlet, TensorElementType, Value};

use super::watch::watched;
use super::{Error, Library, Result, Stop, reason};

/// A loaded model.
pub struct Session {
    inner: ::ort::session::Session,
}

/// An input or output.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub kind: Kind,
    /// One entry for each axis, nothing where any size will do.
    pub shape: Vec<Option<u64>>,
}

/// An element type, of those that we can handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    F16,
    F32,
    I64,
    Other,
}

/// A tensor that goes in or comes out.
pub struct Tensor(DynValue);

impl Session {
    /// Loads a model from its file.
    pub fn open(library: &Library, model: &Path, stop: &Stop) -> Result<Self> {
        Self::load(library, model, stop, |builder| builder.commit_from_file(model))
    }

    /// Loads a model that is `bytes` instead of what is in its file; where its
    /// external data is, is seen from there.
    pub fn open_edited(library: &Library, model: &Path, bytes: &[u8], stop: &Stop) -> Result<Self> {
        const FOLDER: &str = "session.model_external_initializers_file_folder_path";
        let folder = crate::files::parent_dir(&model.canonicalize()?).display().to_string();
        Self::load(library, model, stop, |builder| {
            let mut there = builder.clone().with_config_entry(FOLDER, &folder)?;
            there.commit_from_memory(bytes)
        })
    }

    fn load(
        library: &Library,
        model: &Path,
        stop: &Stop,
        commit: impl FnOnce(&mut SessionBuilder) -> ::ort::Result<::ort::session::Session>,
    ) -> Result<Self> {
        let failed = |error: &::ort::Error| match stop() {
            true => Error::Interrupted,
            false => {
                let (model, library) = (model.to_owned(), library.to_string());
                Error::Load { model, library, reason: reason(error) }
            }
        };
        let builder = ::ort::session::Session::builder(library.environment());
        let mut builder = builder.map_err(|error| failed(&error))?;
        let canceler = builder.canceler();
        let inner = watched(stop, || drop(canceler.cancel()), || commit(&mut builder));
        Ok(Self { inner: inner.map_err(|error| failed(&error))? })
    }

    /// What it takes.
    pub fn inputs(&self) -> Vec<Port> {
        self.inner.inputs().iter().map(Port::from).collect()
    }

    /// What it gives.
    pub fn outputs(&self) -> Vec<Port> {
        self.inner.outputs().iter().map(Port::from).collect()
    }

    /// Runs it: inputs by name to outputs by name.
    pub fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        stop: &Stop,
    ) -> Result<HashMap<String, Tensor>> {
        let failed = |error: &::ort::Error| match stop() {
            true => Error::Interrupted,
            false => Error::Run(reason(error)),
        };
        let values: Vec<(Cow<str>, SessionInputValue)> =
            inputs.iter().map(|(name, tensor)| ((*name).into(), (&tensor.0).into())).collect();
        let options = RunOptions::<NoSelectedOutputs>::new().map_err(|error| failed(&error))?;
        let cancel = || drop(options.terminate());
        let outputs = watched(stop, cancel, || self.inner.run_with_options(values, &options));
        let outputs = outputs.map_err(|error| failed(&error))?;
        Ok(outputs.into_iter().map(|(name, value)| (name.to_owned(), Tensor(value))).collect())
    }
}

impl Tensor {
    /// Numbers `shape`.
    pub fn f32(shape: &[usize], numbers: Vec<f32>) -> Result<Self> {
        let tensor = Value::from_array((shape, numbers));
        Ok(Self(tensor.map_err(|error| Error::Run(reason(&error)))?.into_dyn()))
    }

    /// No numbers, in a shape of which some axis is 0.
    pub fn empty(kind: Kind, shape: &[usize]) -> Result<Self> {
        match kind {
            Kind::F16 => {
                let tensor = Value::from_array((shape, Vec::<half::f16>::new()));
                Ok(Self(tensor.map_err(|error| Error::Run(reason(&error)))?.into_dyn()))
            }
            Kind::F32 => Self::f32(shape, Vec::new()),
            Kind::I64 | Kind::Other => Self::i64(shape, Vec::new()),
        }
    }

    /// Integers `shape`.
    pub fn i64(shape: &[usize], numbers: Vec<i64>) -> Result<Self> {
        let tensor = Value::from_array((shape, numbers));
        Ok(Self(tensor.map_err(|error| Error::Run(reason(&error)))?.into_dyn()))
    }

    /// Its numbers, row by row.
    pub fn numbers(&self) -> Result<&[f32]> {
        let numbers = self.0.try_extract_tensor::<f32>();
        Ok(numbers.map_err(|error| Error::Run(reason(&error)))?.1)
    }
}

impl From<&Outlet> for Port {
    fn from(outlet: &Outlet) -> Self {
        let kind = match outlet.dtype().tensor_type() {
            Some(TensorElementType::Float16) => Kind::F16,
            Some(TensorElementType::Float32) => Kind::F32,
            Some(TensorElementType::Int64) => Kind::I64,
            _ => Kind::Other,
        };
        let shape = outlet.dtype().tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default();
        let shape = shape.into_iter().map(|size| u64::try_from(size).ok()).collect();
        Self { name: outlet.name().to_owned(), kind, shape }
    }
}

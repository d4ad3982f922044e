//! Files of adapters for a model that takes them at run time.

use std::path::PathBuf;

use fs_err as fs;

use crate::error::{Error, Result, Setting, ensure, err};
use crate::exported::ExportedModel;
use crate::files::positional::read_exact_at;
use crate::graph::Dim;
use crate::onnx::{Parameter, ValueInfo, read_adapter};
use crate::runtime::TensorValue;
use crate::tensor::DType;

/// A factor for the input of this name, in f32.
pub struct AdapterFactor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl AdapterFactor {
    /// The input and its value, once onnxruntime is loaded.
    pub fn into_input(self) -> Result<(String, TensorValue)> {
        Ok((self.name, TensorValue::f32(&self.shape, self.values)?))
    }
}

/// Reads files of adapters, each of which changes matrices of its own.
pub fn read(model: &ExportedModel, files: &[PathBuf]) -> Result<Vec<AdapterFactor>> {
    let shown = model.path.display();
    let inputs: Vec<&ValueInfo> = model.optional_inputs().collect();
    if !files.is_empty() && inputs.is_empty() {
        return Err(err!("`{shown}` takes no adapters: export it with room for them")
            .with_remedy(Setting::AdapterAs, "swappable"));
    }
    let mut factors = Vec::<AdapterFactor>::new();
    for file in files {
        let is_trained = file.is_dir() || file.extension().is_some_and(|it| it == "safetensors");
        ensure!(
            !is_trained,
            "`{}` is not an adapter file for ONNX Runtime: convert the LoRA adapter for this model with the command `adapter`",
            file.display()
        );
        let parameters = read_adapter(file)?.parameters;
        let problem = |(parameter, _): &(Parameter, _)| {
            let taken = factors.iter().any(|it| it.name == parameter.name);
            let (file, problem) = (file.display(), problem(parameter, &inputs, taken)?);
            Some(err!("adapter `{file}` is not for `{shown}`: {problem}"))
        };
        Error::all(parameters.iter().filter_map(problem))?;
        let opened = fs::File::open(file)?;
        for (Parameter { name, shape, .. }, range) in parameters {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            read_exact_at(opened.file(), &mut bytes, range.start)?;
            let values = bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
            let shape = shape.iter().map(|size| *size as usize).collect();
            factors.push(AdapterFactor { name, shape, values });
        }
    }
    Ok(factors)
}

/// Why a model with these optional inputs does not take a parameter of an adapter.
fn problem(parameter: &Parameter, inputs: &[&ValueInfo], taken: bool) -> Option<String> {
    let Parameter { name, dtype, shape } = parameter;
    if taken {
        return Some(format!("an adapter before it has `{name}` too; give one of them"));
    }
    let Some(input) = inputs.iter().find(|input| input.name == *name) else {
        return Some(format!("the model has no input `{name}`; write the adapter for this model"));
    };
    let mut sizes = input.shape.iter().zip(shape);
    let is_size = |(dim, size): (&Dim, &u64)| dim.known().is_none_or(|known| known == *size);
    let is_f32 = *dtype == Some(DType::F32) && input.dtype == DType::F32.to_string();
    if is_f32 && input.shape.len() == shape.len() && sizes.all(is_size) {
        return None;
    }
    let (dtype, expected) = (
        dtype.map_or("another type".to_owned(), |it| it.to_string()),
        ValueInfo::lines(std::slice::from_ref(*input)).collect::<String>(),
    );
    Some(format!(
        "it has `{name}` {dtype} {shape:?}, expected {expected}; write the adapter for this model"
    ))
}

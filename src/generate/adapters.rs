//! Files of adapters for a model that takes them at run time.

use std::path::PathBuf;

use fs_err as fs;

use crate::display::{also, listed};
use crate::error::{Result, Setting, bail, ensure, err};
use crate::exported::{ExportedModel, StageName};
use crate::files::canonicalize;
use crate::files::positional::read_exact_at;
use crate::graph::Dim;
use crate::onnx::{ADAPTER_EXTENSION, Parameter, ValueInfo, dtype_name, read_adapter};
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
    require_stages(files)?;
    let mut factors = Vec::<AdapterFactor>::new();
    for file in files {
        let is_trained = file.is_dir() || file.extension().is_some_and(|it| it == "safetensors");
        ensure!(
            !is_trained,
            "`{}` is not an adapter file for ONNX Runtime: convert the LoRA adapter for this model with the command `adapter`",
            file.display()
        );
        ensure!(
            file.exists(),
            "there is no file `{}`: name one that the command `adapter` wrote, which contains the adapter's weight",
            file.display()
        );
        let parameters = read_adapter(file)?.parameters;
        let problem = |(parameter, _): &(Parameter, _)| {
            let taken = factors.iter().any(|it| it.name == parameter.name);
            problem(parameter, &inputs, taken)
        };
        let problems: Vec<String> = parameters.iter().filter_map(problem).collect();
        if let [first, others @ ..] = &problems[..] {
            let also = also("unfit", others.len(), "tensor");
            bail!("adapter `{}` is not for `{shown}`: {first}{also}", file.display());
        }
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

/// Refuses the adapter of a stage without those of the other stages beside it. A stage of which the
/// adapter changes nothing has no file.
fn require_stages(files: &[PathBuf]) -> Result<()> {
    let real: Vec<_> = files.iter().map(|file| canonicalize(file).ok()).collect();
    for file in files {
        // The names of stages are those of models.
        let model = file.with_extension("onnx");
        let Some(stage) = StageName::of(&model) else { continue };
        let others = stage.beside(ADAPTER_EXTENSION);
        let lacking: Vec<_> =
            others.iter().filter(|it| !real.contains(&canonicalize(it).ok())).collect();
        ensure!(
            lacking.is_empty(),
            "`{}` is the adapter of stage {} of {} alone: give those of the other stages too, {}",
            file.display(),
            stage.number,
            stage.of,
            listed(lacking.iter().map(|it| it.display()))
        );
    }
    Ok(())
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
    let dtype = dtype_name(*dtype);
    let expected: String = ValueInfo::lines(std::slice::from_ref(*input)).collect();
    Some(format!(
        "it has `{name}` {dtype} {shape:?}, expected {expected}; write the adapter for this model"
    ))
}

//! Values that stay bound to a model's inputs and outputs from run to run.

use std::collections::HashMap;

use ::ort::memory::{Allocator, MemoryInfo};
use ::ort::session::{IoBinding, NoSelectedOutputs, RunOptions};
use ::ort::value::{DynTensor, TensorElementType};

use super::session::{Session, TensorValue, cancellable, failed_run};
use crate::error::{Result, bail};
use crate::progress::Progress;
use crate::tensor::DType;

/// A model with values for its inputs, and with memory for its outputs.
pub struct Binding {
    session: Session,
    values: IoBinding,
    /// Outputs for which each run allocates memory.
    allocated: Vec<String>,
}

impl Binding {
    /// Each run returns these outputs, in memory of its own unless they are shared.
    pub fn new(session: Session, outputs: Vec<String>) -> Result<Self> {
        let values = session.0.create_binding().map_err(failed_run)?;
        Ok(Self { session, values, allocated: outputs })
    }

    /// Gives an input a value from the next run on.
    pub fn set(&mut self, input: &str, value: &TensorValue) -> Result<()> {
        self.values.bind_input(input, &value.0).map_err(failed_run)
    }

    /// Makes one buffer of F32 or F16 an input and an output, which a run changes in place. It may
    /// have any content at first.
    pub fn share(
        &mut self,
        [input, output]: [&str; 2],
        dtype: DType,
        shape: &[usize],
    ) -> Result<()> {
        let element = match dtype {
            DType::F32 => TensorElementType::Float32,
            DType::F16 => TensorElementType::Float16,
            _ => bail!("no tensor of {dtype} can be made for onnxruntime"),
        };
        let buffer = DynTensor::new(&Allocator::default(), element, shape).map_err(failed_run)?;
        self.allocated.retain(|it| it != output);
        self.values.bind_input(input, &buffer).map_err(failed_run)?;
        self.values.bind_output(output, buffer).map_err(failed_run)
    }

    /// Runs the model: its outputs by name.
    pub fn run(&mut self, progress: &dyn Progress) -> Result<HashMap<String, TensorValue>> {
        let Self { session, values, allocated } = self;
        // Otherwise the memory of the last run is used again, whose shape may be another.
        for output in &*allocated {
            values.bind_output_to_device(output, &MemoryInfo::default()).map_err(failed_run)?;
        }
        let options = RunOptions::<NoSelectedOutputs>::new().map_err(failed_run)?;
        let run = || {
            let outputs = session.0.run_binding_with_options(values, &options);
            let named = |(name, value): (&str, _)| (name.to_owned(), TensorValue(value));
            Ok(outputs.map_err(failed_run)?.into_iter().map(named).collect())
        };
        cancellable(progress, || drop(options.terminate()), run)
    }
}

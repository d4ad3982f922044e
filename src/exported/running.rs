//! A model in onnxruntime: its stages run one after the other, each with its own caches.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::file::ModelFile;
use super::model::{ExportedModel, InnerValue};
use super::signature::{ATTENTION_MASK, Cache, INPUT_IDS, LOGITS};
use crate::error::Result;
use crate::model::Target;
use crate::onnx;
use crate::progress::{Progress, Unit, phase};
use crate::runtime::{Binding, Library, Session, TensorValue};

/// The onnxruntime that runs models for a target.
pub fn library_for(target: Target, requested: Option<&Path>) -> Result<Library> {
    Library::load_for(&format!("target `{target}`"), target.oldest_onnxruntime(), requested)
}

/// A loaded model, and what it remembers of the rows that it was given.
pub struct RunningModel<'m> {
    model: &'m ExportedModel,
    stages: Vec<RunningStage<'m>>,
}

struct RunningStage<'m> {
    inputs: HashSet<String>,
    binding: Binding,
    /// Caches that a step returns, and the next one takes; others stay in place.
    growing: Vec<&'m Cache>,
}

/// What a step returns.
pub struct StepValues(Vec<HashMap<String, TensorValue>>);

impl<'m> RunningModel<'m> {
    /// Loads a model that returns these inner values too, with factors of adapters for its optional
    /// inputs.
    pub fn load(
        model: &'m ExportedModel,
        library: &Library,
        inner: &[InnerValue],
        factors: &[(String, TensorValue)],
        progress: &dyn Progress,
    ) -> Result<Self> {
        let _phase = phase(progress, "loading the model", Unit::Seconds, 0);
        let load = |(at, file): (usize, &ModelFile)| {
            let inner = inner.iter().filter(|it| it.stage == at).map(|it| it.name.clone());
            let mut stage = RunningStage::load(file, library, inner.collect(), progress)?;
            factors.iter().try_for_each(|(name, factor)| stage.set(name, factor))?;
            Ok(stage)
        };
        let stages = model.files.iter().enumerate().map(load).collect::<Result<_>>()?;
        Ok(Self { model, stages })
    }

    /// Begins other rows, so many. With a number of `places`, each cache is a buffer for so many
    /// tokens, or for those that it keeps, which steps change in place.
    pub fn begin(&mut self, rows: usize, places: Option<usize>) -> Result<()> {
        for RunningStage { inputs, binding, growing } in &mut self.stages {
            growing.clear();
            for cache in self.model.caches.iter().filter(|it| inputs.contains(&it.past)) {
                let Cache { past, present, dtype, .. } = cache;
                let shape = |places| [rows, cache.heads, places, cache.width];
                if let Some(places) = places {
                    let places = self.model.kept_tokens(cache).unwrap_or(places);
                    binding.share([past, present], *dtype, &shape(places))?;
                } else {
                    binding.set(past, &TensorValue::empty(*dtype, &shape(0))?)?;
                    growing.push(cache);
                }
            }
        }
        Ok(())
    }

    /// Runs all stages on the next tokens of each row, `[rows, tokens]`, with the mask of all that
    /// caches hold and these.
    pub fn step(
        &mut self,
        ids: &TensorValue,
        mask: &TensorValue,
        progress: &dyn Progress,
    ) -> Result<StepValues> {
        let mut values: Vec<HashMap<String, TensorValue>> = Vec::new();
        for stage in &mut self.stages {
            stage.set(INPUT_IDS, ids)?;
            stage.set(ATTENTION_MASK, mask)?;
            // The hidden states among them.
            for (name, value) in values.last().into_iter().flatten() {
                stage.set(name, value)?;
            }
            let outputs = stage.binding.run(progress)?;
            for Cache { past, present, .. } in &stage.growing {
                stage.binding.set(past, &outputs[present])?;
            }
            values.push(outputs);
        }
        Ok(StepValues(values))
    }
}

impl RunningStage<'_> {
    fn load(
        file: &ModelFile,
        library: &Library,
        mut inner: Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let ModelFile { path, onnx, .. } = file;
        let outputs = onnx.outputs.iter().map(|it| it.name.clone());
        let outputs: Vec<String> = outputs.collect();
        inner.retain(|name| !outputs.contains(name));
        let mut edited = None;
        if !inner.is_empty() {
            edited = Some(onnx::with_outputs(fs_err::read(path)?, &inner));
        }
        let session = Session::open(library, path, edited.as_deref(), progress)?;
        let inputs = onnx.inputs.iter().chain(&onnx.optional).map(|it| it.name.clone()).collect();
        let binding = Binding::new(session, [outputs, inner].concat())?;
        Ok(Self { inputs, binding, growing: Vec::new() })
    }

    /// Gives an input a value from the next step on, if the stage has that input.
    fn set(&mut self, input: &str, value: &TensorValue) -> Result<()> {
        if self.inputs.contains(input) { self.binding.set(input, value) } else { Ok(()) }
    }
}

impl StepValues {
    /// `[rows, tokens or 1, vocab]`.
    pub fn logits(&self) -> &TensorValue {
        &self.0[self.0.len() - 1][LOGITS]
    }

    /// One of the values that were asked for at loading.
    pub fn inner(&self, InnerValue { stage, name }: &InnerValue) -> &TensorValue {
        &self.0[*stage][name]
    }
}

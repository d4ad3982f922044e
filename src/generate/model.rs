//! A model before it is loaded.

use std::path::{Path, PathBuf};

use super::companions;
use crate::display::{plural, with_thousands};
use crate::error::{Error, Result, Setting, ensure, err};
use crate::metadata::ModelMetadata;
use crate::model::{Provider, Target};
use crate::onnx::{self, OnnxFile};
use crate::runtime::Library;
use crate::signature::{Cache, Signature};
use crate::tensor::DType;

/// A model that can continue a text on this machine.
pub struct RunnableModel {
    pub path: PathBuf,
    pub onnx: OnnxFile,
    pub metadata: Option<ModelMetadata>,
    pub signature: Signature,
    pub caches: Vec<Cache>,
}

impl RunnableModel {
    /// Reads a model and refuses one that cannot continue a text on this machine.
    pub fn open(path: &Path) -> Result<Self> {
        let path = companions::model_file(path)?;
        let shown = path.display();
        let onnx = onnx::read(&path)?;
        let metadata = ModelMetadata::read(&onnx.properties)
            .map_err(|error| err!("`{shown}` cannot be run: {error}"))?;
        let (signature, caches) = Signature::of(&onnx).map_err(|what| {
            err!("`{shown}` has {what}, so it does not continue texts as models of gpt-oss-export do: export it with this program")
        })?;
        let options = metadata.as_ref().map(|it| it.options).unwrap_or_default();
        let mut errors = Vec::new();
        if options.provider != Provider::Cpu {
            let provider = options.provider;
            let error = err!(
                "`{shown}` is for the execution provider `{provider}`, and texts are generated on a CPU: export another model for that"
            );
            errors.push(error.with_remedy(Setting::Provider, "cpu"));
        }
        if options.compute == DType::BF16 {
            let error = err!(
                "`{shown}` computes in bf16, for which onnxruntime has no kernels on a CPU: export another model that computes in f32"
            );
            errors.push(error.with_remedy(Setting::Compute, "f32"));
        }
        errors.extend(onnx::require_data(&path, &onnx).err());
        Error::all(errors)?;
        Ok(Self { path, onnx, metadata, signature, caches })
    }

    /// How many tokens may follow a prompt, of which there must be one.
    pub fn room_after(&self, prompt: usize) -> Result<usize> {
        let Signature { length, cache, .. } = self.signature;
        let context = self.metadata.as_ref().and_then(|it| it.context).map(|it| it as usize);
        // One more token is made than the model is given.
        let fixed = length.filter(|_| !cache).map(|it| it.saturating_add(1));
        let longest = [context, fixed].into_iter().flatten().min().unwrap_or(usize::MAX);
        let (room, path) = (longest.saturating_sub(prompt), self.path.display());
        ensure!(
            room > 0,
            "the prompt has {}, and `{path}` takes texts of up to {}, of which one is new: shorten it",
            plural(prompt, "token"),
            with_thousands(longest as u64)
        );
        Ok(room)
    }

    pub fn target(&self) -> Target {
        self.metadata.as_ref().map(|it| it.options.target).unwrap_or_default()
    }

    /// The onnxruntime that runs it.
    pub fn library(&self, requested: Option<&Path>) -> Result<Library> {
        let target = self.target();
        let oldest = target.oldest_onnxruntime();
        Library::load_for(&format!("target `{target}`"), oldest, requested)
    }

    /// The tokens that a cache keeps, if it does not keep all.
    pub fn kept_tokens(&self, cache: &Cache) -> Option<usize> {
        let limited = self.metadata.iter().flat_map(|it| &it.limited_caches);
        let mut of_layer = limited.filter(|it| it.layers.contains(&cache.layer));
        of_layer.next().map(|it| it.tokens as usize)
    }

    /// What makes it slower, or texts longer, than they could be.
    pub fn notes(&self, ending: &[u64]) -> Vec<String> {
        let Signature { batch, length, cache, .. } = self.signature;
        let mut notes = Vec::new();
        if !cache {
            notes.push(
                "the model has no cache: each token computes the whole text again".to_owned(),
            );
        }
        if let Some(rows @ 2..) = batch {
            notes.push(format!("the model computes {rows} rows, of which one is shown"));
        }
        if let Some(length @ 2..) = length.filter(|_| cache) {
            notes.push(format!(
                "the model computes {length} tokens for each, the others are padding"
            ));
        }
        if ending.is_empty() {
            notes.push("no file beside the model names the tokens that end a text".to_owned());
        }
        notes
    }
}

//! A model before it is loaded, of one file or of several stages.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use super::file::{ExternalTensor, ModelFile, unexpected};
use super::metadata::ModelMetadata;
use super::signature::{Cache, Signature};
use super::stages;
use crate::adapter;
use crate::error::{Error, Result, ensure};
use crate::files::FileRange;
use crate::model::GraphOptions;
use crate::onnx::{self, ValueInfo};
use crate::weights::{FormatSet, PerRole, Slot, Weight};

/// A model that can be loaded as often as needed.
pub struct ExportedModel {
    /// The ONNX file, or the pattern of the names of its stages.
    pub path: PathBuf,
    /// In the order in which they run.
    pub files: Vec<ModelFile>,
    /// Of the whole model; `None` for one of another program.
    pub metadata: Option<ModelMetadata>,
    pub options: GraphOptions,
    pub signature: Signature,
    /// Layer by layer.
    pub caches: Vec<Cache>,
}

/// A value within a model.
#[derive(Clone, Debug)]
pub struct InnerValue {
    /// The stage that computes it, from 0.
    pub stage: usize,
    pub name: String,
}

impl ExportedModel {
    /// Reads a model: its file, or one or all of its stages, as paths or as patterns of paths. A
    /// stage stands for all that lie beside it.
    pub fn open(given: &[PathBuf]) -> Result<Self> {
        let files = stages::read(given)?;
        let path = stages::common_name(&files);
        let (signature, caches) = Signature::of(&files)?;
        let metadata = stages::whole(&files);
        let options = metadata.as_ref().map(|it| it.options).unwrap_or_default();
        Ok(Self { path, files, metadata, options, signature, caches })
    }

    /// Formats of its matrices; none of a model of another program.
    pub fn formats(&self) -> PerRole<FormatSet> {
        self.metadata.as_ref().map(|it| it.provenances.formats()).unwrap_or_default()
    }

    /// Refuses missing and truncated files of weights.
    pub fn require_data(&self) -> Result<()> {
        let checked = self.files.iter().map(|it| onnx::require_data(&it.path, &it.onnx));
        Error::collect(checked).map(drop)
    }

    /// What is no longer as the export left it, each as a phrase that says what to do.
    pub fn changed_data(&self) -> Vec<String> {
        let changed: BTreeSet<String> =
            self.files.iter().flat_map(ModelFile::changed_data).collect();
        changed.into_iter().collect()
    }

    /// Refuses files of weights that changed since the export.
    pub fn require_unchanged(&self) -> Result<()> {
        let changed = self.changed_data();
        ensure!(changed.is_empty(), "`{}`: {}", self.path.display(), changed.join("; "));
        Ok(())
    }

    /// Initializers with external data, of all stages.
    pub fn tensors(&self) -> impl Iterator<Item = ExternalTensor<'_>> {
        self.files.iter().flat_map(ModelFile::tensors)
    }

    /// Bytes of the graphs, and of the external data, of which those that several initializers share
    /// count once.
    pub fn bytes(&self) -> u64 {
        let ranges: HashSet<FileRange> = self.tensors().map(|it| it.data).collect();
        let graphs = self.files.iter().map(|it| it.onnx.bytes);
        graphs.chain(ranges.iter().map(FileRange::len)).sum()
    }

    /// Whether some tensors of it may hold a weight: by name, dtype and size.
    pub fn has(&self, weight: &Weight) -> bool {
        let of_it = self.tensors().filter(|it| it.weight == weight.name);
        let end = of_it.map(|it| {
            let end = it.slice.map_or(it.data.len(), |slice| slice.end);
            if it.reads_as(weight.dtype) { end } else { 0 }
        });
        end.max() == Some(weight.bytes())
    }

    /// Inputs with a default, which adapters set.
    pub fn optional_inputs(&self) -> impl Iterator<Item = &ValueInfo> {
        self.files.iter().flat_map(|it| &it.onnx.optional)
    }

    /// What a runtime may change by adapters.
    pub fn slots(&self) -> Vec<Slot> {
        self.files.iter().flat_map(|it| adapter::slots_of(&it.onnx)).collect()
    }

    /// Values that hold the residual stream: the embedding, then after each layer.
    pub fn residuals(&self) -> Vec<InnerValue> {
        self.inner(|metadata| &metadata.residuals)
    }

    /// Values that hold router scores, layer by layer.
    pub fn routers(&self) -> Vec<InnerValue> {
        self.inner(|metadata| &metadata.routers)
    }

    fn inner(&self, names: impl Fn(&ModelMetadata) -> &Vec<String>) -> Vec<InnerValue> {
        let of_file = |(stage, file): (usize, &ModelFile)| -> Vec<InnerValue> {
            let names = file.metadata.iter().flat_map(&names);
            names.map(|name| InnerValue { stage, name: name.clone() }).collect()
        };
        self.files.iter().enumerate().flat_map(of_file).collect()
    }

    /// The layers of each stage; none of a model that is whole in one file.
    pub fn stage_layers(&self) -> Vec<Range<usize>> {
        let stages = self.files.iter().filter_map(ModelFile::stage);
        stages.map(|it| it.layers.clone()).collect()
    }

    /// The tokens that a cache keeps, if it does not keep all.
    pub fn kept_tokens(&self, cache: &Cache) -> Option<usize> {
        let limited = self.metadata.iter().flat_map(|it| &it.limited_caches);
        let mut of_layer = limited.filter(|it| it.layers.contains(&cache.layer));
        of_layer.next().map(|it| it.tokens as usize)
    }

    /// The error of a model that is not like ours.
    pub fn unexpected(&self, what: impl std::fmt::Display) -> Error {
        unexpected(&self.path, what)
    }
}

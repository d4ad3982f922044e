//! A model before it is loaded: its metadata, its inputs and outputs, where its weights are.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::inputs::Inputs;
use super::prepare::prepare;
use crate::adapter;
use crate::error::{Error, Result, ensure, err};
use crate::files::{FileRange, parent_dir};
use crate::metadata::{ModelMetadata, WeightSlice};
use crate::model::GraphOptions;
use crate::onnx::{self, OnnxFile, StoredInitializer};
use crate::runtime::Library;
use crate::signature::{Cache, Signature};
use crate::tensor::DType;
use crate::weights::{Slot, Weight};

/// A model that can be loaded as often as needed.
pub struct ModelFile<'m> {
    pub path: &'m Path,
    pub library: Library,
    onnx: OnnxFile,
    /// `None` for a model of another program.
    pub metadata: Option<ModelMetadata>,
    pub options: GraphOptions,
    pub signature: Signature,
    pub caches: Vec<Cache>,
}

/// An initializer with external data.
pub struct ExternalTensor<'m> {
    pub stored: &'m StoredInitializer,
    /// Canonical name of the weight that it holds.
    pub weight: &'m str,
    /// The bytes of the weight that it holds; `None` for all.
    pub slice: Option<&'m Range<u64>>,
    pub data: FileRange,
}

impl ExternalTensor<'_> {
    /// Whether it holds a weight of a dtype. Dtypes that operators do not know are bytes to them.
    pub fn reads_as(&self, expected: DType) -> bool {
        let stored = self.stored.dtype;
        match expected {
            DType::U8 | DType::F8E8M0 | DType::F8E4M3 | DType::F8E5M2 => {
                stored.is_none_or(|dtype| dtype.size() == 1)
            }
            dtype => stored == Some(dtype),
        }
    }
}

impl<'m> ModelFile<'m> {
    /// Reads a model, and checks that its files exist and that it can be verified.
    pub fn open(
        path: &'m Path,
        tolerance: Option<f64>,
        onnxruntime: Option<&Path>,
    ) -> Result<Self> {
        let onnx = onnx::read(path)?;
        let metadata = ModelMetadata::read(&onnx.properties)?;
        let (signature, caches) = Signature::of(&onnx).map_err(|what| unexpected(path, what))?;
        let options = metadata.as_ref().map(|metadata| metadata.options).unwrap_or_default();
        let formats = metadata.as_ref().map(|it| it.provenances.formats()).unwrap_or_default();
        let library = prepare(&options, &formats, None, tolerance, onnxruntime)?;
        let model = Self { path, library, onnx, metadata, options, signature, caches };
        onnx::require_data(path, &model.onnx)?;
        Ok(model)
    }

    /// The files of its data that are no longer those of the export, each as a phrase that says
    /// what to do.
    pub fn changed_data(&self) -> Vec<String> {
        let Some(metadata) = &self.metadata else { return Vec::new() };
        let change = |(file, ranges): (String, Vec<FileRange>)| {
            let path = parent_dir(self.path).join(&file);
            let change = onnx::data_change(&path, &ranges, metadata.data.get(&file)?)?;
            Some(format!("its data `{file}`: {change}"))
        };
        self.onnx.external_files().into_iter().filter_map(change).collect()
    }

    /// Weights whose bytes are in the model's own file, where programs store them that save a model
    /// anew.
    pub fn inline_weights(&self) -> impl Iterator<Item = &str> {
        let inline = self.onnx.initializers.iter().filter(|it| it.external.is_none());
        inline.map(|stored| self.slice(stored).map_or(&*stored.name, |slice| &slice.weight))
    }

    fn slice(&self, stored: &StoredInitializer) -> Option<&WeightSlice> {
        self.metadata.as_ref()?.slices.get(&stored.name)
    }

    /// Initializers with external data, whose paths include the model's folder.
    pub fn tensors(&self) -> impl Iterator<Item = ExternalTensor<'_>> {
        self.onnx.external_data().map(|(stored, external)| {
            let slice = self.slice(stored);
            let file = parent_dir(self.path).join(&external.file).into();
            ExternalTensor {
                stored,
                weight: slice.map_or(&stored.name, |slice| &slice.weight),
                slice: slice.map(|slice| &slice.bytes),
                data: FileRange { file, range: external.range.clone() },
            }
        })
    }

    /// Bytes of its external data, those that several initializers share once.
    pub fn external_bytes(&self) -> u64 {
        let ranges: HashSet<FileRange> = self.tensors().map(|it| it.data).collect();
        ranges.iter().map(FileRange::len).sum()
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

    /// What a runtime may change by adapters.
    pub fn slots(&self) -> Vec<Slot> {
        adapter::slots_of(&self.onnx)
    }

    /// Names of the residual stream's values, if a trace was requested or a model of ours returns
    /// few of the inputs' logits.
    pub fn residuals(&self, trace: bool, inputs: &Inputs) -> Result<&[String]> {
        let names = self.metadata.as_ref().map_or(&[][..], |metadata| &metadata.residuals);
        let has_few = inputs.compared < inputs.lengths.iter().sum();
        let is_compared = trace || self.metadata.is_some() && has_few;
        ensure!(
            !is_compared || !names.is_empty(),
            "`{}` does not list the values of its residual stream, which a trace compares: export it again with this version",
            self.path.display()
        );
        Ok(if is_compared { names } else { &[] })
    }
}

/// The error of a model that is not like ours.
pub fn unexpected(path: &Path, what: impl std::fmt::Display) -> Error {
    err!(
        "`{}` has {what}, so gpt-oss-export did not write it as it is: export again, and verify that model",
        path.display()
    )
}

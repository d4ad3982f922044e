//! A model before it is loaded: its metadata, its inputs and outputs, where its weights are.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::inputs::Inputs;
use super::prepare::prepare;
use super::steps::Signature;
use crate::adapter;
use crate::error::{Error, Result, ensure, err};
use crate::files::{FileRange, parent_dir};
use crate::metadata::{ModelMetadata, WeightSlice};
use crate::model::GraphOptions;
use crate::onnx::{self, OnnxFile, StoredInitializer, ValueInfo};
use crate::runtime::Library;
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

/// The keys or values of a layer.
pub struct Cache {
    pub past: String,
    pub present: String,
    pub heads: usize,
    pub width: usize,
    /// F32 or F16.
    pub dtype: DType,
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
        let (signature, caches) = interface(&onnx).map_err(|what| unexpected(path, what))?;
        let options = metadata.as_ref().map(|metadata| metadata.options).unwrap_or_default();
        let formats = metadata.as_ref().map(|it| it.provenances.formats()).unwrap_or_default();
        let library = prepare(&options, &formats, None, tolerance, onnxruntime)?;
        let model = Self { path, library, onnx, metadata, options, signature, caches };
        model.require_data()?;
        Ok(model)
    }

    /// Refuses missing and truncated data, which onnxruntime would report without a file's name.
    fn require_data(&self) -> Result<()> {
        let problem = |(file, ranges): (String, Vec<FileRange>)| {
            let file = parent_dir(self.path).join(file);
            let needed = ranges.iter().map(|it| it.range.end).max().unwrap_or(0);
            let (path, problem) = (self.path.display(), onnx::data_problem(&file, needed)?);
            Some(err!("`{path}` cannot read its weights from `{}`: {problem}", file.display()))
        };
        Error::all(self.onnx.external_files().into_iter().filter_map(problem))
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

const PAST: &str = "past_key_values";

/// What the inputs and outputs of a model of ours are. An error says what it would not have.
fn interface(OnnxFile { inputs, outputs, .. }: &OnnxFile) -> Result<(Signature, Vec<Cache>)> {
    for input in inputs {
        let is_known = match &*input.name {
            "input_ids" | "attention_mask" => is_of(input, DType::I64, 2),
            name if name.starts_with(PAST) => {
                is_of(input, DType::F32, 4) || is_of(input, DType::F16, 4)
            }
            _ => false,
        };
        ensure!(is_known, "an unknown input `{}` {}", input.name, input.dtype);
    }
    let input = |name: &str| inputs.iter().find(|input| input.name == name);
    let ids = input("input_ids").ok_or_else(|| err!("no input `input_ids`"))?;
    let [batch, length] = [size(ids, 0), size(ids, 1)];
    ensure!(batch != Some(0) && length != Some(0), "an input `input_ids` without tokens");
    let past = inputs.iter().filter(|input| input.name.starts_with(PAST));
    let caches = past.map(|past| Cache::new(past, outputs)).collect::<Result<Vec<_>>>()?;
    let (cache, mask) = (!caches.is_empty(), input("attention_mask").is_some());
    ensure!(mask || !cache, "a cache and no input `attention_mask`");
    let logits = outputs.iter().find(|it| it.name == "logits" && is_of(it, DType::F32, 3));
    let logits = logits.ok_or_else(|| err!("no output `logits` f32 [rows, tokens, vocab]"))?;
    let vocab = size(logits, 2).ok_or_else(|| err!("logits of unknown number"))? as u64;
    let last = size(logits, 1) == Some(1) && length != Some(1);
    Ok((Signature { batch, length, cache, mask, last, vocab }, caches))
}

impl Cache {
    fn new(past: &ValueInfo, outputs: &[ValueInfo]) -> Result<Self> {
        let present = past.name.replacen(PAST, "present", 1);
        let has_present = outputs.iter().any(|output| output.name == present);
        ensure!(has_present, "no output `{present}`");
        let known =
            |axis| size(past, axis).ok_or_else(|| err!("a symbolic size in `{}`", past.name));
        let dtype = if is_of(past, DType::F16, 4) { DType::F16 } else { DType::F32 };
        Ok(Self { past: past.name.clone(), present, heads: known(1)?, width: known(3)?, dtype })
    }
}

fn is_of(value: &ValueInfo, dtype: DType, rank: usize) -> bool {
    value.dtype == dtype.to_string() && value.shape.len() == rank
}

/// The size of an axis; `None` if it is symbolic.
fn size(value: &ValueInfo, axis: usize) -> Option<usize> {
    value.shape[axis].known().map(|size| size as usize)
}

/// The error of a model that is not like ours.
pub fn unexpected(path: &Path, what: impl std::fmt::Display) -> Error {
    err!(
        "`{}` has {what}, so gpt-oss-export did not write it as it is: export again, and verify that model",
        path.display()
    )
}

//! A model before it is loaded: its metadata, its inputs and outputs, where its weights are.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::inputs::{InputOptions, Inputs, Signature};
use crate::error::{Error, Kind, Result, Setting, ensure, err};
use crate::files::{FileRange, parent_dir};
use crate::metadata::ModelMetadata;
use crate::model::{GraphOptions, Provider};
use crate::onnx::{self, OnnxFile, StoredInitializer, ValueInfo};
use crate::runtime::Library;
use crate::tensor::DType;
use crate::weights::{FormatSet, PerRole};

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
        let library = prepare(&options, &formats, tolerance, onnxruntime)?;
        let model = Self { path, library, onnx, metadata, options, signature, caches };
        model.require_data()?;
        Ok(model)
    }

    /// Refuses missing and truncated data, which onnxruntime would report without a file's name.
    fn require_data(&self) -> Result<()> {
        let mut needed: BTreeMap<Arc<Path>, u64> = BTreeMap::new();
        for ExternalTensor { data, .. } in self.tensors() {
            let end = needed.entry(data.file).or_default();
            *end = data.range.end.max(*end);
        }
        let problem = |(file, needed): (&Arc<Path>, &u64)| {
            let what = match fs::metadata(file) {
                Err(_) => "which does not exist".to_owned(),
                Ok(status) if !status.is_file() => "which is not a regular file".to_owned(),
                Ok(status) if status.len() < *needed => {
                    format!("which has {} bytes, and the model reads up to {needed}", status.len())
                }
                Ok(_) => return None,
            };
            let (path, file) = (self.path.display(), file.display());
            Some(err!(
                "`{path}` reads its weights from `{file}`, {what}: restore the file, or export again"
            ))
        };
        Error::all(needed.iter().filter_map(problem))
    }

    /// Initializers with external data, whose paths include the model's folder.
    pub fn tensors(&self) -> impl Iterator<Item = ExternalTensor<'_>> {
        self.onnx.external_data().map(|(stored, external)| {
            let metadata = self.metadata.as_ref();
            let slice = metadata.and_then(|metadata| metadata.slices.get(&stored.name));
            let file = parent_dir(self.path).join(&external.file).into();
            ExternalTensor {
                stored,
                weight: slice.map_or(&stored.name, |slice| &slice.weight),
                slice: slice.map(|slice| &slice.bytes),
                data: FileRange { file, range: external.range.clone() },
            }
        })
    }

    /// Names of the residual stream's values, if a trace was requested or a model of ours returns
    /// few logits.
    pub fn residuals(&self, trace: bool) -> Result<&[String]> {
        let names = self.metadata.as_ref().map_or(&[][..], |metadata| &metadata.residuals);
        let is_compared = trace || self.metadata.is_some() && self.signature.last;
        ensure!(
            !is_compared || !names.is_empty(),
            "`{}` does not list the values of its residual stream, which a trace compares: export it again with this version",
            self.path.display()
        );
        Ok(if is_compared { names } else { &[] })
    }
}

const PAST: &str = "past_key_values";
/// The errors of rounding activations, as docs/formats.md measured them.
const SCALE: &str = "for scale, on random weights with logits up to 5.2 activations in 8 bits were off by up to 2.7, and BF16 throughout by 3.2";

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
    err!("`{}` has {what}: it was not written by gpt-oss-export", path.display())
}

/// Returns the onnxruntime that can verify a model. Refuses a model that is not for a CPU, has fixed
/// sizes that are too large, or needs a tolerance and has none, and refuses if no suitable
/// onnxruntime is found. `formats` are those of its matrices, converted or stored.
pub fn prepare(
    options: &GraphOptions,
    formats: &PerRole<FormatSet>,
    tolerance: Option<f64>,
    onnxruntime: Option<&Path>,
) -> Result<Library> {
    let GraphOptions { target, provider, compute, .. } = *options;
    ensure!(
        provider == Provider::Cpu,
        "a model for execution provider `{provider}` cannot be verified on a CPU: export the same checkpoint once more, for execution provider `cpu` and in the same formats, and verify that model, which has the same values"
    );
    ensure!(
        compute != DType::BF16,
        "a model that computes in bf16 cannot be verified: onnxruntime has no kernels for it on a CPU; verify an export that computes in f32, which has the same weights"
    );
    // A model of fixed sizes may be too large, whatever the checkpoint.
    let size = |size: Option<u64>| size.map(|size| size as usize);
    let signature = Signature {
        batch: size(options.batch),
        length: size(options.length),
        cache: options.has_cache(),
        mask: options.has_mask(),
        last: options.last_logits,
        vocab: 1,
    };
    Inputs::new(signature, InputOptions::default(), [0, usize::MAX])?;
    // Only a requested tolerance fits a model that rounds while it computes.
    let rounding = options.rounding(formats);
    if tolerance.is_none() && !rounding.is_empty() {
        return Err(err!(
            "there is no default tolerance for the model: {}; an export that computes in f32 with activations in float needs none, and for this one choose the largest error of a logit that you accept: {SCALE}",
            rounding.join("; ")
        )
        .with_remedy(Setting::Tolerance, "X"));
    }
    let library = Library::load(onnxruntime)?;
    let oldest = target.oldest_onnxruntime();
    // An older one may compute wrong logits.
    if library.version_numbers().is_some_and(|version| version < oldest) {
        let (path, oldest) = (library.path.display(), oldest.map(|it| it.to_string()).join("."));
        let needed = format!("a model for target `{target}` needs {oldest} or newer");
        return Err(err!("`{path}` is {library}, and {needed}")
            .with_kind(Kind::OldRuntime)
            .with_remedy(Setting::Onnxruntime, "PATH"));
    }
    Ok(library)
}

//! The checkpoint that a model is compared with, in the formats of the model.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::adapters::{self, ModelAdapters};
use super::prepare::prepare;
use super::request::VerifyRequest;
use super::tolerance::Tolerance;
use crate::adapter::{self, AdapterFile, AdapterSource};
use crate::checkpoint::{Checkpoint, ModelWeights};
use crate::display::listed;
use crate::error::{Error, Result, ensure};
use crate::exported::{ExportedModel, ModelMetadata};
use crate::files::FileRange;
use crate::hub;
use crate::onnx;
use crate::progress::Progress;
use crate::reference::{self, EncodedNumbers, Encoding, ReadOptions, ReferenceModel};
use crate::runtime::Library;
use crate::tensor::DType;
use crate::tensor::ints::Bits;
use crate::weights::{
    Faults, Fingerprint, FormatSet, Matrix, MatrixFormat, PerRole, Role, Samples, Weight, Zeros,
};

/// Whether a model was made from the checkpoint, by the fingerprint in its metadata.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
#[allow(missing_docs)]
pub enum Identity {
    /// It was.
    Same,
    /// It was, with matrices converted to these formats.
    Converted(PerRole<FormatSet>),
    /// It was not, or the checkpoint changed since.
    Different { model: Fingerprint, checkpoint: Fingerprint },
    /// The model has no fingerprint.
    Unknown,
}

/// A model, and the checkpoint that it is compared with.
pub struct Subject<'r> {
    request: &'r VerifyRequest,
    pub model: ExportedModel,
    pub library: Library,
    /// In the formats and with the layers and adapters of the model.
    pub checkpoint: Checkpoint,
    pub adapters: ModelAdapters,
    pub identity: Identity,
    /// Weights of the checkpoint that seem to be of zeros alone.
    pub zeros: Zeros,
    pub tolerance: Tolerance,
}

impl<'r> Subject<'r> {
    /// Opens both, and the adapters.
    pub fn open(request: &'r VerifyRequest, progress: &dyn Progress) -> Result<Self> {
        let VerifyRequest { models, checkpoint: source, tolerance, ignored, .. } = request;
        hub::require_path(source)?;
        ensure!(
            !onnx::has_extension(source),
            "`{}` is an ONNX model, and the checkpoint that a model was made from is expected: exchange the two paths if {} is the checkpoint",
            source.display(),
            listed(models.iter().map(|it| it.display()))
        );
        let files = request.adapters.iter().map(|AdapterSource { path, .. }| {
            hub::require_path(path)?;
            AdapterFile::open(path, ignored)
        });
        let (files, ignored) = adapter::all_opened(files, ignored);
        let opened = Checkpoint::open_any(source, &ignored);
        let (files, (mut checkpoint, recorded)) = Error::both(files, opened)?;
        let model = ExportedModel::open(models)?;
        let (formats, onnxruntime) = (model.formats(), request.onnxruntime.as_deref());
        let shown = format!("`{}`", model.path.display());
        let library = prepare(&shown, &model.options, &formats, None, *tolerance, onnxruntime)?;
        model.require_data()?;
        let given = (&request.adapters[..], request.adapter_layout);
        let adapters = adapters::add(&mut checkpoint, &model, given, &files, progress)?;
        let (identity, zeros) = match_model(&mut checkpoint, recorded, &model)?;
        let metadata = model.metadata.as_ref();
        let tolerance = Tolerance::new(metadata, &checkpoint.provenances, *tolerance);
        Ok(Self { request, model, library, checkpoint, adapters, identity, zeros, tolerance })
    }

    /// Reads what the model should compute, with the checkpoint's values or, where the export
    /// rounded them, the model's own.
    pub fn read_reference(&self, with_own_values: bool) -> Result<ReferenceModel> {
        let Self { request, model, checkpoint, adapters, .. } = self;
        let mut read = ReadOptions {
            layers: Some(checkpoint.config.num_layers()),
            ignored_keys: &request.ignored.config_keys,
            ignored_tensors: &request.ignored.tensors,
            adapters: adapters.to_read.clone(),
            are_merged: adapters.records.iter().any(|it| it.merged),
            ..ReadOptions::default()
        };
        if with_own_values {
            read.replaced = values_of(checkpoint, model);
        }
        reference::read(&request.checkpoint, &read)
    }
}

/// Reduces a checkpoint, whose file may record a fingerprint, to the layers of the model, merges
/// adapters if the model has them merged, converts its matrices to the model's formats, and tells
/// whether the model was made from it, and which of its weights seem to be of zeros alone.
fn match_model(
    checkpoint: &mut Checkpoint,
    recorded: Option<Fingerprint>,
    model: &ExportedModel,
) -> Result<(Identity, Zeros)> {
    let (vocab, all) = (checkpoint.config.vocab_size, checkpoint.layers_there);
    let (metadata, shown) = (model.metadata.as_ref(), model.path.display());
    let layers = metadata.map_or(all, |metadata| metadata.layers);
    ensure!(
        model.signature.vocab == vocab,
        "`{shown}` has a vocabulary of {} tokens, the checkpoint of {vocab}: give the checkpoint that the model was made from",
        model.signature.vocab
    );
    ensure!(
        layers <= all,
        "`{shown}` has {layers} layers, the checkpoint {all}: give the checkpoint that the model was made from"
    );
    checkpoint.truncate(layers)?;
    // A model that adapters may change has q, k and v apart.
    if model.tensors().any(|it| it.weight.starts_with("layers.0.attn.q.")) {
        checkpoint.split_qkv();
    }
    let Some(metadata) = metadata else {
        return Ok((Identity::Unknown, checkpoint.samples()?.faults.zeros));
    };
    // Otherwise some of them would not be compared.
    for (names, expected, what) in [
        (&metadata.residuals, layers + 1, "values of the residual stream"),
        (&metadata.routers, layers, "values of router scores"),
    ] {
        if ![0, expected].contains(&names.len()) {
            let found = format!("{} {what} for {layers} layers", names.len());
            return Err(model.unexpected(found));
        }
    }
    // A staged file may have them in its values.
    if metadata.adapters.iter().any(|it| it.merged && !checkpoint.adapters.contains(it)) {
        merge(checkpoint, model, metadata)?;
    }
    let Samples { fingerprint: found, faults: Faults { zeros, .. } } = checkpoint.samples()?;
    convert(checkpoint, model, metadata);
    if has_f32_for_bf16(checkpoint, model) {
        checkpoint.replace_bf16(DType::F32)?;
    }
    let identity = match &metadata.fingerprint {
        None => Identity::Unknown,
        Some(wanted) if found == *wanted || layers == all && recorded.as_ref() == Some(wanted) => {
            Identity::Same
        }
        Some(wanted) if checkpoint.samples()?.fingerprint == *wanted => {
            Identity::Converted(checkpoint.provenances.formats())
        }
        Some(wanted) => Identity::Different { model: wanted.clone(), checkpoint: found },
    };
    Ok((identity, zeros))
}

/// Where the model's files have the values of converted matrices, by canonical names. The
/// comparison of bytes tells whether they are what the conversion makes.
fn values_of(checkpoint: &Checkpoint, model: &ExportedModel) -> HashMap<String, EncodedNumbers> {
    let tensors = model.tensors().filter(|it| it.slice.is_none_or(|slice| slice.start == 0));
    // Slices of one weight are contiguous.
    let starts: HashMap<&str, FileRange> = tensors.map(|it| (it.weight, it.data)).collect();
    let place = |weight: &Weight| {
        let FileRange { file, range } = starts.get(&*weight.name)?;
        let range = range.start..range.start.saturating_add(weight.bytes());
        Some(FileRange { file: file.clone(), range })
    };
    let values = |matrix: &Matrix| {
        let encoding = match matrix.format {
            MatrixFormat::Mxfp4 => Encoding::Mxfp4,
            MatrixFormat::Nvfp4 => Encoding::Nvfp4,
            MatrixFormat::Int(Bits::Four) => Encoding::Int4,
            MatrixFormat::Int(Bits::Eight) => Encoding::Int8,
            MatrixFormat::Int4x2 => Encoding::Int4x2,
            MatrixFormat::Int8x2 => Encoding::Int8x2 { columns: matrix.inn },
            MatrixFormat::Float(dtype) => Encoding::Float(dtype),
            MatrixFormat::FloatTransposed(_) => return None,
        };
        let parts = matrix.parts.iter().map(place).collect::<Option<_>>()?;
        Some((matrix.path.clone(), EncodedNumbers { encoding, parts }))
    };
    let matrices = Role::ALL.into_iter().flat_map(|role| checkpoint.weights.matrices(role));
    matrices.filter(|matrix| matrix.conversion().is_some()).filter_map(values).collect()
}

/// Folds what adapters change into the values, in formats in which the model has the matrices that they
/// change, or in f32 if it has them in none.
fn merge(
    checkpoint: &mut Checkpoint,
    model: &ExportedModel,
    metadata: &ModelMetadata,
) -> Result<()> {
    let f32 = MatrixFormat::Float(DType::F32);
    let mut formats = PerRole { experts: f32, dense: f32 };
    for role in Role::ALL {
        let has_format =
            |it: &MatrixFormat| metadata.provenances[role].format.contains(|of| of == *it);
        for format in MatrixFormat::TARGETS.into_iter().filter(has_format) {
            let (mut merged, mut tried) = (checkpoint.clone(), formats);
            tried[role] = format;
            if merged.merge(&tried, true).is_ok() && has_merged(model, &merged, role) {
                formats = tried;
            }
        }
    }
    checkpoint.merge(&formats, true)
}

/// Whether a model may have the merged matrices of a role as a checkpoint has them.
fn has_merged(model: &ExportedModel, checkpoint: &Checkpoint, role: Role) -> bool {
    let mut merged = checkpoint.weights.matrices(role).filter(|it| it.is_merged());
    merged.all(|it| it.parts.iter().all(|part| model.has(part)))
}

/// Converts matrices to the formats of the model. If that is not possible, the model was made
/// from another checkpoint, and its bytes will differ.
fn convert(checkpoint: &mut Checkpoint, model: &ExportedModel, metadata: &ModelMetadata) {
    let names: HashSet<&str> = model.tensors().map(|tensor| tensor.weight).collect();
    for role in Role::ALL {
        let format = &metadata.provenances[role].format;
        let is_same = *format == checkpoint.weights.formats(role)
            && has_names_of(&names, &checkpoint.weights, role);
        let target = format.common().filter(|target| MatrixFormat::TARGETS.contains(target));
        if let Some(target) = target.filter(|_| !is_same) {
            let mut converted = checkpoint.clone();
            if converted.convert(role, target, true).is_ok() {
                *checkpoint = converted;
            }
        }
    }
}

/// Whether a model has values in f32 that the checkpoint has in bf16.
fn has_f32_for_bf16(checkpoint: &Checkpoint, model: &ExportedModel) -> bool {
    let in_f32: HashSet<&str> =
        model.tensors().filter(|it| it.reads_as(DType::F32)).map(|it| it.weight).collect();
    let mut weights = checkpoint.weights.iter();
    weights.any(|it| it.dtype == DType::BF16 && in_f32.contains(&*it.name))
}

/// Whether a model has matrices under the names that they have in the checkpoint: formats do
/// not tell a transposed matrix, nor an lm_head that is no longer the embedding.
fn has_names_of(model: &HashSet<&str>, weights: &ModelWeights, role: Role) -> bool {
    let mut names = weights.matrices(role).flat_map(|it| &it.parts).map(|weight| &*weight.name);
    let is_lm_head = |name: &&str| name.starts_with("lm_head.");
    let has_own_lm_head = || weights.lm_head.is_none() && model.iter().any(is_lm_head);
    names.all(|name| model.contains(name)) && !(role == Role::Dense && has_own_lm_head())
}

//! Whether a model computes what its checkpoint says: the model in onnxruntime and a reference
//! get the same tokens, and logits are compared; weights are compared byte for byte.

mod activations;
mod adapters;
mod inputs;
mod model_file;
mod prepare;
mod report;
mod session;
mod subject;
mod tolerance;
mod verifier;
mod weights;

use std::path::PathBuf;
use std::time::Instant;

pub use activations::{LogitDifferences, Stage, Trace};
pub use inputs::{InputOptions, Inputs};
pub use prepare::prepare;
pub use report::Report;
pub use subject::Identity;
pub use tolerance::{Tolerance, ToleranceSource};
pub use verifier::{Comparison, Followed, Seconds, Ties};
pub use weights::WeightDifferences;

pub use crate::reference::{ExpertCoverage, Position, Tie};
pub use crate::runtime::Library;

use crate::adapter::{self, AdapterFile, AdapterSource, FactorOrder};
use crate::checkpoint::{Checkpoint, IgnoredNames};
use crate::error::{Error, Kind, Result, Setting, ensure};
use crate::hub;
use crate::memory;
use crate::onnx;
use crate::progress::Progress;
use crate::reference::{self, ReadOptions};
use adapters::ModelAdapters;
use inputs::limits;
use model_file::ModelFile;
use session::ModelSession;
use verifier::{Verifier, lap};

/// A model to verify, and how.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct VerifyRequest {
    pub model: PathBuf,
    /// The folder of the checkpoint that it was made from, or a staged file.
    pub checkpoint: PathBuf,
    /// The adapters that it was exported with, in any order.
    pub adapters: Vec<AdapterSource>,
    /// How adapters store the factors of experts, where their files do not tell.
    pub adapter_layout: Option<FactorOrder>,
    pub ignored: IgnoredNames,
    pub inputs: InputOptions,
    /// The largest absolute difference of logits; the default of the model if `None`.
    pub tolerance: Option<f64>,
    /// onnxruntime's library or its folder; searched for if `None`.
    pub onnxruntime: Option<PathBuf>,
    /// Compare the residual stream after each layer too.
    pub trace: bool,
}

/// Runs a model and the reference, and compares them.
pub fn verify(request: &VerifyRequest, progress: &dyn Progress) -> Result<Report> {
    let VerifyRequest { model: path, checkpoint: source, tolerance: requested, .. } = request;
    hub::require_path(source)?;
    ensure!(
        !onnx::has_extension(source),
        "`{}` is an ONNX model, and the checkpoint that a model was made from is expected: exchange the two paths if `{}` is the checkpoint",
        source.display(),
        path.display()
    );
    let files = request.adapters.iter().map(|AdapterSource { path, .. }| {
        hub::require_path(path)?;
        AdapterFile::open(path, &request.ignored)
    });
    let (files, ignored) = adapter::all_opened(files, &request.ignored);
    let opened = Checkpoint::open_any(source, &ignored);
    let (files, (mut checkpoint, recorded)) = Error::both(files, opened)?;
    let model = ModelFile::open(path, *requested, request.onnxruntime.as_deref())?;
    let given = (&request.adapters[..], request.adapter_layout);
    let adapters = adapters::add(&mut checkpoint, &model, given, &files, progress)?;
    let ModelAdapters { records: adapters, to_read, factors } = adapters;
    let (identity, zeros) = subject::match_model(&mut checkpoint, recorded, &model)?;
    let tolerance = Tolerance::new(model.metadata.as_ref(), &checkpoint.provenances, *requested);

    let mut read = ReadOptions {
        layers: Some(checkpoint.config.num_layers()),
        ignored_keys: &request.ignored.config_keys,
        ignored_tensors: &request.ignored.tensors,
        adapters: to_read,
        are_merged: adapters.iter().any(|it| it.merged),
        ..ReadOptions::default()
    };
    if tolerance.from == ToleranceSource::ModelValues {
        read.replaced = subject::values_of(&checkpoint, &model);
    }
    let reference = reference::read(source, &read)?;

    let mut inputs = Inputs::new(model.signature, request.inputs, limits(&checkpoint.config))?;
    let new_rows = reference.embedding.new_rows.iter().flat_map(|it| &it.tokens);
    inputs.include(new_rows.map(|token| *token as u32));

    let inner = model.residuals(request.trace)?.to_vec();
    let residuals = inner.len();
    let (mut seconds, mut clock) = (Seconds::default(), Instant::now());
    let session = ModelSession::load(&model, &inputs, &factors, inner, progress)?;
    seconds.load = lap(&mut clock);
    let weights = weights::compare(&model, &checkpoint, progress)?;
    seconds.weights = lap(&mut clock);
    let reference = &reference;
    let comparison = Verifier { reference, session, residuals, tolerance, seconds }.run();
    let comparison = comparison.map_err(|error| to_scan(error, request))?;

    let mut changed_data = model.changed_data();
    if changed_data.is_empty() && matches!(identity, Identity::Same | Identity::Converted(_)) {
        changed_data.extend(weights.changes());
    }
    let weights_pass = requested.is_some() || weights.is_none();
    Ok(Report {
        model: path.clone(),
        checkpoint: source.clone(),
        layout: checkpoint.layout.clone(),
        layers: checkpoint.config.num_layers(),
        layers_there: checkpoint.layers_there,
        ignored: checkpoint.ignored.clone(),
        adapters,
        identity,
        zeros,
        changed_data,
        runtime: model.library.clone(),
        texts: inputs,
        passed: comparison.passed() && weights_pass,
        weights,
        comparison,
        peak_rss: memory::peak_rss(),
    })
}

/// The same error with what may be damaged, if that is why.
fn to_scan(error: Error, request: &VerifyRequest) -> Error {
    if error.kind() != Kind::Damaged {
        return error;
    }
    let adapters = request.adapters.iter().map(|it| &it.path);
    let sources = std::iter::once(&request.checkpoint).chain(adapters);
    error.with_remedies(sources.map(|it| (Setting::Scan, it.display().to_string())).collect())
}

//! Whether a model computes what its checkpoint says: the model in onnxruntime and a reference
//! get the same tokens, and logits are compared; weights are compared byte for byte.

mod inputs;
mod logits;
mod model_file;
mod report;
mod residuals;
mod session;
mod subject;
mod tolerance;
mod verifier;
mod weights;

use std::path::{Path, PathBuf};
use std::time::Instant;

pub use inputs::{InputOptions, Inputs};
pub use logits::LogitDifferences;
pub use report::Report;
pub use residuals::{Stage, Trace};
pub use subject::Identity;
pub use tolerance::{Tolerance, ToleranceSource};
pub use verifier::{Comparison, Followed, Seconds, Ties};
pub use weights::WeightDifferences;

pub use crate::reference::{ExpertCoverage, Position, Tie};
pub use crate::runtime::Library;

use crate::checkpoint::IgnoredNames;
use crate::error::Result;
use crate::model::GraphOptions;
use crate::progress::Progress;
use crate::weights::{FormatSet, PerRole};
use model_file::{ModelFile, check_provider, check_version};
use session::ModelSession;
use tolerance::check_default_tolerance;
use verifier::{Verifier, lap};

/// A model to verify, and how.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct VerifyRequest {
    pub model: PathBuf,
    /// The folder of the checkpoint that it was made from, or a staged file.
    pub checkpoint: PathBuf,
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
    let (mut checkpoint, claimed) = subject::open(&request.checkpoint, &request.ignored)?;
    let library = Library::load(request.onnxruntime.as_deref())?;
    let model = ModelFile::open(&library, &request.model)?;
    let identity = subject::match_model(&mut checkpoint, claimed, &model)?;
    let provenances = &checkpoint.provenances;
    let tolerance = Tolerance::new(model.metadata.as_ref(), provenances, request.tolerance)?;

    let config = &checkpoint.config;
    let window = config.windows.iter().flatten().max().copied().unwrap_or_default();
    let limits = [window as usize, config.rope.context() as usize];
    let signature = model.interface.signature;
    let inputs = Inputs::new(signature, request.inputs, limits, config.vocab_size)?;

    let names = model.residuals(request.trace)?;
    let residuals = names.len();
    let (mut seconds, mut clock) = (Seconds::default(), Instant::now());
    let session = ModelSession::load(&model, names, progress)?;
    seconds.load = lap(&mut clock);
    let weights = weights::compare(&model, &checkpoint, progress)?;
    seconds.weights = lap(&mut clock);
    if tolerance.from == ToleranceSource::ModelValues {
        subject::take_values_from(&mut checkpoint, &model);
    }
    let mut verifier = Verifier {
        checkpoint: &checkpoint,
        session,
        residuals,
        inputs: &inputs,
        tolerance,
        seconds,
        progress,
    };
    let comparison = verifier.run()?;
    let seconds = verifier.seconds;

    let is_whole = request.tolerance.is_some() || weights.faults().next().is_none();
    Ok(Report {
        model: request.model.clone(),
        checkpoint: request.checkpoint.clone(),
        layout: checkpoint.layout,
        layers: checkpoint.config.num_layers(),
        layers_there: checkpoint.layers_there,
        identity,
        runtime: library.clone(),
        texts: inputs,
        passed: comparison.passed() && is_whole,
        weights,
        comparison,
        seconds,
        peak_rss: report::peak_rss(),
    })
}

/// Refuses a model that could not be verified, before it is exported: it is not for a CPU, it
/// has no default tolerance and none is requested, or no suitable onnxruntime is found.
/// `formats` are those that its matrices will have.
pub fn prepare(
    options: &GraphOptions,
    formats: &PerRole<FormatSet>,
    tolerance: Option<f64>,
    onnxruntime: Option<&Path>,
) -> Result<()> {
    check_provider(options.provider)?;
    if tolerance.is_none() {
        check_default_tolerance(options, formats)?;
    }
    check_version(&Library::load(onnxruntime)?, options.target)
}

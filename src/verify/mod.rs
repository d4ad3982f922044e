//! Whether a model computes what its checkpoint says: the model in onnxruntime and a reference
//! get the same tokens, and logits are compared; weights are compared byte for byte.

mod inputs;
mod logits;
mod model_file;
mod report;
mod residuals;
mod session;
mod subject;
mod ties;
mod tolerance;
mod verifier;
mod weights;

use std::path::{Path, PathBuf};

pub use inputs::{InputOptions, Position};
pub use logits::LogitDifferences;
pub use report::{Inputs, Report, Runtime};
pub use residuals::{Stage, Trace};
pub use subject::Identity;
pub use ties::{Flip, Followed, Ties};
pub use tolerance::{Tolerance, ToleranceSource};
pub use verifier::{Comparison, ExpertCoverage, Seconds};
pub use weights::WeightDifferences;

use crate::checkpoint::{Config, IgnoredNames};
use crate::error::Result;
use crate::model::GraphOptions;
use crate::progress::Progress;
use crate::runtime::Library;
use crate::weights::{FormatSet, PerRole};
use inputs::{ContextLimits, InputPlan};
use model_file::{ModelFile, check_provider, check_version};
use subject::Subject;
use tolerance::check_default_tolerance;
use verifier::{Verifier, timed};

/// A model to verify, and how.
#[derive(Clone, Debug, Default)]
pub struct VerifyRequest {
    /// The ONNX file.
    pub model: PathBuf,
    /// The folder of the checkpoint that it was made from, or a staged file.
    pub checkpoint: PathBuf,
    /// Names of unknown things in the checkpoint that are allowed.
    pub ignored: IgnoredNames,
    /// The tokens that the model is given.
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
    let mut subject = Subject::open(&request.checkpoint, &request.ignored)?;
    let library = Library::load(request.onnxruntime.as_deref())?;
    let model = ModelFile::open(&library, &request.model)?;
    let identity = subject.match_model(&model)?;
    let provenances = &subject.checkpoint.provenances;
    let source = ToleranceSource::new(model.metadata.as_ref(), provenances, request.tolerance)?;

    let (signature, config) = (model.interface.signature, &subject.checkpoint.config);
    let plan = InputPlan::new(signature, request.inputs, limits(config))?;
    let tokens = plan.random_tokens(config.vocab_size, request.inputs.seed);

    let mut seconds = Seconds::default();
    let residuals = model.residuals(request.trace)?;
    let load = || model.load(residuals, Vec::new(), progress);
    let session = timed(&mut seconds.load, load)?;
    let compare = || weights::compare(&model, &subject.checkpoint, progress);
    let weights = timed(&mut seconds.weights, compare)?;
    if source == ToleranceSource::ModelValues {
        subject.take_values_from(&model);
    }
    let (checkpoint, requested) = (&subject.checkpoint, request.tolerance);
    let (model, plan) = (&model, &plan);
    let mut verifier =
        Verifier { checkpoint, model, session, plan, tokens, source, requested, seconds, progress };
    let comparison = verifier.run()?;

    Ok(Report {
        model: request.model.clone(),
        checkpoint: request.checkpoint.clone(),
        layout: checkpoint.layout,
        layers: checkpoint.config.num_layers(),
        layers_there: checkpoint.layers_there,
        identity,
        runtime: Runtime {
            version: library.version.map(|version| version.to_string()),
            path: library.path.clone(),
        },
        texts: Inputs::new(plan, request.inputs.seed, signature.last),
        passed: comparison.passed() && (requested.is_some() || weights.faults().next().is_none()),
        weights,
        comparison,
        seconds: verifier.seconds,
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

fn limits(config: &Config) -> ContextLimits {
    let window = config.windows.iter().flatten().max().copied().unwrap_or_default();
    ContextLimits { window: window as usize, context: config.rope.context() as usize }
}

//! Whether a model computes what its checkpoint says: the model in onnxruntime and a reference
//! get the same tokens, and logits are compared; weights are compared byte for byte.

mod adapters;
mod expert_use;
mod inputs;
mod logits;
mod prepare;
mod quality;
mod report;
mod request;
mod session;
mod steps;
mod subject;
mod tolerance;
mod trace;
mod verifier;
mod weights;
mod windows;

use std::time::Instant;

pub use expert_use::ExpertUse;
pub use inputs::Inputs;
pub use logits::LogitDifferences;
pub use prepare::prepare;
pub use quality::{KlDivergence, TextQuality};
pub use report::Report;
pub use request::{InputOptions, TextSource, VerifyRequest};
pub use subject::Identity;
pub use tolerance::{Tolerance, ToleranceSource};
pub use trace::{Stage, Trace};
pub use verifier::{Comparison, Followed, Seconds, Ties};
pub use weights::WeightDifferences;

pub use crate::reference::{ExpertCoverage, Position, Tie};
pub use crate::runtime::Library;
pub use crate::statistics::Estimate;

use crate::error::{Error, Kind, Result, Setting, ensure};
use crate::exported::{ExportedModel, InnerValue};
use crate::memory;
use crate::progress::Progress;
use crate::reference::ReferenceModel;
use inputs::limits;
use verifier::Verifier;

pub(crate) use logits::LogitComparison;
pub(crate) use quality::Prediction;
pub(crate) use session::ModelSession;
pub(crate) use subject::Subject;
pub(crate) use verifier::lap;
pub(crate) use windows::Windows;

/// Runs a model and the reference, and compares them.
pub fn verify(request: &VerifyRequest, progress: &dyn Progress) -> Result<Report> {
    let subject = Subject::open(request, progress)?;
    let tolerance = subject.tolerance;
    let reference = subject.read_reference(tolerance.from == ToleranceSource::ModelValues)?;
    let Subject { model, checkpoint, adapters, identity, zeros, .. } = &subject;
    let inputs = inputs_of(request, &subject, &reference)?;
    let inner = residuals(model, request.trace, &inputs)?;
    let residuals = inner.len();
    let (mut seconds, mut clock) = (Seconds::default(), Instant::now());
    let session = ModelSession::load(&subject, &inputs, inner, progress)?;
    seconds.load = lap(&mut clock);
    let weights = weights::compare(model, checkpoint, progress)?;
    seconds.weights = lap(&mut clock);
    let reference = &reference;
    let comparison = Verifier { reference, session, residuals, tolerance, seconds }.run();
    let comparison = comparison.map_err(|error| to_scan(error, request))?;

    let mut changed_data = model.changed_data();
    if changed_data.is_empty() && matches!(identity, Identity::Same | Identity::Converted(_)) {
        changed_data.extend(weights.changes());
    }
    let weights_pass = request.tolerance.is_some() || weights.is_none();
    Ok(Report {
        model: model.path.clone(),
        stages: model.stage_layers(),
        checkpoint: request.checkpoint.clone(),
        layout: checkpoint.layout.clone(),
        layers: checkpoint.config.num_layers(),
        layers_there: checkpoint.layers_there,
        ignored: checkpoint.ignored.clone(),
        adapters: adapters.records.clone(),
        identity: identity.clone(),
        zeros: zeros.clone(),
        changed_data,
        runtime: subject.library.clone(),
        texts: inputs,
        passed: comparison.passed() && weights_pass,
        weights,
        comparison,
        peak_rss: memory::peak_rss(),
    })
}

/// The values of the residual stream, if a trace was requested or a model of ours returns few of the
/// inputs' logits.
fn residuals(model: &ExportedModel, trace: bool, inputs: &Inputs) -> Result<Vec<InnerValue>> {
    let has_few = inputs.compared < inputs.lengths.iter().sum();
    if !trace && (model.metadata.is_none() || !has_few) {
        return Ok(Vec::new());
    }
    let values = model.residuals();
    ensure!(
        !values.is_empty(),
        "`{}` does not list the values of its residual stream, which a trace compares: export it again with this version",
        model.path.display()
    );
    Ok(values)
}

/// Random tokens, or the windows of a text.
fn inputs_of(
    request: &VerifyRequest,
    subject: &Subject,
    reference: &ReferenceModel,
) -> Result<Inputs> {
    let signature = subject.model.signature;
    if let Some(text) = &request.text {
        let (folder, config) = (&request.checkpoint, &subject.checkpoint.config);
        let windows = Windows::read(text, folder, config, request.inputs.tokens)?;
        return Inputs::of_text(signature, &windows);
    }
    let limits = limits(&subject.checkpoint.config);
    let mut inputs = Inputs::random(signature, request.inputs, limits)?;
    let new_rows = reference.embedding.new_rows.iter().flat_map(|it| &it.tokens);
    inputs.include(new_rows.map(|token| *token as u32));
    Ok(inputs)
}

/// Recommends scans if the error is that values are damaged.
fn to_scan(error: Error, request: &VerifyRequest) -> Error {
    if error.kind() != Kind::Damaged {
        return error;
    }
    let adapters = request.adapters.iter().map(|it| &it.path);
    let sources = std::iter::once(&request.checkpoint).chain(adapters);
    error.with_remedies(sources.map(|it| (Setting::Scan, it.display().to_string())).collect())
}

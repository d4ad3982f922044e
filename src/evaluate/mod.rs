//! Several exports of one checkpoint on one text: how far each is from the reference, how large
//! and how fast. The reference goes through the text once; models are loaded one after the other.

mod candidate;
mod exports;
mod page;
mod plots;
mod summary;

use std::path::PathBuf;
use std::time::Instant;

pub use candidate::Candidate;
pub use exports::{ExportFormats, Exports};
pub use page::write_report;
pub use summary::{Evaluation, ReferenceSummary};

use crate::adapter::{AdapterSource, FactorOrder};
use crate::checkpoint::IgnoredNames;
use crate::error::{Error, Result, ensure};
use crate::exported::by_model;
use crate::progress::Progress;
use crate::reference::{self, PassOptions};
use crate::verify::{ExpertUse, Inputs, Subject, TextSource, VerifyRequest, Windows, lap};

/// Exports to evaluate, and on which text.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct EvaluateRequest {
    /// Models of one checkpoint: ONNX files, stages of one, or patterns.
    pub models: Vec<PathBuf>,
    /// The folder of the checkpoint, or a staged file.
    pub checkpoint: PathBuf,
    /// The adapters that all models have.
    pub adapters: Vec<AdapterSource>,
    /// How adapters store the factors of experts, where their files do not tell.
    pub adapter_layout: Option<FactorOrder>,
    pub ignored: IgnoredNames,
    pub text: TextSource,
    /// Tokens of a window.
    pub tokens: Option<usize>,
    /// onnxruntime's library or its folder; searched for if `None`.
    pub onnxruntime: Option<PathBuf>,
}

impl EvaluateRequest {
    /// What opens one of the models. Each is measured, however far it is from the checkpoint.
    fn of_model(&self, models: Vec<PathBuf>) -> VerifyRequest {
        VerifyRequest {
            models,
            checkpoint: self.checkpoint.clone(),
            adapters: self.adapters.clone(),
            adapter_layout: self.adapter_layout,
            ignored: self.ignored.clone(),
            tolerance: Some(f64::INFINITY),
            onnxruntime: self.onnxruntime.clone(),
            ..VerifyRequest::default()
        }
    }
}

/// Runs the reference and all models on the text.
pub fn evaluate(request: &EvaluateRequest, progress: &dyn Progress) -> Result<Evaluation> {
    let models = by_model(&request.models)?.into_iter();
    let opened: Vec<VerifyRequest> = models.map(|it| request.of_model(it)).collect();
    let subjects = Error::collect(opened.iter().map(|it| Subject::open(it, progress)))?;
    let first = subjects.first().ok_or_else(|| Error::new("no model was given to evaluate"))?;
    Error::collect(subjects.iter().map(|it| it.model.require_unchanged()))?;
    for other in &subjects {
        let layers = [first, other].map(|it| it.checkpoint.config.num_layers());
        ensure!(
            layers[0] == layers[1] && first.adapters.records == other.adapters.records,
            "`{}` and `{}` compute different things, as they have other layers or adapters: evaluate one after the other",
            first.model.path.display(),
            other.model.path.display()
        );
    }
    let config = &first.checkpoint.config;
    let windows = Windows::read(&request.text, &request.checkpoint, config, request.tokens)?;
    let of_text = |it: &Subject| {
        it.model.signature.check_row(windows.rows[0].len(), config.rope.context() as usize)?;
        Inputs::of_text(it.model.signature, &windows)
    };
    let inputs = Error::collect(subjects.iter().map(of_text))?;

    let mut clock = Instant::now();
    let model = first.read_reference(false)?;
    // The stream is compared in the first rows alone.
    let traced_rows = subjects.iter().filter_map(|it| it.model.signature.batch).max().unwrap_or(1);
    let options = PassOptions { traced_rows, ..PassOptions::default() };
    let expected = reference::run(&model, &windows.rows, &options, progress)?;
    let seconds = lap(&mut clock);
    let measured = subjects.iter().zip(&inputs);
    let measured = measured.map(|(it, inputs)| Candidate::measure(it, inputs, &expected, progress));
    let candidates = measured.collect::<Result<Vec<_>>>()?;
    let summary = ReferenceSummary {
        seconds,
        experts: expected.coverage(),
        expert_use: ExpertUse::new(&expected),
    };
    Ok(Evaluation::new(&request.checkpoint, &windows, first.library.clone(), summary, candidates))
}

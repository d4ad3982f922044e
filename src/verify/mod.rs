//! Whether a model computes what its checkpoint says: texts go through onnxruntime
//! and through the reference, and logits are compared.

mod compare;
mod formats;
mod identity;
mod memory;
mod model;
mod opening;
mod own;
mod plan;
mod report;
mod routing;
mod run;
mod text;
mod tolerance;
mod trace;
mod weights;

use std::path::PathBuf;
use std::time::Instant;

pub use compare::{Differences, Position};
pub use identity::Identity;
use opening::library;
pub use report::{Coverage, Flip, Followed, Report, Runtime, Seconds, Texts, Ties};
use tolerance::check_promise;
pub use tolerance::{Source, Tolerance};
pub use trace::{Stage, Trace};
pub use weights::Bytes;

use crate::checkpoint::{Config, IgnoredNames};
use crate::error::Result;
use crate::progress::Progress;
use crate::runtime::Library;
use opening::Opening;
use plan::{Asked, Plan, Reach};
use run::Run;
use tolerance::Promise;

/// What to verify, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The ONNX file.
    pub model: PathBuf,
    /// The folder of the checkpoint that it was made from, or a staged file.
    pub checkpoint: PathBuf,
    /// Names to overlook in the checkpoint.
    pub ignored: IgnoredNames,
    /// Tokens of the longest text; past the sliding window otherwise.
    pub tokens: Option<usize>,
    /// Texts at once; otherwise 3 where the model takes a mask, else 1.
    pub batch: Option<usize>,
    /// How many of the tokens come one by one, after the others.
    pub decode: Option<usize>,
    /// Which random tokens.
    pub seed: u64,
    /// The largest absolute difference allowed; what the model promises otherwise.
    pub tolerance: Option<f64>,
    /// onnxruntime's library; one that is found otherwise.
    pub onnxruntime: Option<PathBuf>,
    /// Compare the residual stream after each layer too.
    pub trace: bool,
}

/// Refuses a verification of an export's model that cannot be done, before anything is
/// written: another provider than a CPU, no default tolerance, no usable onnxruntime.
pub fn prepare(
    spec: &crate::export::Spec,
    tolerance: Option<f64>,
    onnxruntime: Option<&std::path::Path>,
) -> Result<()> {
    let Some(options) = spec.graph() else { return Ok(()) };
    if options.provider != crate::model::Provider::Cpu {
        crate::error::bail!(
            "a model for execution provider `{}` cannot be verified on a CPU: verify an export for `cpu`, which has the same numbers",
            options.provider
        );
    }
    if tolerance.is_none() {
        check_promise(options, spec.formats())?;
    }
    library(onnxruntime, options.target)?;
    Ok(())
}

/// Runs a model and the reference, and compares them.
pub fn verify(request: &Request, progress: &dyn Progress) -> Result<Report> {
    // What is quickly found wrong comes before what takes long.
    let opened = identity::open(&request.checkpoint, &request.ignored)?;
    let library = Library::load(request.onnxruntime.as_deref())?;
    let opening = Opening::read(&library, &request.model)?;
    let look = opening.look(request.trace)?;
    let loading = Instant::now();
    let model = opening.model(look, progress)?;
    let seconds = Seconds { load: loading.elapsed().as_secs_f64(), ..Seconds::default() };
    let (checkpoint, made, identity) = identity::settle(opened, &opening, &model)?;
    let promise = Promise::of(&opening, &checkpoint.provenances, request.tolerance)?;
    let comparing = Instant::now();
    let bytes = weights::compare(&request.model, &opening.description, &made, progress)?;
    let seconds = Seconds { weights: comparing.elapsed().as_secs_f64(), ..seconds };
    let asked = Asked { tokens: request.tokens, batch: request.batch, decode: request.decode };
    let plan = Plan::new(model.form, asked, reach(&checkpoint.config))?;
    let texts = random_texts(&plan, checkpoint.config.vocab_size, request.seed);
    let own = own::own(&made, &request.model, &opening.description);
    let checkpoint = if promise == Promise::OwnNumbers { &own } else { &checkpoint };
    let plan = &plan;
    let mut run = Run { checkpoint, plan, texts, promise, opening, model, seconds };
    let (outcome, followed) = routing::follow(&mut run, progress)?;
    Ok(Report {
        model: request.model.clone(),
        checkpoint: request.checkpoint.clone(),
        layout: checkpoint.layout,
        layers: checkpoint.config.num_layers(),
        layers_there: checkpoint.layers_there,
        identity,
        runtime: Runtime::of(&library),
        texts: Texts::new(plan, run.model.form.last, request.seed),
        experts: Coverage {
            used: outcome.experts_used,
            there: checkpoint.config.experts.iter().sum(),
            limit: checkpoint.config.swiglu_limit,
            limited: outcome.limited,
        },
        passed: outcome.passed() && (bytes.agree() || outcome.tolerance.from == Source::Asked),
        weights: bytes,
        logits: outcome.logits,
        tolerance: outcome.tolerance,
        ties: Ties::new(&outcome.ties, followed, plan),
        trace: outcome.trace,
        seconds: run.seconds,
        peak_rss: memory::peak(),
    })
}

fn reach(config: &Config) -> Reach {
    let window = config.windows.iter().flatten().max().copied().unwrap_or_default();
    Reach { window: window as usize, context: config.rope.context() as usize }
}

/// Tokens for each row, the same for one seed.
fn random_texts(plan: &Plan, vocab: u64, seed: u64) -> Vec<Vec<u32>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = |length: &usize| (0..*length).map(|_| random.u64(0..vocab) as u32).collect();
    plan.lengths.iter().map(&mut text).collect()
}

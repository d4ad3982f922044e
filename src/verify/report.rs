//! The result of a verification, for programs and for people.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::inputs::InputPlan;
use super::logits::LogitDifferences;
use super::residuals::{Stage, Trace};
use super::subject::Identity;
use super::ties::{Flip, Followed, Ties};
use super::tolerance::{FACTOR, Tolerance, ToleranceSource};
use super::weights::WeightDifferences;
use crate::display::{Table, plural, size, with_thousands};
use crate::runtime::Library;

/// The result of a verification.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The ONNX file.
    pub model: PathBuf,
    /// The checkpoint's folder, or a staged file.
    pub checkpoint: PathBuf,
    /// The checkpoint's layout.
    pub layout: &'static str,
    /// Layers of the model.
    pub layers: usize,
    /// Layers of the checkpoint.
    pub layers_there: usize,
    /// Whether the model was made from this checkpoint.
    pub identity: Identity,
    /// What ran the model.
    pub runtime: Runtime,
    /// What the model was given.
    pub texts: Inputs,
    /// The comparison of its weights.
    pub weights: WeightDifferences,
    /// The experts that were used; nothing is known of the others.
    pub experts: ExpertCoverage,
    /// Whether logits are within the tolerance and, unless that was requested, the residual
    /// stream departs nowhere and all weights are the checkpoint's.
    pub passed: bool,
    /// The comparison of logits.
    pub logits: LogitDifferences,
    /// How far logits may differ.
    pub tolerance: Tolerance,
    /// Choices of experts that float32 does not decide.
    pub ties: Ties,
    /// The comparison of the residual stream, if it was requested or most logits are unknown.
    pub trace: Option<Trace>,
    /// Wall time.
    pub seconds: Seconds,
    /// The most bytes in memory at once, mapped files included; `None` if unknown.
    pub peak_rss: Option<u64>,
}

/// An onnxruntime.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Runtime {
    pub version: Option<String>,
    pub path: PathBuf,
}

/// The tokens that the model was given.
#[derive(Clone, Debug, Serialize)]
pub struct Inputs {
    /// Tokens of each row.
    pub lengths: Vec<usize>,
    /// Decode steps of one token.
    pub decoded: usize,
    /// All steps.
    pub steps: usize,
    /// Positions whose logits were compared.
    pub compared: usize,
    /// Seed of the random tokens.
    pub seed: u64,
    #[serde(skip)]
    last_logits: bool,
}

/// How many experts were used, over all layers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExpertCoverage {
    /// Experts that some token used.
    pub used: usize,
    /// All experts.
    pub there: u64,
    /// SwiGLU's limit.
    pub limit: f64,
    /// Whether some value reached the limit: otherwise it is not tested.
    pub limited: bool,
}

/// Wall time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Of the reference and of comparing with it.
    pub reference: f64,
    /// Of comparing weights.
    pub weights: f64,
    /// Of loading the model.
    pub load: f64,
    /// Of running the model.
    pub run: f64,
}

/// Adds the time that some work takes to `seconds`.
pub(super) fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *seconds += started.elapsed().as_secs_f64();
    result
}

/// The most bytes that this process had in memory at once, as Linux reports it.
pub(super) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

impl Inputs {
    pub(super) fn new(plan: &InputPlan, last_logits: bool, seed: u64) -> Self {
        Self {
            lengths: plan.lengths.clone(),
            decoded: plan.decoded,
            steps: plan.steps.len(),
            compared: plan.steps.iter().map(|step| step.compared().len()).sum(),
            seed,
            last_logits,
        }
    }
}

impl Runtime {
    pub(super) fn new(library: &Library) -> Self {
        let version = library.version.map(|version| version.to_string());
        Self { version, path: library.path.clone() }
    }
}

impl Report {
    /// What is wrong with the model, as a sentence.
    pub fn departure(&self) -> String {
        let mut faults = Vec::new();
        let bound = self.tolerance.bound;
        if self.logits.max > bound {
            let [max, bound] = [self.logits.max, bound].map(number);
            faults.push(format!("logits differ by {max}, and {bound} is allowed"));
        } else if let Some((trace, first)) = self.trace.as_ref().and_then(|t| Some((t, t.first?))) {
            let Stage { relative, bound, .. } = trace.stages[first];
            let ([relative, bound], stage) = ([relative, bound].map(number), stage_name(first));
            faults.push(format!(
                "the residual stream departs in {stage} by {relative} of a token's largest value, and {bound} is allowed"
            ));
        }
        let WeightDifferences { different, missing, unknown, .. } = &self.weights;
        for (names, what) in [
            (different, "bytes differ from the checkpoint's in"),
            (missing, "the model lacks, or has only parts of,"),
            (unknown, "the checkpoint has no weights for"),
        ] {
            if !names.is_empty() {
                faults.push(format!("{what} {}", first_names(names)));
            }
        }
        format!("`{}`: {}", self.model.display(), faults.join("; "))
    }

    fn verdict(&self) -> &'static str {
        match (self.passed, self.tolerance.from) {
            (true, ToleranceSource::Float32) => "the model computes what the checkpoint says",
            (true, ToleranceSource::ModelValues) => {
                "the model computes what its own values say, which are the checkpoint's, rounded"
            }
            (true, ToleranceSource::Requested) => "the model is within the tolerance",
            (false, _) => "the model does not compute what the checkpoint says",
        }
    }

    fn add_identity(&self, table: &mut Table) {
        match &self.identity {
            Identity::Same => table,
            Identity::Converted { experts, dense } => table.note(format!(
                "the model has experts in {experts} and dense matrices in {dense}"
            )),
            Identity::Different { model, checkpoint } => table.note(format!(
                "the model was made from weights with fingerprint {model}, and the checkpoint has {checkpoint}: it is another checkpoint, it was changed, or another version made the model"
            )),
            Identity::Unknown => table.note("the model does not tell which weights it was made from"),
        };
    }

    fn add_weights(&self, table: &mut Table) {
        let WeightDifferences { in_place, compared, different, missing, unknown } = &self.weights;
        let [in_place, compared] = [*in_place, *compared].map(size);
        let different = match &different[..] {
            [] => "none different".to_owned(),
            names => format!("different: {}", first_names(names)),
        };
        table.row("weights", format!("{in_place} in place, {compared} compared, {different}"));
        if !missing.is_empty() {
            table.note(format!("missing or incomplete: {}", first_names(missing)));
        }
        if !unknown.is_empty() {
            table.note(format!("not in the checkpoint: {}", first_names(unknown)));
        }
    }

    fn add_experts(&self, table: &mut Table) {
        let ExpertCoverage { used, there, limit, limited } = self.experts;
        let [used, there] = [used as u64, there].map(with_thousands);
        table.row("experts", format!("{used} of {there} used"));
        if !limited {
            table.note(format!("no value reached SwiGLU's limit of {limit}, so it is not tested"));
        }
    }

    fn add_logits(&self, table: &mut Table) {
        let LogitDifferences { same_top, positions, largest_logit, worst, .. } = &self.logits;
        let [max, mean, kl] =
            [self.logits.max, self.logits.mean, self.logits.kl_divergence].map(number);
        table.row("error", format!("max {max} at {worst}; mean {mean}; KL divergence {kl} nats"));
        let [same, all] = [*same_top, positions.len()].map(|count| with_thousands(count as u64));
        let top = format!("the same largest logit at {same} of {all} positions");
        table.row("logits", format!("up to {largest_logit:.2}; {top}"));
        let bound = number(self.tolerance.bound);
        let source = match self.tolerance.from {
            ToleranceSource::Requested => "as requested".to_owned(),
            ToleranceSource::Float32 | ToleranceSource::ModelValues => {
                format!("{FACTOR} times the noise of float32 here, {}", number(self.logits.noise))
            }
        };
        table.row("allowed", format!("{bound}: {source}"));
    }

    fn add_ties(&self, table: &mut Table) {
        let Ties { close, followed, flips } = &self.ties;
        if *close == 0 {
            return;
        }
        let followed = match followed {
            Followed::NotNeeded => "none had to be followed".to_owned(),
            Followed::NotShown => {
                "the model does not list its router scores: export it again with this version, and its choices are followed".to_owned()
            }
            Followed::TheModel => {
                format!("the model chose otherwise in {}, and was followed", flips.len())
            }
        };
        let close = plural(*close, "choice");
        table.row("ties", format!("{close} of experts within the noise of float32; {followed}"));
        for Flip { position, layer, dropped, taken, margin, bound } in flips.iter().take(LISTED) {
            let ([margin, bound], [taken, dropped]) =
                ([*margin, *bound].map(number), [taken, dropped].map(|it| experts(it)));
            table.note(format!(
                "{position}, layer {layer}: {taken} for {dropped}, {margin} apart where {bound} would tell"
            ));
        }
        if flips.len() > LISTED {
            table.note(format!("and {} more", flips.len() - LISTED));
        }
    }

    fn add_trace(&self, table: &mut Table) {
        let Some(Trace { stages, first }) = &self.trace else { return };
        let outcome = first.map_or("departs nowhere".to_owned(), |first| {
            format!("departs in {}", stage_name(first))
        });
        table.row("trace", format!("the residual stream {outcome}"));
        for (at, Stage { max, relative, bound, worst }) in stages.iter().enumerate() {
            let name = stage_name(at);
            let mark = if *first == Some(at) { "  <- departs here" } else { "" };
            let [max, relative, bound] = [*max, *relative, *bound].map(number);
            table.note(format!(
                "{name:10} max {max}, relative {relative} of {bound}, {worst}{mark}"
            ));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::default();
        table.row("model", self.model.display());
        let all = plural(self.layers_there, "layer");
        let layers = if self.layers == self.layers_there {
            all
        } else {
            format!("the first {} of {all}", self.layers)
        };
        table.row("against", format!("{}, {}, {layers}", self.checkpoint.display(), self.layout));
        self.add_identity(&mut table);
        let version = self.runtime.version.as_deref().unwrap_or("of unknown version");
        table.row("ran in", format!("onnxruntime {version}, {}", self.runtime.path.display()));
        table.row("inputs", &self.texts);
        self.add_weights(&mut table);
        self.add_experts(&mut table);
        self.add_logits(&mut table);
        self.add_ties(&mut table);
        self.add_trace(&mut table);
        let Seconds { reference, weights, load, run } = self.seconds;
        let peak = self.peak_rss.map(|bytes| format!("; {} of memory at most", size(bytes)));
        table.row(
            "took",
            format!(
                "weights {weights:.2} s, reference {reference:.2} s, loading {load:.2} s, running {run:.2} s{}",
                peak.unwrap_or_default()
            ),
        );
        table.row("verdict", self.verdict());
        table.fmt(f)
    }
}

impl fmt::Display for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lengths, decoded, compared, seed, .. } = self;
        let number = |count: &usize| with_thousands(*count as u64);
        let [longest, shortest] = [lengths.iter().max(), lengths.iter().min()];
        let [longest, shortest] = [longest, shortest].map(|it| it.map(number).unwrap_or_default());
        let tokens = if longest == shortest { longest } else { format!("{shortest} to {longest}") };
        let rows = plural(lengths.len(), "row");
        let (steps, compared) = (plural(*decoded, "decode step"), plural(*compared, "position"));
        write!(f, "{rows} of {tokens} random tokens (seed {seed}), {steps}; {compared} compared")?;
        if self.last_logits { f.write_str(" (the last one of each row)") } else { Ok(()) }
    }
}

/// Ties that are listed one by one.
const LISTED: usize = 8;
/// Tensors that are named one by one.
const NAMED: usize = 3;

/// The first names, and how many more there are.
fn first_names(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let first = first.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn experts(numbers: &[usize]) -> String {
    let noun = if numbers.len() == 1 { "expert" } else { "experts" };
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("{noun} {}", numbers.join(" and "))
}

/// Two digits behind the point, or an exponent for small and large values.
fn number(value: f64) -> String {
    if value == 0.0 || (0.01..1e6).contains(&value) {
        format!("{value:.2}")
    } else {
        format!("{value:.2e}")
    }
}

fn stage_name(index: usize) -> String {
    index.checked_sub(1).map_or("embedding".to_owned(), |layer| format!("layer {layer}"))
}

//! The result of a verification, for programs and for people.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

use super::inputs::Inputs;
use super::quality::KlDivergence;
use super::subject::Identity;
use super::tolerance::{FACTOR, ToleranceSource};
use super::trace::{Stage, Trace};
use super::verifier::{Comparison, Followed, Seconds, Ties};
use super::weights::WeightDifferences;
use crate::checkpoint::{AdapterRecord, IgnoredNames};
use crate::display::{Table, join, noun, plural, size, spans, with_thousands};
use crate::error::{Error, Setting, err};
use crate::files::lossy_path;
use crate::reference::{ExpertCoverage, Tie};
use crate::runtime::Library;
use crate::weights::{PerRole, Zeros};

/// The result of a verification.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Report {
    #[serde(serialize_with = "lossy_path")]
    pub model: PathBuf,
    /// The layers of each stage; none of a whole model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Range<usize>>,
    /// The checkpoint's folder, or a staged file.
    #[serde(serialize_with = "lossy_path")]
    pub checkpoint: PathBuf,
    pub layout: String,
    pub layers: usize,
    /// Layers of the checkpoint.
    pub layers_there: usize,
    /// What was ignored of the checkpoint.
    pub ignored: IgnoredNames,
    /// The adapters of the model, as its metadata lists them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterRecord>,
    pub identity: Identity,
    /// Weights of the checkpoint that seem to be of zeros alone.
    #[serde(skip_serializing_if = "Zeros::is_empty")]
    pub zeros: Zeros,
    /// The files of the model's data that are no longer those of the export, and what to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed_data: Vec<String>,
    pub runtime: Library,
    pub texts: Inputs,
    pub weights: WeightDifferences,
    #[serde(flatten)]
    pub comparison: Comparison,
    /// Whether logits are within the tolerance and, unless that was requested, the residual
    /// stream departs nowhere and all weights are the checkpoint's.
    pub passed: bool,
    /// The most bytes in memory at once, mapped files included; `None` if unknown.
    pub peak_rss: Option<u64>,
}

impl Report {
    /// Whether logits agree, and the residual stream if it is known.
    pub fn agrees(&self) -> bool {
        self.comparison.passed()
    }

    /// Why the model does not pass; `hint` ends the sentence.
    pub fn departure(&self, hint: &str) -> Error {
        let Comparison { logits, tolerance, trace, .. } = &self.comparison;
        let (model, bound) = (self.model.display(), num(tolerance.bound));
        if !self.changed_data.is_empty() {
            return err!("`{model}`: {}", self.changed_data.join("; "));
        }
        let weights = self.weights.faults().chain(self.weights.not_compared());
        let weights = weights.collect::<Vec<_>>().join("; ");
        if self.agrees() && !self.weights.has_faults() {
            // Otherwise the rounding of the export would count.
            let can_decide = tolerance.from == ToleranceSource::Float32;
            let way = if can_decide { ", or let logits decide" } else { "" };
            let instead = if self.weights.inline.is_empty() {
                "verify it with the checkpoint that it was made from"
            } else {
                "verify the model that was exported"
            };
            let error = err!(
                "`{model}`: logits agree, and bytes cannot be compared: {weights}; {instead}{way}{hint}"
            );
            let enough = num(tolerance.bound * 1.01);
            return if can_decide { error.with_remedy(Setting::Tolerance, enough) } else { error };
        }
        let computed = if self.agrees() {
            "logits agree, and bytes do not".to_owned()
        } else if logits.max > tolerance.bound {
            format!("logits differ by {}, and {bound} is allowed", num(logits.max))
        } else {
            let first = trace.as_ref().and_then(Trace::first_beyond);
            first.map_or_else(String::new, |(at, stage)| {
                let [relative, bound] = [stage.relative, stage.bound].map(num);
                format!("the residual stream departs in {} by {relative} of a token's largest value, and {bound} is allowed", self.place(at))
            })
        };
        let separator = if weights.is_empty() { "" } else { "; " };
        if let Identity::Different { model: of_model, checkpoint } = &self.identity {
            return err!(
                "`{model}`: {computed}{separator}{weights}; it was made from weights with the fingerprint {of_model}, and the checkpoint has {checkpoint}: verify it with the checkpoint that it was made from, or export again"
            );
        }
        err!("`{model}`: {computed}{separator}{weights}{hint}")
    }

    fn add_stages(&self, table: &mut Table) {
        if !self.stages.is_empty() {
            let stages = plural(self.stages.len(), "stage");
            let layers: Vec<String> = self.stages.iter().cloned().map(spans).collect();
            table.note(format!("{stages} as one model, with layers {}", join(&layers)));
        }
    }

    /// The embedding, or a layer and the stage that it is in, by its index in a trace.
    fn place(&self, index: usize) -> String {
        let Some(layer) = index.checked_sub(1) else { return "embedding".to_owned() };
        let stage = self.stages.iter().position(|it| it.contains(&layer));
        let stage = stage.map_or_else(String::new, |at| format!(" of stage {}", at + 1));
        format!("layer {layer}{stage}")
    }

    fn add_identity(&self, table: &mut Table) {
        match &self.identity {
            Identity::Same => {}
            Identity::Converted(PerRole { experts, dense }) => table.note(format!(
                "the model has experts in {experts} and dense matrices in {dense}"
            )),
            Identity::Different { model, checkpoint } => table.note(format!(
                "the model was made from weights with fingerprint {model}, and the checkpoint has {checkpoint}: other weights, or another form of them"
            )),
            Identity::Unknown => table.note("the model does not say which weights it was made from"),
        }
    }

    fn add_logits(&self, table: &mut Table) {
        let Comparison { logits: it, tolerance, .. } = &self.comparison;
        let [max, mean, kl, noise] = [it.max, it.mean, it.kl_divergence, it.noise].map(num);
        let worst = it.worst;
        table.row("error", format!("max {max} at {worst}; mean {mean}; KL divergence {kl} nats"));
        let [same, all] = [it.same_top, it.positions.len()].map(|it| with_thousands(it as u64));
        let same = format!("the same largest one at {same} of {all} positions");
        table.row("logits", format!("up to {:.2}; {same}", it.largest_logit));
        let source = match tolerance.from {
            ToleranceSource::Requested => "as requested".to_owned(),
            _ => format!("{FACTOR} times the noise of float32, {noise}"),
        };
        table.row("allowed", format!("{}: {source}", num(tolerance.bound)));
        table.note("by the reference's own reading of the checkpoint");
    }

    fn add_quality(&self, table: &mut Table) {
        let Some(it) = &self.comparison.quality else { return };
        let predicted = with_thousands(it.predicted as u64);
        table
            .row("text", format!("perplexity {} over {predicted} predicted tokens", it.perplexity));
        table.note(format!(
            "of the reference {}; ratio {}",
            it.reference_perplexity, it.perplexity_ratio
        ));
        let KlDivergence { mean, median, p99, p999, max } = it.kl_divergence;
        table.note(format!("KL divergence {mean} nats; median {median}, 99 % {p99}, 99.9 % {p999}, largest {max:.3e}"));
        table.note(format!("the same likeliest token at {} of positions", it.same_top.percent()));
        table.note(format!(
            "the right token's probability changes by {} (root mean square)",
            it.probability_change.percent()
        ));
    }

    fn add_ties(&self, table: &mut Table) {
        let Ties { close, followed, flips, .. } = &self.comparison.ties;
        if *close == 0 {
            return;
        }
        let followed = match followed {
            Followed::NotNeeded => "none had to be followed".to_owned(),
            Followed::NotShown => "the model cannot be followed, as it does not list its router scores: export it again with this version".to_owned(),
            Followed::TheModel => format!("the model chose otherwise in {}, and was followed", flips.len()),
        };
        let close = plural(*close, "choice");
        table.row("ties", format!("{close} of experts within the noise of float32; {followed}"));
        for Tie { position, layer, dropped, taken, margin, bound } in flips.iter().take(LISTED) {
            let (taken, dropped) = (experts(taken), experts(dropped));
            let apart = match margin {
                0.0 => "of equal scores".to_owned(),
                _ => format!("{} apart where {} would tell", num(*margin), num(*bound)),
            };
            table.note(format!("{position}, layer {layer}: {taken} for {dropped}, {apart}"));
        }
        if flips.len() > LISTED {
            table.note(format!("and {} more", flips.len() - LISTED));
        }
    }

    fn add_trace(&self, table: &mut Table) {
        let Some(Trace { stages, first }) = &self.comparison.trace else { return };
        let departs = first.map_or("departs nowhere".to_owned(), |first| {
            format!("departs in {}", self.place(first))
        });
        table.row("trace", format!("the residual stream {departs}"));
        let width = (0..stages.len()).map(|at| self.place(at).len()).max().unwrap_or(0);
        for (at, Stage { max, relative, bound, worst, .. }) in stages.iter().enumerate() {
            let mark = if *first == Some(at) { "  <- departs here" } else { "" };
            let [max, relative, bound] = [max, relative, bound].map(|it| num(*it));
            let place = format!("relative {relative}, allowed {bound}, {worst}{mark}");
            table.note(format!("{:width$} max {max}, {place}", self.place(at)));
        }
    }

    fn verdict(&self) -> String {
        let verdict = match self.comparison.tolerance.from {
            _ if !self.agrees() => "the model does not compute what the checkpoint says",
            _ if !self.passed && self.weights.has_faults() => "logits agree, and weights do not",
            _ if !self.passed => "logits agree, and weights in another form were not compared",
            ToleranceSource::Float32 if !self.changed_data.is_empty() => {
                "the model computes what the checkpoint says now, and has a record of other weights: export again"
            }
            ToleranceSource::Float32 => "the model computes what the checkpoint says",
            ToleranceSource::ModelValues => {
                "the model computes what its own values say, which are the checkpoint's, rounded"
            }
            ToleranceSource::Requested => "the model is within the tolerance",
        };
        let comma = if self.ignored.is_empty() { "" } else { "," };
        let adapters = match self.adapters.len() {
            0 => String::new(),
            1 => ", with the adapter".to_owned(),
            count => format!(", with {count} adapters"),
        };
        format!("{verdict}{comma}{}{adapters}", self.ignored.apart())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::default();
        table.row("model", self.model.display());
        self.add_stages(&mut table);
        let mut layers = plural(self.layers_there, "layer");
        if self.layers < self.layers_there {
            layers = format!("the first {} of {layers}", self.layers);
        }
        let checkpoint = self.checkpoint.display();
        table.row("against", format!("{checkpoint}, {}, {layers}", self.layout));
        self.add_identity(&mut table);
        self.changed_data.iter().for_each(|change| table.note(change));
        if !self.ignored.is_empty() {
            table.row("ignored", &self.ignored);
        }
        self.zeros.warnings().iter().for_each(|it| table.row("ZERO", it));
        self.adapters.iter().for_each(|adapter| table.row("adapter", adapter));
        let Library { version, path } = &self.runtime;
        let version = version.as_deref().unwrap_or("of unknown version");
        table.row("ran in", format!("onnxruntime {version}, {}", path.display()));
        table.row("inputs", &self.texts);
        let (in_place, compared) = (size(self.weights.in_place), size(self.weights.compared));
        let mut faults: Vec<String> = self.weights.faults().collect();
        let none = if faults.is_empty() { ", none different" } else { "" };
        faults.extend(self.weights.not_compared());
        table.row("weights", format!("{in_place} in place, {compared} compared{none}"));
        faults.into_iter().for_each(|fault| table.note(fault));
        table.note("by the exporter's reading of the checkpoint");
        let ExpertCoverage { used, there, limit, limited } = self.comparison.experts;
        let (used, there) = (with_thousands(used as u64), with_thousands(there));
        table.row("experts", format!("{used} of {there} used"));
        if !limited {
            table.note(format!("no value reached SwiGLU's limit of {limit}: it is not tested"));
        }
        self.add_logits(&mut table);
        self.add_quality(&mut table);
        self.add_ties(&mut table);
        self.add_trace(&mut table);
        let Seconds { reference, weights, load, run } = self.comparison.seconds;
        let peak = self.peak_rss.map(|bytes| format!("; {} of memory at most", size(bytes)));
        let peak = peak.unwrap_or_default();
        table.row("took", format!("weights {weights:.2} s, reference {reference:.2} s, loading {load:.2} s, running {run:.2} s{peak}"));
        table.row("verdict", self.verdict());
        table.fmt(f)
    }
}

impl fmt::Display for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lengths, decoded, compared, seed, text, .. } = self;
        let [longest, shortest] = [lengths.iter().max(), lengths.iter().min()]
            .map(|length| with_thousands(length.map_or(0, |length| *length as u64)));
        let tokens = if longest == shortest { longest } else { format!("{shortest} to {longest}") };
        let few = *compared < lengths.iter().sum();
        let which = if few { ", the last of each row" } else { "" };
        let compared = format!("{} compared{which}", plural(*compared, "position"));
        if let Some(text) = text {
            let windows = plural(lengths.len(), "window");
            let steps = if *decoded > 0 {
                ", token by token, as the model gives the last logits only"
            } else {
                ""
            };
            return write!(
                f,
                "{windows} of {tokens} tokens of {}{steps}; {compared}",
                text.display()
            );
        }
        let (rows, steps) = (plural(lengths.len(), "row"), plural(*decoded, "decode step"));
        let seed = seed.map_or_else(String::new, |seed| format!(" (seed {seed})"));
        write!(f, "{rows} of {tokens} random tokens{seed}, {steps}; {compared}")
    }
}

/// Ties that are listed one by one.
const LISTED: usize = 8;

fn experts(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("{} {}", noun(numbers.len(), "expert"), numbers.join(" and "))
}

/// A number with two decimals, and an exponent if it is small or large.
fn num(value: f64) -> String {
    let is_plain = value == 0.0 || (0.01..1e6).contains(&value);
    if is_plain { format!("{value:.2}") } else { format!("{value:.2e}") }
}

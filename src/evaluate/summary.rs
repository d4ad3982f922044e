//! The result of an evaluation, and its table.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::candidate::Candidate;
use crate::display::{plural, size, with_thousands};
use crate::files::lossy_path;
use crate::memory;
use crate::reference::ExpertCoverage;
use crate::runtime::Library;
use crate::verify::{Estimate, ExpertUse, Identity, Windows};

/// The result of an evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// The checkpoint's folder, or a staged file.
    #[serde(serialize_with = "lossy_path")]
    pub checkpoint: PathBuf,
    /// The file with the text.
    #[serde(serialize_with = "lossy_path")]
    pub text: PathBuf,
    /// Windows of the text.
    pub windows: usize,
    /// What ran the models.
    pub runtime: Library,
    /// What they are compared with.
    pub reference: ReferenceSummary,
    /// The models, as they were given.
    pub models: Vec<Candidate>,
    /// The most bytes in memory at once, mapped files included; `None` if unknown.
    pub peak_rss: Option<u64>,
}

/// The pass of the reference.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ReferenceSummary {
    /// Wall time, without the logits.
    pub seconds: f64,
    /// How many experts the text used.
    pub experts: ExpertCoverage,
    pub expert_use: ExpertUse,
}

/// Headings of the table, each with what it means.
pub const COLUMNS: [[&str; 2]; 12] = [
    ["model", "the ONNX file; * marks each model for which no other is both smaller and closer"],
    ["target", "operators of the graph"],
    ["experts", "format of the experts"],
    ["dense", "format of attention and lm_head"],
    ["size", "the graph, and the weights that it reads"],
    ["load", "wall time of loading"],
    ["memory", "growth of the process's own memory by loading"],
    ["prompt", "tokens of a prompt in a second"],
    ["decode", "tokens in a second, one by one, after a prompt"],
    ["perplexity ratio", "that of the model over that of the reference"],
    ["KL divergence", "mean over the predicted tokens, in nats"],
    ["same top", "share of tokens with the same likeliest one as the reference"],
];

impl Evaluation {
    pub(super) fn new(
        checkpoint: &Path,
        windows: &Windows,
        runtime: Library,
        reference: ReferenceSummary,
        mut models: Vec<Candidate>,
    ) -> Self {
        let is_best =
            |it: &Candidate| it.loss().is_finite() && !models.iter().any(|other| other.beats(it));
        let best: Vec<bool> = models.iter().map(is_best).collect();
        models.iter_mut().zip(best).for_each(|(it, is_best)| it.is_best = is_best);
        Self {
            checkpoint: checkpoint.to_owned(),
            text: windows.file.clone(),
            windows: windows.rows.len(),
            runtime,
            reference,
            models,
            peak_rss: memory::peak_rss(),
        }
    }

    /// The names of models: those of their files if they differ, otherwise their paths.
    pub fn names(&self) -> Vec<String> {
        let stems = self.models.iter().map(|it| it.model.file_stem().unwrap_or_default());
        let stems: Vec<_> = stems.map(|it| it.to_string_lossy().into_owned()).collect();
        let is_unique = |stem: &String| stems.iter().filter(|it| *it == stem).count() == 1;
        if stems.iter().all(is_unique) {
            return stems;
        }
        self.models.iter().map(|it| it.model.display().to_string()).collect()
    }

    /// What the table says of each model.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let row = |(it, name): (&Candidate, String)| {
            let unknown = || "-".to_owned();
            let mark = if it.is_best { " *" } else { "" };
            let quality = &it.quality;
            vec![
                name + mark,
                it.target.clone().unwrap_or_else(unknown),
                it.formats.experts.to_string(),
                it.formats.dense.to_string(),
                size(it.bytes),
                format!("{:.2} s", it.load_seconds),
                it.own_memory.map_or_else(unknown, memory_size),
                speed(it.prompt_speed),
                it.decode_speed.map_or_else(unknown, speed),
                quality.perplexity_ratio.to_string(),
                quality.kl_divergence.mean.to_string(),
                quality.same_top.percent(),
            ]
        };
        self.models.iter().zip(self.names()).map(row).collect()
    }

    /// What the figures are of, in a sentence.
    pub fn about(&self) -> String {
        let quality = self.models.first().map(|it| &it.quality);
        let (window, predicted) = quality.map_or((0, 0), |it| (it.window, it.predicted));
        let perplexity = quality.map_or(Estimate::default(), |it| it.reference_perplexity);
        let ExpertCoverage { used, there, .. } = self.reference.experts;
        format!(
            "{} of {} tokens, {} predicted; perplexity of the reference {perplexity}; {} of {} experts used",
            plural(self.windows, "window"),
            with_thousands(window as u64),
            with_thousands(predicted as u64),
            with_thousands(used as u64),
            with_thousands(there)
        )
    }

    /// Models that were made from other weights.
    pub fn others(&self) -> Vec<String> {
        let is_other = |it: &Candidate| matches!(it.identity, Identity::Different { .. });
        let named = self.models.iter().zip(self.names());
        named.filter(|(it, _)| is_other(it)).map(|(_, name)| name).collect()
    }
}

/// Small blocks may be those that the process had before.
fn memory_size(bytes: u64) -> String {
    if bytes < 1 << 20 { "< 1 MB".to_owned() } else { size(bytes) }
}

fn speed(tokens: f64) -> String {
    if tokens < 100.0 {
        format!("{tokens:.1}/s")
    } else {
        format!("{}/s", with_thousands(tokens as u64))
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = COLUMNS.iter().map(|[name, _]| (*name).to_owned());
        let lines: Vec<Vec<String>> = [heads.collect()].into_iter().chain(self.rows()).collect();
        let width = |at: usize| lines.iter().map(|it| it[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        writeln!(f, "{}: {}", self.text.display(), self.about())?;
        for line in &lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        for name in self.others() {
            writeln!(f, "{name} was made from other weights than the checkpoint has")?;
        }
        let ReferenceSummary { seconds, .. } = self.reference;
        let peak = self.peak_rss.map(|it| format!("; {} of memory at most", size(it)));
        write!(
            f,
            "* no other model is both smaller and closer\nthe reference took {seconds:.2} s{}",
            peak.unwrap_or_default()
        )
    }
}

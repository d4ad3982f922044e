//! What a verification found, for people and for programs.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::compare::{Differences, Position};
use super::identity::Identity;
use super::plan::{Plan, Step};
use super::tolerance::{Source, Tolerance};
use super::trace::Trace;
use crate::reference::{Place, Tie};
use crate::words;

/// The outcome of a verification.
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
    /// Whether the model says that it is of this checkpoint.
    pub identity: Identity,
    /// What ran the model.
    pub runtime: Runtime,
    /// What it was given.
    pub texts: Texts,
    /// The experts that took part: of the others nothing is known.
    pub experts: Coverage,
    /// Whether logits agree within the tolerance.
    pub passed: bool,
    /// How they differ.
    pub logits: Differences,
    /// By how much they may.
    pub tolerance: Tolerance,
    /// Choices of experts that float32 does not decide.
    pub ties: usize,
    /// Those of them that the model decided otherwise than the reference.
    pub flips: Vec<Flip>,
    /// The residual stream, if it was asked for.
    pub trace: Option<Trace>,
    /// Wall time.
    pub seconds: Seconds,
    /// The most bytes in memory at once, mapped files counted, where it is known.
    pub peak_rss: Option<u64>,
}

/// An onnxruntime.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Runtime {
    pub version: Option<String>,
    pub path: PathBuf,
}

/// What the model was given.
#[derive(Clone, Debug, Serialize)]
pub struct Texts {
    /// Tokens of each row.
    pub lengths: Vec<usize>,
    /// How many of each row's came one by one.
    pub decoded: usize,
    /// Steps.
    pub steps: usize,
    /// Positions whose logits were compared.
    pub compared: usize,
    /// Which random tokens they were.
    pub seed: u64,
    /// Whether the model gives each row's last logits alone.
    #[serde(skip)]
    last: bool,
}

/// Some of all, in all layers together.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Coverage {
    pub used: usize,
    pub there: u64,
}

/// A choice of experts that the model made otherwise, where float32 does not decide.
#[derive(Clone, Debug, Serialize)]
pub struct Flip {
    /// The token.
    pub position: Position,
    /// The layer.
    pub layer: usize,
    /// The expert that the reference had chosen, and the model's.
    pub experts: [usize; 2],
    /// How far apart they are, relative to the largest score.
    pub margin: f32,
    #[serde(skip)]
    pub(super) place: Place,
}

/// Wall time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Of the reference, comparing included.
    pub reference: f64,
    /// Of loading the model.
    pub load: f64,
    /// Of running it.
    pub run: f64,
}

impl Texts {
    pub(super) fn new(plan: &Plan, last: bool, seed: u64) -> Self {
        Self {
            lengths: plan.lengths.clone(),
            decoded: plan.decoded,
            steps: plan.steps.len(),
            compared: plan.steps.iter().map(|step: &Step| step.readings().len()).sum(),
            seed,
            last,
        }
    }
}

impl Flip {
    pub(super) fn new(tie: &Tie, plan: &Plan) -> Self {
        let mut position = Position { row: 0, token: tie.place.token };
        while position.token >= plan.lengths[position.row] {
            position.token -= plan.lengths[position.row];
            position.row += 1;
        }
        let (layer, experts, margin) = (tie.place.layer, tie.margin.experts, tie.margin.relative);
        Self { position, layer, experts, margin, place: tie.place }
    }
}

impl Report {
    /// By how much the model is off, as a sentence.
    pub fn departure(&self) -> String {
        let (off, bound) = (number(self.logits.max), number(self.tolerance.bound));
        format!("`{}` is off by {off}, and {bound} is allowed", self.model.display())
    }

    fn verdict(&self) -> &'static str {
        match (self.passed, self.tolerance.from) {
            (true, Source::Float32) => "the model computes what the checkpoint says",
            (true, Source::Asked) => "the model is within the tolerance",
            (false, _) => "the model does not compute what the checkpoint says",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model    {}", self.model.display())?;
        let (path, layout) = (self.checkpoint.display(), self.layout);
        let layers = match self.layers == self.layers_there {
            true => words::count(self.layers, "layer"),
            false => {
                format!("the first {} of {}", self.layers, words::count(self.layers_there, "layer"))
            }
        };
        writeln!(f, "against  {path}, {layout}, {layers}")?;
        write!(f, "{}", self.identity)?;
        let version = self.runtime.version.as_deref().unwrap_or("of unknown version");
        writeln!(f, "ran in   onnxruntime {version}, {}", self.runtime.path.display())?;
        writeln!(f, "texts    {}", self.texts)?;
        let Coverage { used, there } = self.experts;
        writeln!(f, "experts  {used} of {there} took part")?;
        write!(f, "{}", self.logits)?;
        writeln!(f, "allowed  {}: {}", number(self.tolerance.bound), self.tolerance.from)?;
        self.flips.iter().try_for_each(|flip| write!(f, "{flip}"))?;
        if let Some(trace) = &self.trace {
            write!(f, "{trace}")?;
        }
        let Seconds { reference, load, run } = self.seconds;
        write!(f, "took     reference {reference:.2} s, loading {load:.2} s, running {run:.2} s")?;
        if let Some(peak) = self.peak_rss {
            write!(f, "; {} at most", words::size(peak))?;
        }
        write!(f, "\nverdict  {}", self.verdict())
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [max, mean, kl] = [self.max, self.mean, self.kl_divergence].map(number);
        writeln!(f, "error    max {max}, mean {mean}, KL divergence {kl} nats, in {}", self.worst)?;
        let (top, positions, largest) = (self.same_top, self.positions.len(), self.largest_logit);
        writeln!(
            f,
            "logits   up to {largest:.2}, the same largest at {top} of {positions} positions"
        )
    }
}

impl fmt::Display for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lengths, decoded, compared, seed, .. } = self;
        let rows = match &lengths[..] {
            [one] => format!("1 row of {one} random tokens"),
            [first, .., last] => {
                format!("{} rows of {last} to {first} random tokens", lengths.len())
            }
            [] => unreachable!("a batch has rows"),
        };
        write!(
            f,
            "{rows} (seed {seed}), {decoded} of them one by one; {compared} positions compared"
        )?;
        if self.last {
            f.write_str(", as the model gives each row's last logits alone")
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}, token {}", self.row, self.token)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => Ok(()),
            Self::Converted { format } => {
                writeln!(f, "  its experts were put into {format} when it was made")
            }
            Self::Different { model, checkpoint } => writeln!(
                f,
                "  but the model was made of weights with fingerprint {model}, and these have {checkpoint}: another checkpoint, one that was changed since, or a model by another version"
            ),
            Self::Unknown => {
                writeln!(f, "  the model does not say which weights it was made of")
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "as asked for",
            Self::Float32 => "float32's own noise, for logits of this size after so many layers",
        })
    }
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, layer, experts: [reference, model], .. } = self;
        let margin = number(self.margin.into());
        writeln!(
            f,
            "  tie    {position}, layer {layer}: experts {reference} and {model} are {margin} apart, which float32 does not tell; the model's choice was taken"
        )
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, stage) in self.stages.iter().enumerate() {
            let name = stage_name(at);
            let mark = if self.first == Some(at) { "  <- departs here" } else { "" };
            let [max, relative] = [stage.max, stage.relative].map(number);
            writeln!(f, "  {name:10} max {max}, relative {relative}, {}{mark}", stage.worst)?;
        }
        Ok(())
    }
}

/// A size as it reads best.
fn number(size: f64) -> String {
    if size == 0.0 || (0.01..1e6).contains(&size) {
        format!("{size:.2}")
    } else {
        format!("{size:.2e}")
    }
}

/// What a stage of a trace is called.
fn stage_name(at: usize) -> String {
    match at.checked_sub(1) {
        None => "embedding".to_owned(),
        Some(layer) => format!("layer {layer}"),
    }
}

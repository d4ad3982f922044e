//! A report as people read it.

use std::fmt;

use super::compare::{Differences, Position};
use super::identity::Identity;
use super::report::{Coverage, Flip, Followed, Report, Seconds, Texts, Ties};
use super::tolerance::{FACTOR, Source};
use super::trace::{Stage, Trace};
use super::weights::Bytes;
use crate::display;

/// Flips that are listed one by one.
const LISTED: usize = 8;
/// Tensors that are named one by one.
const NAMED: usize = 3;

impl Report {
    /// What is wrong with the model, as a sentence.
    pub fn departure(&self) -> String {
        let mut faults = Vec::new();
        let (off, bound) = (number(self.logits.max), number(self.tolerance.bound));
        if self.logits.max > self.tolerance.bound {
            faults.push(format!("is off by {off}, and {bound} is allowed"));
        } else if let Some((trace, first)) = self.trace.as_ref().and_then(|t| Some((t, t.first?))) {
            let Stage { relative, bound, .. } = trace.stages[first];
            let (relative, bound, stage) = (number(relative), number(bound), stage_name(first));
            faults.push(format!(
                "departs in {stage}, by {relative} of a token's largest number where {bound} is allowed"
            ));
        }
        if !self.weights.different.is_empty() {
            let names = listed(&self.weights.different);
            faults.push(format!("has other bytes than the checkpoint for {names}"));
        }
        if !self.weights.missing.is_empty() {
            faults
                .push(format!("has no whole tensor of the name {}", listed(&self.weights.missing)));
        }
        if !self.weights.unknown.is_empty() {
            let names = listed(&self.weights.unknown);
            faults
                .push(format!("reads {names}, which the checkpoint has no weight of the name of"));
        }
        format!("`{}` {}", self.model.display(), faults.join("; it "))
    }

    fn verdict(&self) -> &'static str {
        match (self.passed, self.tolerance.from) {
            (true, Source::Float32) => "the model computes what the checkpoint says",
            (true, Source::OwnNumbers) => {
                "the model computes what its numbers say, which are the checkpoint's, rounded"
            }
            (true, Source::Asked) => "the model is within the tolerance",
            (false, _) => "the model does not compute what the checkpoint says",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model    {}", display::escape_control(&self.model.display().to_string()))?;
        let path = display::escape_control(&self.checkpoint.display().to_string());
        let layout = self.layout;
        let layers = match self.layers == self.layers_there {
            true => display::plural(self.layers, "layer"),
            false => {
                format!(
                    "the first {} of {}",
                    self.layers,
                    display::plural(self.layers_there, "layer")
                )
            }
        };
        writeln!(f, "against  {path}, {layout}, {layers}")?;
        write!(f, "{}", self.identity)?;
        let version = self.runtime.version.as_deref().unwrap_or("of unknown version");
        writeln!(f, "ran in   onnxruntime {version}, {}", self.runtime.path.display())?;
        writeln!(f, "texts    {}", self.texts)?;
        write!(f, "{}{}", self.weights, self.experts)?;
        write!(f, "{}", self.logits)?;
        write!(f, "allowed  {}: ", number(self.tolerance.bound))?;
        match self.tolerance.from {
            Source::Asked => writeln!(f, "as asked for")?,
            Source::Float32 | Source::OwnNumbers => {
                let noise = number(self.logits.noise);
                writeln!(f, "{FACTOR} times what float32 is off by itself here, {noise}")?;
            }
        }
        write!(f, "{}", self.ties)?;
        if let Some(trace) = &self.trace {
            write!(f, "{trace}")?;
        }
        let Seconds { reference, weights, load, run } = self.seconds;
        write!(
            f,
            "took     weights {weights:.2} s, reference {reference:.2} s, loading {load:.2} s, running {run:.2} s"
        )?;
        if let Some(peak) = self.peak_rss {
            write!(f, "; {} at most", display::size(peak))?;
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
            Self::Converted { experts, dense } => {
                writeln!(
                    f,
                    "  its experts are in {experts}, and its dense matrices in {dense}, since it was made"
                )
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

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_place, compared, different, missing, unknown } = self;
        let [in_place, compared] = [*in_place, *compared].map(display::size);
        write!(f, "weights  {in_place} in place, {compared} compared")?;
        match &different[..] {
            [] => writeln!(f, ", none different")?,
            names => writeln!(f, ", different: {}", listed(names))?,
        }
        if !missing.is_empty() {
            writeln!(f, "  the model has no whole tensor of the name {}", listed(missing))?;
        }
        if !unknown.is_empty() {
            writeln!(f, "  the checkpoint has no weight of the name {}", listed(unknown))?;
        }
        Ok(())
    }
}

/// The first names, and how many more there are.
fn listed(names: &[String]) -> String {
    let first: Vec<String> = names
        .iter()
        .take(NAMED)
        .map(|name| format!("`{}`", display::escape_control(name)))
        .collect();
    match names.len().checked_sub(NAMED) {
        None | Some(0) => first.join(", "),
        Some(more) => format!("{} and {more} more", first.join(", ")),
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, there, limit, limited } = self;
        writeln!(f, "experts  {used} of {there} took part")?;
        match limited {
            true => Ok(()),
            false => writeln!(
                f,
                "  no number in them reached SwiGLU's limit of {limit}, so that is not tested"
            ),
        }
    }
}

impl fmt::Display for Ties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { close, followed, flips } = self;
        if *close == 0 {
            return Ok(());
        }
        let close = display::plural(*close, "choice");
        write!(f, "ties     {close} of experts closer than float32 tells; ")?;
        match followed {
            Followed::NotNeeded => writeln!(f, "none was followed"),
            Followed::NotShown => writeln!(
                f,
                "the model does not show its own: export it again with this version, and they are followed"
            ),
            Followed::TheModel => {
                writeln!(f, "the model made {} otherwise, which was followed", flips.len())?;
                flips.iter().take(LISTED).try_for_each(|flip| write!(f, "{flip}"))?;
                match flips.len().checked_sub(LISTED) {
                    None | Some(0) => Ok(()),
                    Some(more) => writeln!(f, "  and {more} more"),
                }
            }
        }
    }
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, layer, dropped, taken, margin, bound } = self;
        let [margin, bound] = [margin, bound].map(|size| number(*size));
        writeln!(
            f,
            "  {position}, layer {layer}: {} for {}, {margin} apart where {bound} would tell",
            experts(taken),
            experts(dropped)
        )
    }
}

/// Experts by number.
fn experts(numbers: &[usize]) -> String {
    let each: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("expert{} {}", if numbers.len() == 1 { "" } else { "s" }, each.join(" and "))
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, stage) in self.stages.iter().enumerate() {
            let name = stage_name(at);
            let mark = if self.first == Some(at) { "  <- departs here" } else { "" };
            let [max, relative, bound] = [stage.max, stage.relative, stage.bound].map(number);
            writeln!(
                f,
                "  {name:10} max {max}, relative {relative} of {bound}, {}{mark}",
                stage.worst
            )?;
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

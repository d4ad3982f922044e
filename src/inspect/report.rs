//! An inspection as people read it.

use std::fmt::{self, Display, Formatter};

use super::{
    CheckpointInspection, Damaged, FileInspection, Inspection, ModelInspection, Place, Scan,
    Tensor, Total,
};
use crate::checkpoint::Config;
use crate::display::{escape_control, plural, size, with_thousands};
use crate::onnx::Interface;
use crate::weights::Provenance;

/// A line. Names come from files of others, so control characters are escaped.
macro_rules! line {
    ($f:expr, $($text:tt)*) => { writeln!($f, "{}", escape_control(&format!($($text)*))) };
}

impl Display for Inspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(it) => write!(f, "checkpoint  {it}"),
            Self::Weights(it) => write!(f, "weights     {it}"),
            Self::Tensors(it) => write!(f, "{it}"),
            Self::Model(it) => write!(f, "{it}"),
        }
    }
}

impl Display for CheckpointInspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line!(f, "{}", self.path.display())?;
        line!(f, "layout      {}, fingerprint {}", self.layout, self.fingerprint)?;
        config(f, &self.config)?;
        format(f, "experts", &self.experts)?;
        format(f, "dense", &self.dense)?;
        for file in &self.files {
            let tensors = plural(file.tensors, "tensor");
            line!(f, "file        {}: {}, {tensors}", file.file, size(file.bytes))?;
        }
        totals(f, &self.totals)?;
        for fit in &self.targets {
            match &fit.refused {
                None => line!(f, "target      {}: fits; needs {}", fit.target, fit.requires)?,
                Some(reason) => line!(f, "target      {}: does not fit: {reason}", fit.target)?,
            }
        }
        let all = size(self.bytes);
        match (self.bytes_to_write, &self.obstacle) {
            (0, _) => line!(f, "in place    all of {all}, for a model in this folder or above")?,
            (bytes, obstacle) => {
                let why = obstacle.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                line!(f, "in place    all of {all} but {}{why}", size(bytes))?;
            }
        }
        tensors(f, &self.tensors)?;
        self.scan.iter().try_for_each(|scan| damaged(f, scan))
    }
}

fn damaged(f: &mut Formatter<'_>, Scan { bytes, damaged }: &Scan) -> fmt::Result {
    for Damaged { tensor, numbers, not_finite } in damaged {
        let [wrong, all] = [*not_finite, *numbers].map(with_thousands);
        line!(f, "DAMAGED     {tensor}: infinity or NaN in {wrong} of {all} numbers")?;
    }
    match damaged.len() {
        0 => line!(f, "scanned     {}: every number is finite", size(*bytes)),
        some => line!(f, "scanned     {}: {} damaged", size(*bytes), plural(some, "tensor")),
    }
}

fn format(f: &mut Formatter<'_>, label: &str, numbers: &Provenance) -> fmt::Result {
    let Provenance { origin, format, rounded, relative_error } = numbers;
    match rounded {
        _ if numbers.is_unchanged() => line!(f, "{label:11} {format}"),
        0 => line!(f, "{label:11} {format}, of {origin} without loss"),
        _ => {
            let rounded = with_thousands(*rounded);
            line!(
                f,
                "{label:11} {format}, of {origin} with {rounded} numbers rounded, relative error {relative_error:.2e}"
            )
        }
    }
}

/// The model in four lines.
fn config(f: &mut Formatter<'_>, config: &Config) -> fmt::Result {
    let Config { hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, .. } = config;
    let (fewest, most) = (config.experts.iter().min(), config.experts.iter().max());
    let experts = match (fewest, most) {
        (Some(fewest), Some(most)) if fewest < most => format!("{fewest} to {most} experts"),
        (_, most) => format!("{} experts", most.copied().unwrap_or(0)),
    };
    let sliding = config.windows.iter().flatten().count();
    let window = match config.windows.iter().flatten().next() {
        Some(window) => format!("; window {window} in {sliding} of {}", config.num_layers()),
        None => String::new(),
    };
    let rope = &config.rope;
    let context = match rope.factor > 1.0 {
        true => format!("{} × {} by YaRN", rope.initial_context, rope.factor),
        false => format!("{}", rope.initial_context),
    };
    line!(
        f,
        "model       {}, hidden {}, vocabulary {}{}",
        plural(config.num_layers(), "layer"),
        with_thousands(*hidden_size),
        with_thousands(config.vocab_size),
        if config.tied { ", embedding and logits tied" } else { "" }
    )?;
    line!(
        f,
        "  attention {num_heads} heads of {head_dim} over {num_kv_heads} for keys and values{window}"
    )?;
    line!(
        f,
        "  experts   {experts} of {}, {} for each token",
        with_thousands(*intermediate_size),
        config.experts_per_token
    )?;
    line!(f, "  context   {context}, theta {}", rope.theta)
}

impl Display for FileInspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tensors_there = plural(self.count, "tensor");
        line!(f, "file        {}: {}, {tensors_there}", self.path.display(), size(self.bytes))?;
        tensors(f, &self.tensors)
    }
}

impl Display for ModelInspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line!(
            f,
            "model       {}: {}, IR {}, by {}",
            self.path.display(),
            size(self.bytes),
            self.ir_version,
            self.producer
        )?;
        let opsets: Vec<_> =
            self.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        line!(f, "opsets      {}", opsets.join(", "))?;
        if let Some(requires) = &self.requires {
            line!(f, "needs       {requires}")?;
        }
        for (kind, interfaces) in [("input ", &self.inputs), ("output", &self.outputs)] {
            for line in Interface::lines(interfaces) {
                line!(f, "  {kind}    {line}")?;
            }
        }
        let mut operators: Vec<_> = self.operators.iter().collect();
        operators.sort_by_key(|(_, often)| std::cmp::Reverse(**often));
        let nodes = operators.iter().map(|(_, often)| **often).sum();
        let operators: Vec<_> =
            operators.iter().map(|(name, often)| format!("{name} {often}")).collect();
        line!(f, "graph       {}: {}", plural(nodes, "node"), operators.join(", "))?;
        if !self.functions.is_empty() {
            line!(f, "functions   {}", self.functions.join(", "))?;
        }
        for file in &self.files {
            let (tensors, bytes) = (plural(file.tensors, "tensor"), size(file.bytes));
            let state = match (&file.problem, &file.warning) {
                (Some(problem), _) => format!("NOT USABLE: {problem}"),
                (None, Some(warning)) => {
                    format!("there for onnxruntime, and for few others: {warning}")
                }
                (None, None) => "there".to_owned(),
            };
            line!(f, "data        {}: {bytes}, {tensors}, {state}", file.file)?;
        }
        self.wrong.iter().try_for_each(|wrong| line!(f, "wrong       {wrong}"))?;
        totals(f, &self.totals)?;
        for (key, value) in &self.properties {
            line!(f, "says        {key}: {value}")?;
        }
        let state = if self.whole {
            "all there, as far as lengths and samples tell"
        } else {
            "NOT all there"
        };
        line!(f, "weights     {state}")?;
        tensors(f, &self.tensors)
    }
}

fn totals(f: &mut Formatter<'_>, totals: &[Total]) -> fmt::Result {
    for Total { kind, tensors, bytes, dtypes } in totals {
        let dtypes: Vec<&str> = dtypes.iter().map(String::as_str).collect();
        let (bytes, tensors) = (size(*bytes), plural(*tensors, "tensor"));
        line!(f, "  {kind:9} {bytes} in {tensors}, {}", dtypes.join(" and "))?;
    }
    Ok(())
}

fn tensors(f: &mut Formatter<'_>, tensors: &[Tensor]) -> fmt::Result {
    for Tensor { name, stored_as, dtype, shape, places } in tensors {
        let at = places.first().map_or_else(String::new, |Place { file, offset, length }| {
            format!(" {file} {offset}..{}", offset.saturating_add(*length))
        });
        let more = match places.len() {
            0 | 1 => String::new(),
            places => format!(" and {} more ranges", places - 1),
        };
        let stored = match &stored_as[..] {
            [] => String::new(),
            [one] => format!(" ({one})"),
            [first, .., last] => format!(" ({first} … {last})"),
        };
        line!(f, "tensor      {name} {dtype} {shape:?}{at}{more}{stored}")?;
    }
    Ok(())
}

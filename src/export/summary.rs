//! What an export has done, for people and for programs.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::graph::{Dim, Fact, Model};
use crate::onnx::{IR_VERSION, OPSET};

/// The outcome of an export.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The checkpoint's layout.
    pub layout: &'static str,
    /// Layers exported.
    pub layers: usize,
    /// Layers of the checkpoint.
    pub layers_there: usize,
    /// What identifies the weights.
    pub fingerprint: String,
    /// The model, unless only weights were staged.
    pub model: Option<ModelSummary>,
    /// The weights.
    pub weights: WeightsSummary,
    /// Wall time.
    pub seconds: f64,
}

/// The ONNX file.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSummary {
    /// Where it is.
    pub path: PathBuf,
    /// Its size: the graph alone.
    pub bytes: usize,
    /// ONNX's IR version.
    pub ir_version: i64,
    /// Version of the standard operators.
    pub opset: i64,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// Names of the model-local functions, callees first.
    pub functions: Vec<String>,
    /// What it takes.
    pub inputs: Vec<Interface>,
    /// What it gives.
    pub outputs: Vec<Interface>,
}

/// An input or output of the model.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// One entry for each axis.
    pub shape: Vec<Size>,
}

/// The size of an axis: a number, or a symbol's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Size {
    Known(u64),
    Symbol(String),
}

impl From<&Dim> for Size {
    fn from(dim: &Dim) -> Self {
        dim.known().map_or_else(|| Self::Symbol(dim.to_string()), Self::Known)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(size) => write!(f, "{size}"),
            Self::Symbol(name) => f.write_str(name),
        }
    }
}

/// Where the weights are.
#[derive(Clone, Debug, Serialize)]
pub struct WeightsSummary {
    /// Whether the model reads the source's own files.
    pub in_place: bool,
    /// The files that the model reads, relative to its folder.
    pub files: Vec<String>,
    /// Weights files that were written.
    pub written: Vec<PathBuf>,
    /// Weights files that were there with the very bytes.
    pub reused: Vec<PathBuf>,
    /// Bytes of all weights.
    pub bytes_referenced: u64,
    /// Bytes of weights files that were written.
    pub bytes_written: u64,
}

impl ModelSummary {
    pub(super) fn new(path: &Path, model: &Model, bytes: usize) -> Self {
        let interface = |ids: &[usize]| {
            let facts = ids.iter().map(|id| &model.main.values[*id]);
            let describe = |(name, fact): &(String, Fact)| Interface {
                name: name.clone(),
                dtype: fact.dtype.to_string(),
                shape: fact.shape.iter().map(Size::from).collect(),
            };
            facts.map(describe).collect()
        };
        Self {
            path: path.to_owned(),
            bytes,
            ir_version: IR_VERSION,
            opset: OPSET,
            nodes: model.main.body.nodes.len(),
            functions: model.functions.iter().map(|function| function.name.clone()).collect(),
            inputs: interface(&model.main.body.inputs),
            outputs: interface(&model.main.body.outputs),
        }
    }

    /// Python that runs the model on zeros of a shape that it takes.
    fn example(&self) -> String {
        let size = |axis: usize| match self.inputs[0].shape[axis] {
            Size::Known(size) => size,
            Size::Symbol(_) => [1, 3][axis],
        };
        let tokens = match [size(0), size(1)] {
            [1, 3] => "[[0, 0, 0]]".to_owned(),
            [batch, length] => format!("[[0] * {length}] * {batch}"),
        };
        // A string as Rust escapes it is one for Python too.
        let path = format!("{:?}", self.path.display().to_string());
        format!(
            "onnxruntime.InferenceSession({path}).run([\"logits\"], {{\"input_ids\": {tokens}}})"
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = layers_in_words(self.layers, self.layers_there);
        writeln!(f, "read     {}, {layers}, fingerprint {}", self.layout, self.fingerprint)?;
        let weights = &self.weights;
        if let Some(model) = &self.model {
            write!(f, "{model}")?;
            let how = if weights.in_place { "in place" } else { "beside the model" };
            let bytes = size(weights.bytes_referenced);
            writeln!(f, "weights  {bytes} {how}: {}", weights.files.join(", "))?;
        }
        for path in &weights.written {
            writeln!(f, "written  {}", path.display())?;
        }
        for path in &weights.reused {
            writeln!(f, "reused   {}", path.display())?;
        }
        let bytes = size(weights.bytes_written);
        writeln!(f, "done     {bytes} of weights written, in {:.3} s", self.seconds)?;
        match (&self.model, weights.written.first().or(weights.reused.first())) {
            (Some(model), _) => write!(f, "try      {}", model.example()),
            (None, Some(staged)) => {
                let staged = quoted(staged);
                write!(f, "next     gpt-oss-export --weights {staged} --output model.onnx")
            }
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for ModelSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, bytes) = (self.path.display(), size(self.bytes as u64));
        writeln!(f, "model    {path} ({bytes}, opset {}, IR {})", self.opset, self.ir_version)?;
        for (kind, interfaces) in [("input ", &self.inputs), ("output", &self.outputs)] {
            for Interface { name, dtype, shape } in interfaces {
                let shape: Vec<String> = shape.iter().map(Size::to_string).collect();
                writeln!(f, "  {kind} {name} {dtype} [{}]", shape.join(", "))?;
            }
        }
        Ok(())
    }
}

fn layers_in_words(exported: usize, there: usize) -> String {
    if exported == there {
        format!("{there} layers")
    } else {
        format!("{exported} of {there} layers")
    }
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A size in the unit that fits.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

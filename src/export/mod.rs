//! The pipeline: open, identify, build the graph, place the weights, publish.

mod placement;
mod summary;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use summary::{Interface, ModelSummary, Size, Summary, WeightsSummary};

use crate::checkpoint::{self, Checkpoint, Leniency};
use crate::graph::Model;
use crate::model::{self, Options};
use crate::onnx;
use crate::progress::Progress;
use crate::publish::{self, Existing, Transaction};
use crate::weights::{self, Fingerprint, Store};
use placement::Placement;

/// What to export, from where, to where.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the weights are.
    pub origin: Origin,
    /// The ONNX file to write; without it, only weights are staged.
    pub output: Option<PathBuf>,
    /// A weights file to write besides.
    pub save_weights: Option<PathBuf>,
    /// Whether the model reads the weights where they are.
    pub external_data: ExternalData,
    /// Keep the first layers only.
    pub layers: Option<usize>,
    /// Names to overlook in the checkpoint.
    pub leniency: Leniency,
    /// The shape of the graph.
    pub graph: Options,
}

/// Where weights come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A checkpoint's folder.
    Checkpoint(PathBuf),
    /// A weights file that an export has staged.
    Weights(PathBuf),
}

/// Where the model reads its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalData {
    /// Where they are if ONNX allows it, else in a copy.
    Auto,
    /// Where they are.
    InPlace,
    /// In a weights file beside the model.
    Copy,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error("the graph could not be wired (please report this)")]
    Graph(#[from] crate::graph::Error),
    #[error(transparent)]
    Onnx(#[from] onnx::Error),
    #[error(transparent)]
    Publish(#[from] publish::Error),
    #[error(
        "`{}` says its weights have fingerprint {said}, but they have {found}: it was changed, stage it again", path.display()
    )]
    Changed { path: PathBuf, said: String, found: String },
    #[error("`{}` is a folder, not a file to write", .0.display())]
    IsFolder(PathBuf),
}

/// Runs a request. Whatever fails, the destination is as it was before.
pub fn export(request: &Request, progress: &dyn Progress) -> Result<Summary, Error> {
    let started = Instant::now();
    let checkpoint = open(request)?;
    let fingerprint = fingerprint(&checkpoint)?;
    let graph = match &request.output {
        Some(_) => Some(model::decoder(&checkpoint.config, &checkpoint.weights, request.graph)?),
        None => None,
    };
    let store = Store::plan(checkpoint.weights.iter(), &fingerprint, &checkpoint.config);
    let placement = Placement::decide(request, &checkpoint, &store, &fingerprint)?;

    let mut transaction = Transaction::default();
    let mut written = Vec::new();
    for path in placement.stores() {
        if store.is_missing(path, progress)? {
            let write = |file: &_| store.write(file, path, progress).map_err(Error::Weights);
            transaction.create(path, Existing::Keep, write)?;
            written.push(path.to_owned());
        }
    }
    let model = match (&request.output, &graph) {
        (Some(path), Some(graph)) => {
            let bytes = encode(graph, request, &checkpoint, &fingerprint, &placement)?;
            publish_graph(&mut transaction, path, &bytes)?;
            Some(ModelSummary::new(path, graph, bytes.len()))
        }
        _ => None,
    };
    if progress.is_cancelled() {
        return Err(weights::Error::Interrupted.into());
    }
    transaction.commit()?;
    Ok(Summary {
        layout: checkpoint.layout,
        layers: checkpoint.config.num_layers(),
        layers_there: checkpoint.layers_there,
        fingerprint: fingerprint.to_string(),
        model,
        weights: placement.summarise(&checkpoint, written, store.bytes()),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Reads what there is: headers, and of a staged file its fingerprint too.
fn open(request: &Request) -> Result<Checkpoint, Error> {
    let mut checkpoint = match &request.origin {
        Origin::Checkpoint(folder) => Checkpoint::open(folder, &request.leniency)?,
        Origin::Weights(path) => {
            let (staged, said) = Checkpoint::open_staged(path)?;
            let found = fingerprint(&staged)?.to_string();
            if found != said {
                return Err(Error::Changed { path: path.clone(), said, found });
            }
            staged
        }
    };
    if let Some(layers) = request.layers {
        checkpoint.truncate(layers)?;
    }
    Ok(checkpoint)
}

fn fingerprint(checkpoint: &Checkpoint) -> Result<Fingerprint, weights::Error> {
    Fingerprint::of(&checkpoint.config.canonical(), checkpoint.weights.iter())
}

/// The ONNX file's bytes. They depend on the weights, the options and where
/// weights are relative to the model; not on dates, folders or machines.
fn encode(
    graph: &Model,
    request: &Request,
    checkpoint: &Checkpoint,
    fingerprint: &Fingerprint,
    placement: &Placement,
) -> Result<Vec<u8>, Error> {
    let properties = [
        ("gpt_oss_export.fingerprint", fingerprint.to_string()),
        ("gpt_oss_export.options", request.graph.to_string()),
        ("gpt_oss_export.layers", checkpoint.config.num_layers().to_string()),
    ];
    let description =
        "GPT-OSS in standard ONNX operators; weights are byte ranges of SafeTensors files.";
    let metadata = onnx::Metadata { description, properties: &properties };
    Ok(onnx::encode(graph, &metadata, &|weight| placement.locate(weight))?)
}

fn publish_graph(transaction: &mut Transaction, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::IsFolder(path.to_owned()));
    }
    let write = |mut file: &std::fs::File| file.write_all(bytes).map_err(publish::Error::at(path));
    transaction.create(path, Existing::Replace, |file| write(file).map_err(Error::Publish))
}

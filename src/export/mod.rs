//! The pipeline: open, identify, build the graph, place the weights, publish.

mod companions;
mod open;
mod placement;
mod report;
mod shards;
mod summary;
mod web;

use std::path::PathBuf;
use std::time::Instant;

pub use companions::GenaiSummary;
pub use summary::{
    Converted, ExpertsSummary, HubSummary, MatricesSummary, ModelSummary, Summary, WeightsSummary,
};
pub use web::WebSummary;

use crate::checkpoint::{self, Leniency, ModelWeights};
use crate::genai;
use crate::graph::Model;
use crate::hub::{self, Name};
use crate::model::{self, Options, Target};
use crate::onnx;
use crate::progress::Progress;
use crate::publish::{self, Existing, Transaction};
use crate::runtime::Provider;
use crate::transformers_js;
use crate::weights::{self, Format, Found, Matrix, Obstacle, Provenances, Roundings};
use companions::Companions;
use open::{Opened, open};
use placement::Placement;
use web::Page;

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
    /// The formats of matrices.
    pub formats: Formats,
    /// The shape of the graph.
    pub graph: Options,
    /// Make the model's folder one that onnxruntime-genai opens.
    pub genai: Option<Genai>,
    /// The most bytes of a file beside the model; there are several then.
    pub max_shard_size: Option<u64>,
}

impl Request {
    /// The shape of the graph, with what onnxruntime-genai and transformers.js need of
    /// it: a cache, and the logits of the last token, which the former otherwise takes
    /// from behind a prompt that ends in the padding token.
    pub fn options(&self) -> Options {
        let generates = self.genai.is_some() || self.graph.transformers_js;
        let kv_cache = self.graph.kv_cache || generates;
        Options { kv_cache, last_logits: self.graph.last_logits || generates, ..self.graph }
    }

    /// The most bytes of a file beside the model: a browser takes less than 2 GB.
    fn largest_shard(&self) -> Option<u64> {
        self.max_shard_size.or(self.graph.transformers_js.then_some(2_000_000_000))
    }

    /// Whether the weights are still on the hub, and stay there.
    fn headers_only(&self) -> bool {
        matches!(&self.origin, Origin::Hub(wanted) if wanted.headers_only)
    }
}

/// The formats that matrices are put into; without one they stay as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Formats {
    /// That of the experts.
    pub experts: Option<Format>,
    /// That of attention and of the logits.
    pub dense: Option<Format>,
    /// Whether a number may come out different where a format is not for rounding.
    pub accept_rounding: bool,
}

impl Formats {
    /// That of the experts for a provider: CUDA reads MXFP4 in an order of its own.
    fn experts_for(&self, provider: Provider, weights: &ModelWeights) -> Option<Format> {
        let is_mxfp4 = |matrix: &Matrix| matches!(matrix, Matrix::Mxfp4 { .. });
        let mxfp4 = match self.experts {
            Some(format) => format == Format::Mxfp4,
            None => weights.experts().all(is_mxfp4),
        };
        match provider {
            Provider::Cuda if mxfp4 => Some(Format::Mxfp4Columns),
            _ => self.experts,
        }
    }
}

/// How onnxruntime-genai is to use the model.
#[derive(Clone, Debug, Default)]
pub struct Genai {
    /// The longest text, prompt included; a default that fits a laptop otherwise.
    pub max_length: Option<u64>,
}

/// Where weights come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A checkpoint's folder.
    Checkpoint(PathBuf),
    /// A repository on the hub.
    Hub(FromHub),
    /// A weights file that an export has staged.
    Weights(PathBuf),
}

/// A checkpoint on the hub, and what to fetch of it.
#[derive(Clone, Debug)]
pub struct FromHub {
    /// What it is called.
    pub name: Name,
    /// The folder that it goes into; one beside the output otherwise.
    pub folder: Option<PathBuf>,
    /// Use what is here already.
    pub offline: bool,
    /// Fetch no weights: the model runs once they lie where it says.
    pub headers_only: bool,
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
    Hub(#[from] hub::Error),
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    Onnx(#[from] onnx::Error),
    #[error(transparent)]
    Publish(#[from] publish::Error),
    #[error(
        "`{}` says its contents have fingerprint {said}, but they have {found}: it was changed, stage it again", path.display()
    )]
    Changed { path: PathBuf, said: String, found: String },
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(transparent)]
    Genai(#[from] genai::Error),
    #[error("onnxruntime-genai gives prompts of any length, so --genai does not go with --seq-len")]
    GenaiLength,
    #[error("--headers-only fetches no weights, and {0} needs them")]
    NeedsWeights(&'static str),
    #[error("--headers-only leaves weights where they will be, and the model cannot read them from `{}`: {obstacle}", file.display())]
    AwaitedElsewhere { file: PathBuf, obstacle: Obstacle },
    #[error(
        "--max-shard-size and --transformers-js are for weights that are written, and --external-data in-place writes none"
    )]
    ShardsInPlace,
    #[error(
        "`{tensor}` and what a file needs besides take {bytes} bytes, and a file may have {most}: allow so many with --max-shard-size"
    )]
    ShardTooSmall { tensor: String, bytes: u64, most: u64 },
    #[error(transparent)]
    TransformersJs(#[from] transformers_js::Error),
    #[error("`{}` is not valid UTF-8, so no other file can name it", .0.display())]
    NotUnicode(PathBuf),
    #[error("`{}` is a folder, not a file to write", .0.display())]
    IsFolder(PathBuf),
}

/// Runs a request. Whatever fails, the destination is as it was before.
pub fn export(request: &Request, progress: &dyn Progress) -> Result<Summary, Error> {
    let started = Instant::now();
    let opened = open(request, progress)?;
    let Opened { checkpoint, .. } = &opened;
    let graph = match &request.output {
        Some(_) => {
            Some(model::decoder(&checkpoint.config, &checkpoint.weights, request.options())?)
        }
        None => None,
    };
    let companions = match (&request.output, &request.genai) {
        (Some(path), Some(genai)) => {
            Some(Companions::plan(request, path, genai.max_length, &opened)?)
        }
        _ => None,
    };
    let placement = Placement::decide(request, &opened).map_err(|error| match error {
        Error::Weights(weights::Error::NotInPlace { file, obstacle }) if request.headers_only() => {
            Error::AwaitedElsewhere { file, obstacle }
        }
        error => error,
    })?;
    let page = match &request.output {
        Some(path) if request.graph.transformers_js => {
            Some(Page::plan(path, placement.stores().count(), &opened, request)?)
        }
        _ => None,
    };

    let mut transaction = Transaction::default();
    let (mut written, mut roundings) = (Vec::new(), Roundings::default());
    for (path, store) in placement.stores() {
        let here = match store.find(path, progress)? {
            Found::Equal(roundings) => roundings,
            Found::Nothing => {
                written.push(path.to_owned());
                let write = |file: &_| store.write(file, path, progress).map_err(Error::Weights);
                transaction.create(path, Existing::Keep, write)?
            }
        };
        // A staged file holds everything, and comes first; what is beside the model is
        // the same again.
        match request.save_weights.is_some() {
            true if roundings == Roundings::default() => roundings = here,
            true => {}
            false => roundings += here,
        }
    }
    if let Some(companions) = &companions {
        companions.write(&mut transaction)?;
    }
    if let Some(page) = &page {
        page.write(&mut transaction)?;
    }
    let model = match (&request.output, &graph) {
        (Some(path), Some(graph)) => {
            let provenances = checkpoint.provenances.after(&roundings);
            let properties = properties(request, &opened, graph, &provenances);
            let bytes = encode(graph, request.graph.target, &properties, &placement)?;
            if path.is_dir() {
                return Err(Error::IsFolder(path.clone()));
            }
            transaction.create_from(path, Existing::Replace, &bytes)?;
            Some(ModelSummary::new(path, graph, bytes.len(), &request.options()))
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
        fingerprint: opened.fingerprint.as_ref().map(ToString::to_string),
        hub: opened.hub.clone(),
        source: match &request.origin {
            Origin::Weights(file) => file.clone(),
            _ => opened.folder.clone(),
        },
        model,
        genai: companions.map(Companions::summarise),
        transformers_js: page.map(Page::summarise),
        experts: ExpertsSummary::new(checkpoint, request.formats.experts.is_some(), &roundings),
        dense: MatricesSummary::new(
            checkpoint.weights.dense(),
            &checkpoint.provenances.dense,
            request.formats.dense.is_some(),
            &roundings.dense,
        ),
        weights: placement.summarise(checkpoint, written),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// What the ONNX file says of itself for programs.
fn properties(
    request: &Request,
    opened: &Opened,
    graph: &Model,
    provenances: &Provenances,
) -> Vec<(&'static str, String)> {
    let probes = |kind: &str| {
        let these = graph.probes.iter().filter(|(other, _)| *other == kind);
        let names: Vec<&str> = these.map(|(_, id)| graph.main.values[*id].0.as_str()).collect();
        names.join(" ")
    };
    let mut properties = vec![
        ("gpt_oss_export.options", request.options().to_string()),
        ("gpt_oss_export.requires", request.options().requires().to_owned()),
        ("gpt_oss_export.layers", opened.checkpoint.config.num_layers().to_string()),
        ("gpt_oss_export.experts", provenances.experts.canonical()),
        ("gpt_oss_export.dense", provenances.dense.canonical()),
        ("gpt_oss_export.residuals", probes(model::RESIDUALS)),
        ("gpt_oss_export.routers", probes(model::ROUTERS)),
    ];
    if let Some(fingerprint) = &opened.fingerprint {
        properties.insert(0, ("gpt_oss_export.fingerprint", fingerprint.to_string()));
    }
    if let Some(hub) = &opened.hub {
        properties.push(("gpt_oss_export.source", hub.source.clone()));
    }
    properties
}

/// The ONNX file's bytes. They depend on the weights, the options and where
/// weights are relative to the model; not on dates, folders or machines.
fn encode(
    graph: &Model,
    target: Target,
    properties: &[(&str, String)],
    placement: &Placement,
) -> Result<Vec<u8>, Error> {
    let operators = match target {
        Target::Onnx => "standard ONNX operators",
        Target::Ort => "ONNX Runtime's operators",
    };
    let description =
        format!("GPT-OSS in {operators}; weights are byte ranges of SafeTensors files.");
    let metadata = onnx::Metadata { description: &description, properties };
    Ok(onnx::encode(graph, &metadata, &|weight| placement.locate(weight))?)
}

//! What is asked for, and what of it is refused whatever the checkpoint is.

use std::path::PathBuf;

use crate::checkpoint::{Leniency, ModelWeights};
use crate::error::{Error, bail, err};
use crate::hub::RepoPath;
use crate::model::{self, BatchSymbol, GraphOptions, Provider};
use crate::package::{genai, transformers_js};
use crate::tensor::DType;
use crate::weights::{MatrixFormat, Role};

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
    pub graph: GraphOptions,
    /// Make the model's folder one that onnxruntime-genai opens.
    pub genai: Option<Genai>,
    /// Make the folder above the model's one that transformers.js opens.
    pub transformers_js: bool,
    /// The most bytes of a file beside the model; there are several then.
    pub max_shard_size: Option<u64>,
}

impl Request {
    /// One for a model of standard operators, as few bytes written as possible.
    pub fn new(origin: Origin, output: PathBuf) -> Self {
        Self {
            origin,
            output: Some(output),
            save_weights: None,
            external_data: ExternalData::Auto,
            layers: None,
            leniency: Leniency::default(),
            formats: Formats::default(),
            graph: GraphOptions::default(),
            genai: None,
            transformers_js: false,
            max_shard_size: None,
        }
    }

    /// The shape of the graph, with what onnxruntime-genai and transformers.js need of
    /// it: a cache, and the logits of the last token, which the former otherwise takes
    /// from behind a prompt that ends in the padding token. The latter knows the batch
    /// axis by its name.
    pub fn options(&self) -> GraphOptions {
        let mut options = self.graph;
        let generates = self.genai.is_some() || self.transformers_js;
        options.kv_cache |= generates;
        options.last_logits |= generates;
        if self.transformers_js {
            options.batch_symbol = BatchSymbol::BatchSize;
        }
        options
    }

    /// The most bytes of a file beside the model.
    pub(super) fn largest_shard(&self) -> Option<u64> {
        self.max_shard_size.or(self.transformers_js.then_some(transformers_js::MAX_FILE_BYTES))
    }

    /// Refuses what no checkpoint could make possible, before any is opened.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.formats.check()?;
        let Some(output) = &self.output else { return Ok(()) };
        if output.is_dir() {
            bail!("`{}` is a folder, expected a file to write", output.display());
        }
        if self.genai.is_some() {
            genai::check(&self.options())?;
        }
        if self.largest_shard().is_some() && self.external_data == ExternalData::InPlace {
            bail!(
                "a maximum shard size applies to copied weights, and in-place external data copies none"
            );
        }
        if self.transformers_js {
            transformers_js::check(output, &self.options(), self.max_shard_size)?;
        }
        model::check_options(&self.options())
    }

    /// Whether the weights are still on the hub, and stay there.
    pub(super) fn headers_only(&self) -> bool {
        matches!(&self.origin, Origin::Hub(wanted) if wanted.headers_only)
    }
}

/// The formats that matrices are put into; without one they stay as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Formats {
    /// That of the experts.
    pub experts: Option<MatrixFormat>,
    /// That of attention and of the logits.
    pub dense: Option<MatrixFormat>,
    /// Whether a number may come out different where a format is not for rounding.
    pub accept_rounding: bool,
}

impl Formats {
    /// Refuses what no matrices of a kind are written in.
    fn check(&self) -> Result<(), Error> {
        let is_refused = |format: &MatrixFormat, role| match format {
            MatrixFormat::Float(DType::F32 | DType::F16 | DType::BF16) | MatrixFormat::Int(_) => {
                false
            }
            MatrixFormat::Float(_) | MatrixFormat::FloatTransposed(_) => true,
            MatrixFormat::Mxfp4 | MatrixFormat::Mxfp4ColMajor => role == Role::Dense,
        };
        let asked = [(Role::Experts, self.experts), (Role::Dense, self.dense)];
        asked.into_iter().try_for_each(|(role, format)| {
            match format.filter(|format| is_refused(format, role)) {
                Some(format) => Err(err!("{role} cannot be converted to {format}")),
                None => Ok(()),
            }
        })
    }

    /// That of the experts for a provider: CUDA reads MXFP4 in an order of its own.
    pub(super) fn experts_for(
        &self,
        provider: Provider,
        weights: &ModelWeights,
    ) -> Option<MatrixFormat> {
        let mxfp4 = match self.experts {
            Some(format) => format == MatrixFormat::Mxfp4,
            None => !weights.formats(Role::Experts).contains(|it| it != MatrixFormat::Mxfp4),
        };
        match provider {
            Provider::Cuda if mxfp4 => Some(MatrixFormat::Mxfp4ColMajor),
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
    pub name: RepoPath,
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

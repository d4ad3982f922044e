//! A request with everything that it implies applied, and refused if options alone rule it
//! out. The pipeline knows nothing else.

use std::path::Path;

use super::request::{ExternalData, HubSource, Request, Source};
use crate::checkpoint::{Checkpoint, ModelWeights};
use crate::error::{Result, Setting, bail, ensure, err};
use crate::graph::Style;
use crate::model::{self, BatchSymbol, GraphOptions, Provider};
use crate::package::{genai, transformers_js};
use crate::tensor::DType;
use crate::weights::{FormatSet, MatrixFormat, PerRole, Role};

/// A resolved and checked [`Request`].
#[derive(Clone, Debug)]
pub struct Spec {
    /// With everything implied applied, except to the options of the graph.
    pub(super) request: Request,
    /// Settings that the preset changed.
    pub(super) preset_changes: Vec<String>,
    /// The options of the model at `output`.
    graph: Option<GraphOptions>,
}

impl Spec {
    /// Applies the preset and what options imply, and refuses what no checkpoint could make
    /// possible.
    pub fn resolve(mut request: Request) -> Result<Self> {
        let preset_changes = request.apply_preset();
        check_format(Role::Experts, request.experts)?;
        check_format(Role::Dense, request.dense)?;
        if request.source.headers_only() {
            check_headers_only(&request)?;
        }
        let output = request.output.clone();
        let graph = output.map(|path| resolve_model(&path, &mut request)).transpose()?;
        Ok(Self { request, preset_changes, graph })
    }

    /// The options of the graph, if a model is written.
    pub fn graph(&self) -> Option<&GraphOptions> {
        self.graph.as_ref()
    }

    /// The formats that matrices will have, as far as they are known before a checkpoint is
    /// opened: those of conversions and of a staged file. Only these may be integers.
    pub fn formats(&self) -> Result<PerRole<FormatSet>> {
        let Request { source, experts, dense, .. } = &self.request;
        let stored = match source {
            Source::Staged(path) => Some(Checkpoint::open_staged(path)?.0.weights),
            _ => None,
        };
        let formats = |role, asked: &Option<MatrixFormat>| match (asked, &stored) {
            (None, Some(weights)) => weights.formats(role),
            (asked, _) => asked.iter().copied().collect(),
        };
        Ok(PerRole { experts: formats(Role::Experts, experts), dense: formats(Role::Dense, dense) })
    }

    /// The format to convert experts to. CUDA reads MXFP4 in an order of its own, which a
    /// staged file for it has too.
    pub(super) fn experts_format(&self, weights: &ModelWeights) -> Option<MatrixFormat> {
        let is_mxfp4 = match self.request.experts {
            Some(format) => format == MatrixFormat::Mxfp4,
            None => !weights.formats(Role::Experts).contains(|it| it != MatrixFormat::Mxfp4),
        };
        if self.request.provider == Some(Provider::Cuda) && is_mxfp4 {
            return Some(MatrixFormat::Mxfp4ColMajor);
        }
        self.request.experts
    }
}

/// The options of the graph of the model at a path. What the model implies for its weights
/// is applied to the request.
fn resolve_model(path: &Path, request: &mut Request) -> Result<GraphOptions> {
    ensure!(!path.is_dir(), "`{}` is a folder, expected a file to write", path.display());
    let Request { genai, transformers_js, .. } = *request;
    if request.max_length.is_some() && !genai {
        return Err(err!("a maximum length applies to the files for onnxruntime-genai alone")
            .with_remedy(Setting::Genai, ""));
    }
    ensure!(
        !(genai && transformers_js),
        "one folder cannot serve both onnxruntime-genai and transformers.js: export twice"
    );
    let provider = request.provider.unwrap_or_default();
    let graph = GraphOptions {
        target: request.target.unwrap_or_default(),
        provider,
        compute: request.compute.unwrap_or_else(|| provider.default_compute()),
        keep_activations: request.keep_activations,
        style: if request.functions { Style::Functions } else { Style::Flat },
        batch: request.batch,
        length: request.length,
        kv_cache: request.kv_cache || genai || transformers_js,
        last_logits: request.last_logits || genai || transformers_js,
        batch_symbol: if transformers_js { BatchSymbol::BatchSize } else { BatchSymbol::B },
    };
    if genai {
        genai::check(&graph)?;
    }
    let mut copying = "a maximum shard size applies to copies of the weights";
    if transformers_js {
        transformers_js::check(path, &graph, request.max_shard_size)?;
        request.max_shard_size.get_or_insert(transformers_js::MAX_FILE_BYTES);
        copying = "transformers.js reads copies of the weights";
    }
    if request.max_shard_size.is_some() {
        if request.external_data == ExternalData::InPlace {
            return Err(err!("{copying}, and with external data in place nothing is copied")
                .with_remedy(Setting::ExternalData, "copy"));
        }
        ensure!(
            request.save_weights.is_none(),
            "{copying}, and the same export cannot stage them: stage the weights first, then export from the staged file"
        );
        // Existing files may be larger.
        request.external_data = ExternalData::Copy;
    } else if request.source.headers_only() {
        request.external_data = ExternalData::InPlace;
    }
    model::check_options(&graph)?;
    Ok(graph)
}

/// Whether matrices of a role can be converted to a format.
fn check_format(role: Role, format: Option<MatrixFormat>) -> Result<()> {
    use MatrixFormat::{Float, Int, Mxfp4};
    match format {
        None | Some(Int(_) | Float(DType::F32 | DType::F16 | DType::BF16)) => Ok(()),
        Some(Mxfp4) if role == Role::Experts => Ok(()),
        Some(format) => bail!("{role} cannot be converted to {format}"),
    }
}

/// Refuses what needs the weights.
fn check_headers_only(request: &Request) -> Result<()> {
    let needs_weights = [
        (request.save_weights.is_some(), "a staged weights file"),
        (request.experts.is_some(), "a conversion of experts"),
        (request.dense.is_some(), "a conversion of dense matrices"),
        (request.external_data == ExternalData::Copy, "a copy of the weights"),
        (request.max_shard_size.is_some(), "a copy of the weights"),
        (request.transformers_js, "a folder for transformers.js"),
    ];
    if let Some((_, what)) = needs_weights.iter().find(|(asked, _)| *asked) {
        bail!("{what} needs weight data, and only headers are fetched from the hub");
    }
    if let Source::Hub(HubSource { offline: true, .. }) = request.source {
        bail!("headers can only be fetched from the hub, which offline mode forbids");
    }
    Ok(())
}

//! What the options of a request imply. What no checkpoint could make possible is refused here; the
//! rest of the pipeline reads the [`Spec`] alone.

use std::path::Path;

use super::outputs::check_cut;
use super::{AdapterAs, ExternalData, HubSource, Preset, Request, RequestedAdapter, Source};
use crate::adapter::{self, AdapterFile};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Result, Setting, bail, ensure, err};
use crate::files::canonicalize_existing;
use crate::graph::Style;
use crate::model::{self, BatchSymbol, GraphOptions, SlidingCache, Target};
use crate::package::{genai, transformers_js};
use crate::tensor::DType;
use crate::weights::{FormatSet, MatrixFormat, PerRole, Role};

/// A resolved and checked [`Request`].
#[derive(Clone, Debug)]
pub struct Spec {
    /// After the preset, with implied formats and placement. Options of the graph (target to
    /// last_logits) are resolved in `graph` only.
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
        check_adapters(&request)?;
        check_cut(&request)?;
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

    /// The dtype in which the model multiplies; f32 if weights alone are staged.
    pub fn dtype_of_products(&self) -> DType {
        self.graph.as_ref().map_or(DType::F32, |graph| graph.compute)
    }

    /// What is known of the model before the export, which says what is wrong with its source: the
    /// formats that matrices will have, and the config. Unknown formats are never integers.
    pub fn foresee(&self) -> (PerRole<FormatSet>, Option<Config>) {
        let Request { source, ignored, experts, dense, layers, .. } = &self.request;
        let opened = match source {
            Source::Staged(path) => Checkpoint::open_staged(path).ok().map(|(opened, _)| opened),
            Source::Checkpoint(folder) => {
                // Names that adapters ignore need not be in their base.
                let files = self.request.adapters.iter().map(|it| &it.source.path);
                let files = files.map(|path| AdapterFile::open(path, ignored));
                Checkpoint::open(folder, &adapter::all_opened(files, ignored).1).ok()
            }
            Source::Hub(_) => None,
        };
        let opened = opened.and_then(|mut opened| {
            layers.map_or(Ok(()), |layers| opened.truncate(layers)).ok().map(|()| opened)
        });
        let formats = |role, asked: &Option<MatrixFormat>| match (asked, &opened) {
            // Only what adapters change gets another format.
            (asked, Some(opened)) if self.request.merges() => {
                let stored = opened.weights.matrices(role).map(|it| it.format);
                stored.chain([asked.unwrap_or(MatrixFormat::Float(DType::F32))]).collect()
            }
            (None, Some(opened)) => opened.weights.formats(role),
            (asked, _) => asked.iter().copied().collect(),
        };
        let formats = PerRole {
            experts: formats(Role::Experts, experts),
            dense: formats(Role::Dense, dense),
        };
        (formats, opened.map(|opened| opened.config))
    }
}

/// The options of the graph of the model at a path. What the model implies for its weights
/// is applied to the request.
fn resolve_model(path: &Path, request: &mut Request) -> Result<GraphOptions> {
    ensure!(!path.is_dir(), "`{}` is a folder, expected a file to write", path.display());
    ensure!(
        !path.starts_with("~") || Path::new("~").exists(),
        "`{}` begins with `~`, which the shell has not replaced: write the whole path",
        path.display()
    );
    let Request { genai, speculative, transformers_js, .. } = *request;
    for (asked, applies) in [
        (request.max_length.is_some(), "a maximum length applies"),
        (speculative, "speculative decoding applies"),
    ] {
        if asked && !genai {
            return Err(err!("{applies} to the files for onnxruntime-genai alone")
                .with_remedy(Setting::Genai, ""));
        }
    }
    ensure!(
        !(genai && transformers_js),
        "one folder cannot serve both onnxruntime-genai and transformers.js: export twice"
    );
    let provider = request.provider.unwrap_or_default();
    let mut graph = GraphOptions {
        target: request.target.unwrap_or(if speculative { Target::Ort } else { Target::Onnx }),
        provider,
        compute: request.compute.unwrap_or_else(|| provider.default_compute()),
        keep_activations: request.keep_activations,
        style: if request.functions { Style::Functions } else { Style::Flat },
        batch: request.batch.or(speculative.then_some(1)),
        length: request.length,
        kv_cache: request.kv_cache || genai || transformers_js,
        sliding_cache: SlidingCache::Full,
        last_logits: request.last_logits || genai && !speculative || transformers_js,
        batch_symbol: if transformers_js { BatchSymbol::BatchSize } else { BatchSymbol::B },
    };
    if request.sliding_cache.is_some() && !graph.has_cache() {
        return Err(err!("what caches keep applies to a model with a cache alone")
            .with_remedy(Setting::KvCache, "")
            .with_remedy(Setting::Target, "ort"));
    }
    if graph.has_cache() {
        let can_limit = !genai || genai::shares_buffers(&graph) && !speculative;
        let default = if can_limit { SlidingCache::Window } else { SlidingCache::Full };
        graph.sliding_cache = request.sliding_cache.unwrap_or(default);
    }
    if genai {
        genai::check(&graph, speculative)?;
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
    use MatrixFormat::{Float, Int, Int4x2, Int8x2, Mxfp4, Nvfp4};
    match format {
        None | Some(Int(_) | Float(DType::F32 | DType::F16 | DType::BF16)) => Ok(()),
        Some(Mxfp4 | Nvfp4 | Int4x2) if role == Role::Experts => Ok(()),
        Some(Int8x2) if role == Role::Dense => Ok(()),
        Some(format) => bail!("{role} cannot be converted to {format}"),
    }
}

/// Refuses weights that add nothing, an adapter that is given twice, and adapters beside staged weights.
fn check_adapters(request: &Request) -> Result<()> {
    let Request { adapters, adapter_layout, adapter_as, save_weights, .. } = request;
    let real = |it: &RequestedAdapter| Ok(canonicalize_existing(&it.source.weights())?);
    let paths = adapters.iter().map(real).collect::<Result<Vec<_>>>()?;
    for (at, RequestedAdapter { source, .. }) in adapters.iter().enumerate() {
        source.check()?;
        let path = source.path.display();
        ensure!(
            *adapter_as == AdapterAs::Swappable || !paths[..at].contains(&paths[at]),
            "adapter `{path}` is there twice: give it once, with the sum of the weights"
        );
    }
    ensure!(
        adapter_layout.is_none() || !adapters.is_empty(),
        "the layout of an adapter's factors is given, and no adapter"
    );
    check_adapter_as(request)?;
    if save_weights.is_some() && !adapters.is_empty() && !request.merges() {
        return Err(err!(
            "a staged weights file holds a checkpoint without adapters: stage the checkpoint alone, then export from the staged file with its adapters, or merge them"
        )
        .with_remedy(Setting::AdapterAs, "merge"));
    }
    Ok(())
}

/// Refuses ways to have adapters that the rest of the request excludes.
fn check_adapter_as(request: &Request) -> Result<()> {
    let is_swappable = request.adapter_as == AdapterAs::Swappable;
    ensure!(
        !request.merges() || !request.adapters.is_empty(),
        "adapters are to be merged, and none is given"
    );
    ensure!(
        is_swappable || request.adapter_modules.is_empty(),
        "what adapters may change is given, and only a swappable model takes others than those that it is exported with: export one"
    );
    ensure!(
        !is_swappable || request.output.is_some(),
        "swappable adapters need inputs of a model, and only weights are staged: give the file of a model"
    );
    if is_swappable && request.preset == Some(Preset::Openvino) {
        return Err(err!(
            "OpenVINO takes optional inputs for constants, so that adapters cannot be swapped: add one inline"
        )
        .with_remedy(Setting::AdapterAs, "inline"));
    }
    Ok(())
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
        // What is replaced by the base's own values is not replaced.
        (request.adapters.iter().any(|it| it.source.weight != 1.0), "the weight of an adapter"),
        (request.adapters.len() > 1, "a sum of adapters"),
        (request.merges(), "merging"),
        (
            request.adapter_as == AdapterAs::Swappable && !request.adapters.is_empty(),
            "the file of a swappable adapter",
        ),
    ];
    if let Some((_, what)) = needs_weights.iter().find(|(asked, _)| *asked) {
        bail!("{what} needs weight data, and only headers are fetched from the hub");
    }
    if let Source::Hub(HubSource { offline: true, .. }) = request.source {
        bail!("headers can only be fetched from the hub, which offline mode forbids");
    }
    Ok(())
}

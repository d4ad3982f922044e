//! What to export, and what the options imply. What no checkpoint could make possible is refused
//! here; the rest of the pipeline reads the [`Spec`] alone.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::adapter::{self, FactorOrder};
use crate::checkpoint::{Checkpoint, IgnoredNames};
use crate::error::{Result, Setting, bail, ensure, err};
use crate::files::{canonicalize_existing, parent_dir};
use crate::graph::Style;
use crate::hub::RepoPath;
use crate::model::{self, BatchSymbol, GraphOptions, Provider, Target};
use crate::package::{genai, transformers_js};
use crate::tensor::DType;
use crate::tensor::ints::Bits;
use crate::weights::{FormatSet, MatrixFormat, PerRole, Role};

/// What an export is asked for. What is `None` or `false` is left to the preset, or to the
/// defaults; [`Spec::resolve`] decides.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct Request {
    pub source: Source,
    /// The ONNX file to write; `None` to stage weights only.
    pub output: Option<PathBuf>,
    pub save_weights: Option<PathBuf>,
    pub preset: Option<Preset>,
    /// Adapters to add to the checkpoint, in this order.
    pub adapters: Vec<AdapterSource>,
    pub adapter_as: AdapterAs,
    /// How adapters store the factors of experts, where their files do not tell.
    pub adapter_layout: Option<FactorOrder>,
    /// Names in the checkpoint and in adapters that count as absent.
    pub ignored: IgnoredNames,
    /// Export the first layers only.
    pub layers: Option<usize>,
    pub experts: Option<MatrixFormat>,
    /// Format to convert attention and lm_head to.
    pub dense: Option<MatrixFormat>,
    /// Accept that a conversion rounds values, beside integers, which always do.
    pub accept_rounding: bool,
    /// [`Target::Onnx`] by default.
    pub target: Option<Target>,
    /// The execution provider of [`Target::Ort`]; a CPU by default.
    pub provider: Option<Provider>,
    /// Dtype of attention, matrix products and the cache; by default F32 on a CPU and F16 on
    /// a GPU.
    pub compute: Option<DType>,
    /// Keep activations in float beside integer weights.
    pub keep_activations: bool,
    pub functions: bool,
    pub batch: Option<u64>,
    pub length: Option<u64>,
    pub kv_cache: bool,
    /// Logits of each row's last token alone.
    pub last_logits: bool,
    pub external_data: ExternalData,
    /// Largest size of a weights file in bytes; copies the weights.
    pub max_shard_size: Option<u64>,
    /// Write what onnxruntime-genai needs beside the model.
    pub genai: bool,
    /// With `genai`: longest text in tokens, prompt included.
    pub max_length: Option<u64>,
    /// Write what transformers.js needs beside the model.
    pub transformers_js: bool,
}

/// Where weights come from.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Source {
    Checkpoint(PathBuf),
    Hub(HubSource),
    Staged(PathBuf),
}

impl Default for Source {
    /// The checkpoint in the current folder.
    fn default() -> Self {
        Self::Checkpoint(".".into())
    }
}

impl Source {
    /// Whether the weights stay on the hub.
    pub(super) fn headers_only(&self) -> bool {
        matches!(self, Self::Hub(HubSource { headers_only: true, .. }))
    }
}

/// A checkpoint or an adapter on the hub, and what to fetch of it.
#[derive(Clone, Debug)]
pub struct HubSource {
    /// Repository, revision and folder.
    pub name: RepoPath,
    /// The folder for its files; by default one beside the output.
    pub folder: Option<PathBuf>,
    /// Use only files that are on this machine.
    pub offline: bool,
    /// Fetch no weights; the model runs once they are where it reads them.
    pub headers_only: bool,
}

/// An adapter, and how much of it to add.
#[derive(Clone, Debug)]
pub struct AdapterSource {
    /// Its folder, or its SafeTensors file.
    pub path: PathBuf,
    /// Where the hub has what is fetched into the folder.
    pub hub: Option<HubSource>,
    /// Multiplies what it adds; 1 adds what was trained.
    pub weight: f64,
}

/// How a model has its adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterAs {
    /// Their factors are constants beside the base's weights.
    #[default]
    Inline,
    /// Folded into the weights that they change.
    Merge,
}

/// Where a model reads its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalData {
    /// In place if ONNX allows it, otherwise from a copy.
    #[default]
    Auto,
    /// From the checkpoint or staged file itself.
    InPlace,
    /// From a weights file beside the model.
    Copy,
}

/// A runtime, with the settings that suit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Preset {
    Onnxruntime,
    Genai,
    /// OpenVINO, or any runtime with standard operators.
    Openvino,
    TransformersJs,
    Cuda,
    Webgpu,
}

impl Request {
    /// A request with the defaults: standard operators, as few bytes written as possible.
    pub fn new(source: Source) -> Self {
        Self { source, ..Self::default() }
    }

    /// The default folder for the files of a repository: beside what is written.
    pub fn download_folder(&self, name: &RepoPath) -> PathBuf {
        let beside = self.output.as_ref().or(self.save_weights.as_ref());
        beside.map_or(Path::new("."), |path| parent_dir(path)).join(name.default_folder())
    }

    /// Whether adapters are folded into the weights.
    pub(super) fn merges(&self) -> bool {
        self.adapter_as == AdapterAs::Merge
    }

    /// Applies the preset to what was not asked for; the settings that it changed.
    fn apply_preset(&mut self) -> Vec<String> {
        let Some(preset) = self.preset else { return Vec::new() };
        let (target, provider, experts) = match preset {
            Preset::Onnxruntime | Preset::Genai => (Target::Ort, Provider::Cpu, None),
            Preset::Openvino => (Target::Onnx, Provider::Cpu, None),
            Preset::Cuda => (Target::Ort, Provider::Cuda, None),
            // WebGPU's kernels read integers alone; int4 fits the memory of a GPU.
            Preset::TransformersJs | Preset::Webgpu => {
                (Target::Ort, Provider::WebGpu, Some(MatrixFormat::Int(Bits::Four)))
            }
        };
        let mut set = Vec::new();
        if self.target.is_none() {
            set.push(format!("target {}", self.target.insert(target)));
        }
        if self.provider.is_none() && self.target == Some(Target::Ort) {
            set.push(format!("execution provider {}", self.provider.insert(provider)));
        }
        if let (None, Some(format)) = (self.experts, experts) {
            set.push(format!("experts {} (rounds)", self.experts.insert(format)));
        }
        let (genai, js) = (preset == Preset::Genai, preset == Preset::TransformersJs);
        for (setting, value, name) in [
            (&mut self.kv_cache, true, "cache"),
            (&mut self.last_logits, true, "logits of the last token"),
            (&mut self.genai, genai, "files for onnxruntime-genai"),
            (&mut self.transformers_js, js, "files for transformers.js"),
        ] {
            if value && !std::mem::replace(setting, true) {
                set.push(name.to_owned());
            }
        }
        set
    }
}

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

    /// The names of the adapters' folders or files.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        let names = self.request.adapters.iter().map(|it| it.path.file_name());
        names.map(|name| name.and_then(OsStr::to_str).unwrap_or("."))
    }

    /// The formats that matrices will have, as far as they are known before a checkpoint is
    /// opened: those of conversions and of a staged file, whose header is read. Formats that are
    /// not known yet are never integers.
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

/// Refuses weights that add nothing, an adapter that is there twice, and to stage adapters.
fn check_adapters(request: &Request) -> Result<()> {
    let Request { adapters, adapter_layout, save_weights, .. } = request;
    let real = |AdapterSource { path, .. }: &AdapterSource| {
        let file = if path.is_dir() { path.join(adapter::WEIGHTS) } else { path.clone() };
        Ok(canonicalize_existing(&file)?)
    };
    let paths = adapters.iter().map(real).collect::<Result<Vec<_>>>()?;
    for (at, AdapterSource { path, weight, .. }) in adapters.iter().enumerate() {
        let path = path.display();
        ensure!(
            weight.is_finite() && *weight != 0.0,
            "adapter `{path}` has the weight {weight}, expected a number other than 0, such as 0.5: leave the adapter out to add nothing"
        );
        ensure!(
            !paths[..at].contains(&paths[at]),
            "adapter `{path}` is there twice: give it once, with the sum of the weights"
        );
    }
    ensure!(
        adapter_layout.is_none() || !adapters.is_empty(),
        "the layout of an adapter's factors is given, and no adapter"
    );
    ensure!(
        !request.merges() || !adapters.is_empty(),
        "adapters are to be merged, and none is given"
    );
    if save_weights.is_some() && !adapters.is_empty() && !request.merges() {
        return Err(err!(
            "a staged weights file holds a checkpoint without adapters: stage the checkpoint alone, then export from the staged file with its adapters, or merge them"
        )
        .with_remedy(Setting::AdapterAs, "merge"));
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
        (request.adapters.iter().any(|it| it.weight != 1.0), "the weight of an adapter"),
        (request.adapters.len() > 1, "a sum of adapters"),
        (request.merges(), "merging"),
    ];
    if let Some((_, what)) = needs_weights.iter().find(|(asked, _)| *asked) {
        bail!("{what} needs weight data, and only headers are fetched from the hub");
    }
    if let Source::Hub(HubSource { offline: true, .. }) = request.source {
        bail!("headers can only be fetched from the hub, which offline mode forbids");
    }
    Ok(())
}

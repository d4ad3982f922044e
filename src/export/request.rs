//! What to export.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::adapter::{AdapterSource, FactorOrder, ModuleGroup};
use crate::checkpoint::IgnoredNames;
use crate::files::parent_dir;
use crate::hub::RepoPath;
use crate::model::{Provider, SlidingCache, Target};
use crate::tensor::DType;
use crate::tensor::ints::Bits;
use crate::weights::MatrixFormat;

/// What an export is asked for. What is `None` or `false` is left to the preset, or to the
/// defaults; [`Spec::resolve`](super::Spec::resolve) decides.
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
    pub adapters: Vec<RequestedAdapter>,
    pub adapter_as: AdapterAs,
    /// What a runtime may change besides, if adapters are swappable. By default attention, unless
    /// there are adapters.
    pub adapter_modules: Vec<ModuleGroup>,
    /// How adapters store the factors of experts, where their files do not tell.
    pub adapter_layout: Option<FactorOrder>,
    /// Names in the checkpoint and in adapters that count as absent.
    pub ignored: IgnoredNames,
    /// Export the first layers only.
    pub layers: Option<usize>,
    /// Cut the model.
    pub cut: Option<Cut>,
    /// Write this stage alone, from 1.
    pub only_stage: Option<usize>,
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
    /// What the caches of sliding layers keep; by default the window, where the runtime can use it.
    pub sliding_cache: Option<SlidingCache>,
    /// Logits of each row's last token alone.
    pub last_logits: bool,
    pub external_data: ExternalData,
    /// Largest size of a weights file in bytes; copies the weights.
    pub max_shard_size: Option<u64>,
    /// Write what onnxruntime-genai needs beside the model.
    pub genai: bool,
    /// With `genai`: longest text in tokens, prompt included.
    pub max_length: Option<u64>,
    /// With `genai`: draft tokens where a text repeats itself, and verify several in a step.
    pub speculative: bool,
    /// Write what transformers.js needs beside the model.
    pub transformers_js: bool,
}

/// What becomes graphs of their own. Layers count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// So many stages; the largest reads as few bytes as possible.
    Stages(usize),
    /// A stage for each of these ranges of layers.
    At(Vec<Range<usize>>),
    /// Some layers alone, at the output itself.
    Part(Range<usize>),
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

/// An adapter, wherever it is.
#[derive(Clone, Debug)]
pub struct RequestedAdapter {
    /// On this machine, once it is fetched.
    pub source: AdapterSource,
    /// Where the hub has it.
    pub hub: Option<HubSource>,
}

/// What becomes of adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterAs {
    /// The model adds them, from their own files.
    #[default]
    Inline,
    /// A runtime adds those that it is told to, from files beside the model.
    Swappable,
    /// They are folded into the weights that they change.
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

    /// Whether some layers of the model are not needed on this machine.
    pub(super) fn leaves_layers(&self) -> bool {
        let is_part = self.only_stage.is_some() || matches!(self.cut, Some(Cut::Part(_)));
        is_part && self.save_weights.is_none()
    }

    /// Applies the preset to what was not asked for; the settings that it changed.
    pub(super) fn apply_preset(&mut self) -> Vec<String> {
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
        let last_logits = !self.speculative;
        for (setting, value, name) in [
            (&mut self.kv_cache, true, "cache"),
            (&mut self.last_logits, last_logits, "logits of the last token"),
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

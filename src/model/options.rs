//! The options of a graph.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::graph::Style;
use crate::tensor::DType;
use crate::weights::{FormatSet, MatrixFormat, PerRole, Role};

/// The options of a graph, as they are stored in the model's metadata too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphOptions {
    /// Which operators.
    pub target: Target,
    /// The execution provider of ONNX Runtime that [`Target::Ort`] is for.
    pub provider: Provider,
    /// Dtype of attention, matrix products and the cache: F32, F16 or BF16.
    pub compute: DType,
    /// Keep activations in float beside integer weights: by default ONNX Runtime's CPU
    /// kernels quantize them to 8 bits, which is several times faster.
    pub keep_activations: bool,
    /// Flat, or with a function for each block.
    pub style: Style,
    /// Rows of a batch; [`Self::batch_symbol`] if `None`.
    pub batch: Option<u64>,
    /// Tokens of a row; `T` if `None`.
    pub length: Option<u64>,
    /// Cache inputs and outputs. [`Target::Ort`] always has them.
    pub kv_cache: bool,
    /// What the caches of sliding layers keep.
    #[serde(default)]
    pub sliding_cache: SlidingCache,
    /// Logits of each row's last token alone.
    pub last_logits: bool,
    /// Name of a symbolic batch axis.
    pub batch_symbol: BatchSymbol,
}

/// The operators that a graph may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// ai.onnx alone.
    #[default]
    Onnx,
    /// ONNX Runtime's own, com.microsoft, besides.
    Ort,
}

/// An execution provider of ONNX Runtime; they differ in the operators that they support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Provider {
    #[default]
    Cpu,
    Cuda,
    WebGpu,
}

/// What the cache of a layer with a sliding window keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlidingCache {
    /// All tokens, as other layers do.
    #[default]
    Full,
    /// The last tokens of each row: those that the next token sees, and some more.
    Window,
}

/// Names of a symbolic batch axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchSymbol {
    /// `B`
    #[default]
    B,
    /// `batch_size`, as transformers.js expects.
    #[serde(rename = "batch_size")]
    BatchSize,
}

impl Target {
    /// The oldest onnxruntime that computes the graph correctly on a CPU: 1.23.0 computes
    /// wrong logits.
    pub fn oldest_onnxruntime(self) -> [u32; 3] {
        match self {
            Self::Onnx => [1, 23, 1],
            Self::Ort => [1, 32, 0],
        }
    }
}

impl Provider {
    /// The default compute dtype: for GPUs what all of them support.
    pub fn default_compute(self) -> DType {
        if self == Self::Cpu { DType::F32 } else { DType::F16 }
    }
}

impl GraphOptions {
    /// What runs the graph, for people.
    pub fn requires(&self) -> &'static str {
        match (self.target, self.provider) {
            (Target::Onnx, _) if self.compute == DType::BF16 => {
                "a runtime with opset 23 and kernels for BF16, which onnxruntime has on GPUs"
            }
            (Target::Onnx, _) => "a runtime with opset 23, such as onnxruntime 1.23.1 or newer",
            (Target::Ort, Provider::Cpu) => "onnxruntime 1.32 or newer, on a CPU",
            (Target::Ort, Provider::Cuda) => {
                "onnxruntime 1.32 or newer with CUDA (1.30 for experts in integers), on a GPU with compute capability 8.0 or newer"
            }
            (Target::Ort, Provider::WebGpu) => {
                "onnxruntime 1.27 or newer with WebGPU, natively, or in a browser if no weights are in BF16"
            }
        }
    }

    /// Whether the graph has cache inputs and outputs.
    pub fn has_cache(&self) -> bool {
        self.kv_cache || self.target == Target::Ort
    }

    /// The window to which the cache of a layer with this window is limited; `None` if it keeps all
    /// tokens.
    pub fn cache_window(&self, window: Option<u64>) -> Option<u64> {
        let is_limited = self.has_cache() && self.sliding_cache == SlidingCache::Window;
        // ONNX Runtime counts with 32 bits, so that a longer window is none.
        window.filter(|size| is_limited && i32::try_from(*size).is_ok())
    }

    /// Whether it takes `attention_mask`.
    pub fn has_mask(&self) -> bool {
        self.has_cache() || self.last_logits
    }

    /// Whether ONNX Runtime's CPU kernels quantize activations beside integer weights.
    pub fn quantizes_activations(&self) -> bool {
        (self.target, self.provider) == (Target::Ort, Provider::Cpu) && !self.keep_activations
    }

    /// Whether few tokens are multiplied with the digits of a matrix in this format. Not in standard
    /// operators: OpenVINO does not read the graph.
    pub fn multiplies_digits(&self, format: MatrixFormat) -> bool {
        let is_wanted = self.target == Target::Ort && !self.keep_activations;
        is_wanted && format == MatrixFormat::Int8x2
    }

    /// What a runtime rounds while it computes with matrices in these formats, as clauses.
    pub fn rounding(&self, formats: &PerRole<FormatSet>) -> Vec<&'static str> {
        let has_digits = formats[Role::Dense].contains(|it| self.multiplies_digits(it));
        let digits = "dense matrices in int8x2 multiply activations of up to 64 tokens in 21 bits";
        let small = has_digits.then_some(digits);
        self.large_rounding(formats).into_iter().chain(small).collect()
    }

    /// The same but for what is hardly more than the noise of float32.
    pub fn large_rounding(&self, formats: &PerRole<FormatSet>) -> Vec<&'static str> {
        let has_ints = |role: Role| formats[role].contains(MatrixFormat::is_int);
        let on_webgpu = (self.target, self.provider) == (Target::Ort, Provider::WebGpu);
        [
            (self.compute == DType::F16, "it computes in f16"),
            (self.compute == DType::BF16, "it computes in bf16"),
            (
                self.quantizes_activations() && Role::ALL.into_iter().any(has_ints),
                "onnxruntime quantizes activations to 8 bits with integer weights, unless activations are kept in float",
            ),
            (
                on_webgpu && has_ints(Role::Experts),
                "onnxruntime may quantize activations to 8 bits with integer experts, depending on the GPU",
            ),
        ]
        .into_iter()
        .filter_map(|(rounds, clause)| rounds.then_some(clause))
        .collect()
    }
}

macro_rules! display_as_in_metadata {
    ($($option:ident),+) => {$(
        impl fmt::Display for $option {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )+};
}

display_as_in_metadata!(Target, Provider, SlidingCache, BatchSymbol);

//! What the caller decides about the graph.

use std::fmt;

use crate::graph::Style;
use crate::runtime::Provider;
use crate::tensor::DType;

/// The shape of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whose operators.
    pub target: Target,
    /// Which of ONNX Runtime's execution providers, for [`Target::Ort`].
    pub provider: Provider,
    /// What attention and matrix products compute in, and the cache holds: F32, F16
    /// or BF16.
    pub compute: DType,
    /// On a CPU ONNX Runtime multiplies integers with activations as they are, and not
    /// rounded to 8 bits, which is several times faster.
    pub keep_activations: bool,
    /// Flat, or with a function for each block.
    pub style: Style,
    /// [`Self::batch_symbol`] when not given.
    pub batch: Option<u64>,
    /// `T` when not given.
    pub length: Option<u64>,
    /// Takes earlier keys and values and gives them with this step's. A graph
    /// for ONNX Runtime always does.
    pub kv_cache: bool,
    /// Logits for the last token of each row alone.
    pub last_logits: bool,
    /// What the batch axis is called where its size is not fixed.
    pub batch_symbol: &'static str,
}

/// What the metadata says of activations that meet integers and are not rounded.
pub const KEPT: &str = "kept";

/// The operators that a graph may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Those of ai.onnx alone.
    #[default]
    Onnx,
    /// ONNX Runtime's own, com.microsoft, besides.
    Ort,
}

impl Target {
    /// That of a model whose metadata has these options.
    pub fn of(options: &str) -> Self {
        let is_for_ort = options.split(' ').any(|option| option == "target=ort");
        if is_for_ort { Self::Ort } else { Self::Onnx }
    }

    /// The oldest onnxruntime that computes the graph as it is meant, on a CPU.
    pub fn onnxruntime(self) -> [u32; 3] {
        match self {
            Self::Onnx => [1, 23, 1],
            Self::Ort => [1, 32, 0],
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: Target::default(),
            provider: Provider::default(),
            compute: DType::F32,
            keep_activations: false,
            style: Style::default(),
            batch: None,
            length: None,
            kv_cache: false,
            last_logits: false,
            batch_symbol: "B",
        }
    }
}

impl Options {
    /// What a model for a provider computes in where nobody says: what all GPUs can.
    pub fn usual_compute(provider: Provider) -> DType {
        match provider {
            Provider::Cpu => DType::F32,
            Provider::Cuda | Provider::WebGpu => DType::F16,
        }
    }

    /// What runs the graph, for people.
    pub fn requires(&self) -> &'static str {
        match (self.target, self.provider) {
            (Target::Onnx, _) if self.compute == DType::BF16 => {
                "a runtime with opset 23 and kernels for BF16, which onnxruntime has on GPUs"
            }
            (Target::Onnx, _) => "a runtime with opset 23, such as onnxruntime 1.23.1 or newer",
            (Target::Ort, Provider::Cpu) => "onnxruntime 1.32 or newer, on a CPU",
            (Target::Ort, Provider::Cuda) => {
                "onnxruntime 1.30 or newer with CUDA, on a GPU with compute capability 8.0 or newer"
            }
            (Target::Ort, Provider::WebGpu) => {
                "onnxruntime 1.27 or newer with WebGPU, natively or in a browser"
            }
        }
    }

    /// Whether the graph has a key-value cache.
    pub fn has_cache(&self) -> bool {
        self.kv_cache || self.target == Target::Ort
    }

    /// Whether it takes `attention_mask`, which tells tokens from padding.
    pub fn has_mask(&self) -> bool {
        self.has_cache() || self.last_logits
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Onnx => "onnx",
            Self::Ort => "ort",
        })
    }
}

impl fmt::Display for Options {
    /// As it is written into the model's metadata.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |fixed: Option<u64>, symbol: &str| {
            fixed.map_or(symbol.to_owned(), |size| size.to_string())
        };
        write!(
            f,
            "target={} ep={} compute={} style={} batch={} sequence={} cache={} logits={}",
            self.target,
            self.provider,
            self.compute,
            if self.style == Style::Flat { "flat" } else { "functions" },
            size(self.batch, self.batch_symbol),
            size(self.length, "T"),
            if self.has_cache() { "yes" } else { "no" },
            if self.last_logits { "last" } else { "all" },
        )?;
        if self.target == Target::Ort && self.keep_activations {
            write!(f, " activations={KEPT}")
        } else {
            Ok(())
        }
    }
}

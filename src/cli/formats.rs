//! Words of the command line for formats, dtypes and execution providers.

use clap::ValueEnum;
use gpt_oss_export::runtime::Provider;
use gpt_oss_export::tensor::DType;
use gpt_oss_export::tensor::ints::Bits;
use gpt_oss_export::weights::Format;

/// A format for experts.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FormatName {
    /// Blocks of 32 four-bit numbers that share a scale, as released
    Mxfp4,
    /// Integers of 8 bits, 32 of which share a scale: exact for MXFP4
    Int8,
    /// Integers of 4 bits, 32 of which share a scale
    Int4,
    /// BF16, an output a row
    Bf16,
    /// F16, an output a row
    F16,
    /// F32, an output a row
    F32,
}

impl FormatName {
    pub fn format(self) -> Format {
        match self {
            Self::Mxfp4 => Format::Mxfp4,
            Self::Int8 => Format::Ints(Bits::Eight),
            Self::Int4 => Format::Ints(Bits::Four),
            Self::Bf16 => Format::Numbers(DType::BF16),
            Self::F16 => Format::Numbers(DType::F16),
            Self::F32 => Format::Numbers(DType::F32),
        }
    }
}

/// A format for the matrices of attention and of the logits.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DenseName {
    /// As they are
    Keep,
    /// Integers of 8 bits, 32 of which share a scale
    Int8,
    /// Integers of 4 bits, 32 of which share a scale; of 8 for the logits
    Int4,
    /// BF16
    Bf16,
    /// F16
    F16,
    /// F32
    F32,
}

impl DenseName {
    pub fn format(self) -> Option<Format> {
        Some(match self {
            Self::Keep => return None,
            Self::Int8 => Format::Ints(Bits::Eight),
            Self::Int4 => Format::Ints(Bits::Four),
            Self::Bf16 => Format::Numbers(DType::BF16),
            Self::F16 => Format::Numbers(DType::F16),
            Self::F32 => Format::Numbers(DType::F32),
        })
    }
}

/// What a model computes in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Compute {
    F32,
    F16,
    Bf16,
}

impl Compute {
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// One of ONNX Runtime's execution providers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Ep {
    /// Any processor
    Cpu,
    /// NVIDIA's GPUs
    Cuda,
    /// GPUs, natively or in a browser
    Webgpu,
}

impl Ep {
    pub fn provider(self) -> Provider {
        match self {
            Self::Cpu => Provider::Cpu,
            Self::Cuda => Provider::Cuda,
            Self::Webgpu => Provider::WebGpu,
        }
    }
}

//! Which processors.

use std::fmt;

/// One of onnxruntime's execution providers, by which operators differ in what they
/// take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Provider {
    #[default]
    Cpu,
    Cuda,
    WebGpu,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::WebGpu => "webgpu",
        })
    }
}

//! onnxruntime: where its library is, and models that run in it. Knows tensors by
//! name; nothing of GPT-OSS.

mod library;
mod session;
mod watch;

use std::path::PathBuf;

pub use library::{Library, Version};
pub use session::{Kind, Port, Session, Tensor};

/// Why a model does not run in onnxruntime.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(
        "no onnxruntime was found: give its library with --onnxruntime or ORT_DYLIB_PATH, or `pip install onnxruntime` for the python3 on the PATH"
    )]
    Missing,
    #[error("`{}` holds no library of onnxruntime: --onnxruntime takes the library, or the folder it is in", .0.display())]
    NotThere(PathBuf),
    #[error("`{}` is no library that this system can load: --onnxruntime takes onnxruntime's own, such as libonnxruntime.so.1.32.0, or the folder it is in", .0.display())]
    NoLibrary(PathBuf),
    #[error("`{}` cannot be loaded as onnxruntime: {reason}", path.display())]
    Library { path: PathBuf, reason: String },
    #[error("`{}` is onnxruntime {found}, and models need 1.23.1 or newer", path.display())]
    Old { path: PathBuf, found: String },
    #[error("this process runs the onnxruntime of `{}` already", .0.display())]
    Another(PathBuf),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{library} does not load `{}`: {reason}", model.display())]
    Load { model: PathBuf, library: String, reason: String },
    #[error("onnxruntime failed while it ran the model: {0}")]
    Run(String),
    #[error("interrupted")]
    Interrupted,
}

type Result<T> = std::result::Result<T, Error>;

/// Says whether work should stop.
pub type Stop<'s> = dyn Fn() -> bool + Sync + 's;

/// What onnxruntime says, on one line.
fn reason(error: &::ort::Error) -> String {
    error.message().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether this is a processor of Intel's architecture without the instructions that
/// onnxruntime's fast kernel for MXFP4 is made of. How fast others are was not measured.
pub fn lacks_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !(std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw"));
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

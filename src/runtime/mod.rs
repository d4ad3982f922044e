//! onnxruntime: finds and loads its library, and runs models. Knows tensors by name, and
//! nothing of GPT-OSS.

mod binding;
mod library;
mod session;

pub use binding::Binding;
pub use library::Library;
pub use session::{Session, TensorValue};

/// The message of an error on one line.
fn message(error: &::ort::Error) -> String {
    error.message().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether this is an x86-64 processor without AVX-512, which onnxruntime's fast MXFP4
/// kernel needs. Other architectures were not measured.
pub fn lacks_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !(std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw"));
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

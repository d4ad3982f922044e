//! Tests of the binary on real files. Those below `python` need network and Python, for
//! onnxruntime and onnx.

mod architecture;
mod cli;
mod conversions;
mod derived;
mod documents;
mod endings;
mod fake_hub;
mod genai;
mod graph;
mod graph_text;
mod hub_download;
mod hub_export;
mod hub_folder;
mod hub_refusals;
mod inspect;
mod layouts;
mod mutations;
mod packages;
mod provenance;
mod python {
    mod cached;
    mod cli;
    mod combinations;
    #[cfg(target_os = "linux")]
    mod comparison;
    mod conversions;
    mod documents;
    mod environment;
    mod faults;
    mod genai;
    mod graph;
    #[cfg(unix)]
    mod hostile;
    mod hub;
    mod inspect;
    #[cfg(unix)]
    mod killed;
    mod layouts;
    mod numerics;
    mod sizes;
    mod transformers_js;
    pub mod verify;
    mod verify_refusals;
    mod wheel;
}
mod reference;
mod refusals;
mod sizes;
mod staging;
mod suggest;
mod support;
mod transformers_js;
mod untrusted_metadata;

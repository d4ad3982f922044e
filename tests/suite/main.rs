//! Tests of the binary on real files. Those below `python` need network and Python, for
//! onnxruntime and onnx.

mod architecture;
mod cli;
mod config;
mod conversions;
mod documents;
mod fake_hub;
mod genai;
mod graph;
mod graph_text;
mod headers;
mod hub_download;
mod hub_export;
mod hub_folder;
mod inspect;
mod interrupted;
mod layout_fixtures;
mod matrix_formats;
mod mutations;
mod provenance;
mod python {
    mod cached;
    mod combinations;
    mod documents;
    mod environment;
    mod faults;
    mod graph;
    #[cfg(unix)]
    mod hostile;
    mod inspect;
    #[cfg(unix)]
    mod killed;
    mod layouts;
    mod numerics;
    mod packages;
    pub mod verify;
    mod verify_refusals;
}
mod reference;
mod reference_reading;
mod reference_refusals;
mod refusals;
mod repo_path;
mod shards;
mod sizes;
mod staging;
mod support;
mod transformers_js;
mod untrusted_metadata;
mod weights_file;

//! Tests of the binary on real files. Those below `python` need network and Python, for
//! onnxruntime and onnx.

// Tests of links, signals and shells are for Unix alone.
#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

mod adapter_exports;
mod adapter_files;
mod adapter_refusals;
mod adapters;
mod architecture;
mod cli;
mod config;
mod config_errors;
mod config_readings;
mod conversions;
mod documents;
mod existing_files;
mod fake_hub;
mod folders;
mod foreign_tensors;
mod genai;
mod generate;
mod graph;
mod graph_document;
mod graph_text;
mod headers;
mod hub_adapters;
mod hub_download;
mod hub_export;
mod hub_folder;
mod incomplete_adapters;
mod inconsistent_saves;
mod inspect;
mod interrupted;
mod json_document;
mod layout_fixtures;
#[cfg(unix)]
mod limits;
mod matrix_formats;
mod merged;
mod mutations;
#[cfg(unix)]
mod paths;
mod places;
mod provenance;
mod puzzle;
mod python {
    mod adapter_faults;
    mod adapters;
    mod cached;
    #[cfg(unix)]
    mod chat_page;
    mod combinations;
    mod documents;
    mod environment;
    mod examples;
    pub mod faults;
    mod faulty;
    mod generate;
    mod graph;
    #[cfg(unix)]
    mod hostile;
    mod inspect;
    mod int8x2;
    #[cfg(unix)]
    mod killed;
    mod layouts;
    mod lossless_experts;
    mod merged;
    mod numerics;
    mod packages;
    mod page;
    mod peft;
    mod puzzle;
    mod reader_faults;
    mod serving;
    mod sliding_cache;
    mod speculative;
    mod stage_runs;
    mod stages;
    mod summaries;
    mod swappable;
    mod text;
    mod trained;
    mod transformers;
    pub mod verify;
    mod verify_adapters;
    mod verify_forms;
    mod verify_merged;
    mod verify_refusals;
    mod verify_remedies;
    mod workflows;
}
mod reference;
mod reference_adapters;
mod reference_reading;
mod reference_refusals;
mod refusals;
#[cfg(unix)]
mod release;
mod repo_path;
mod shards;
mod sizes;
mod sliding_cache;
mod speculative;
mod stage_files;
mod stages;
mod staging;
mod support;
mod swappable;
mod tensor_names;
mod tensor_problems;
mod tokenizer;
mod transformers_js;
mod untrusted_metadata;
mod weights_file;
mod zeros;

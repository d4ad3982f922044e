//! Generates `proto/onnx.rs` from `proto/onnx.proto`.

use std::error::Error;
use std::fs;

use prost_build::{Config, Module};

const SCHEMA_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const GENERATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../onnx.rs");
const HEADER: &str = "// From proto/onnx.proto, by `cargo run -p proto`.\n";

fn main() -> Result<(), Box<dyn Error>> {
    Ok(fs::write(GENERATED, generate()?)?)
}

fn generate() -> Result<String, Box<dyn Error>> {
    let schema = protox::compile(["onnx.proto"], [SCHEMA_FOLDER])?;
    let requests = schema.file.into_iter().map(|file| (Module::from_parts(["onnx"]), file));
    let modules = Config::new().generate(requests.collect())?;
    let code: String = modules.into_values().collect();
    Ok(format!("{HEADER}{code}"))
}

#[test]
fn generated_code_is_current() {
    let current = fs::read_to_string(GENERATED).unwrap();
    assert!(
        current == generate().unwrap(),
        "proto/onnx.rs differs from what proto/onnx.proto gives: run `cargo run -p proto`"
    );
}

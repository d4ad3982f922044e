//! Folders for transformers.js, in Node.js on a CPU.

use serde_json::json;

use super::environment::javascript;
use crate::support::{export, export_args, fixture, npy};

/// Two rows at once, past the sliding window.
#[test]
fn generates_as_reference_does() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("web/onnx/model.onnx");
    export(&export_args(&fixture("tiny-hf"), &model, &["--transformers-js"]));
    let texts = npy(&fixture("reference/greedy-2x28.ids.npy"), i64::from_le_bytes);
    let rows = |width: usize| -> Vec<Vec<i64>> {
        texts.outer_iter().map(|row| row.iter().copied().take(width).collect()).collect()
    };
    let program = include_str!("../../javascript/generate.mjs");
    let prompts = json!(rows(12)).to_string();
    let printed = javascript(program, &["web", &prompts, "16"], home.path());
    let found: Vec<Vec<i64>> = serde_json::from_str(&printed).unwrap();
    assert_eq!(found, rows(28));
}

//! Models of the real sizes are small graphs, which onnx accepts.

use std::fs;

use serde_json::Value;

use super::environment::python;
use crate::sizes::sparse;
use crate::support::{export_in, text};

/// The summary of an export in place, and what `check.py` finds in the model.
fn exported(layers: usize, experts: usize, shards: usize, options: &[&str]) -> [Value; 2] {
    let home = tempfile::tempdir().unwrap();
    let total = sparse(&home.path().join("checkpoint"), layers, experts, shards);
    let (model, summary) = export_in(home.path(), "model", options);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(summary["weights"]["bytes_referenced"], total);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    // onnx.checker would read 14 GB of holes; inference needs none of them.
    let found = python("check.py", &[text(&model), "--structure-only"], &Value::Null);
    let lengths = found["external"].as_array().unwrap().iter().map(|it| it["length"].as_u64());
    assert_eq!(lengths.map(Option::unwrap).sum::<u64>(), total, "every byte is referenced once");
    [summary, found]
}

fn assert_size(summary: &Value, limit: u64) {
    assert!(summary["model"]["bytes"].as_u64().unwrap() <= limit, "{summary}");
}

#[test]
fn flat_20b_is_a_graph_of_kilobytes() {
    let [summary, found] = exported(24, 32, 1, &[]);
    assert_size(&summary, 1_000_000);
    let external = found["external"].as_array().unwrap();
    let number = |tensor: &Value, key: &str| tensor[key].as_u64().unwrap();
    assert!(external.iter().any(|tensor| number(tensor, "offset") > u64::from(u32::MAX)));
    // No part of lm_head is above 1 GiB in f32, so that onnxruntime folds its cast.
    let is_part = |tensor: &&Value| tensor["name"].as_str().unwrap().starts_with("lm_head");
    let parts: Vec<&Value> = external.iter().filter(is_part).collect();
    assert!(parts.len() > 2 && parts.is_sorted_by_key(|part| number(part, "offset")));
    assert!(parts.iter().all(|part| number(part, "length") * 2 <= 1 << 30));
    let rows = parts.iter().map(|part| part["dims"][0].as_u64().unwrap());
    assert_eq!(rows.sum::<u64>(), 201_088);
}

#[test]
fn ort_20b_is_smaller() {
    let [summary, _] = exported(24, 32, 1, &["--target", "ort"]);
    assert_size(&summary, 250_000);
    assert_eq!(summary["model"]["inputs"].as_array().unwrap().len(), 2 + 2 * 24);
}

#[test]
fn functions_share_the_nodes_of_layers() {
    let [summary, _] = exported(24, 32, 1, &["--functions"]);
    assert_size(&summary, 200_000);
    assert_eq!(summary["model"]["functions"].as_array().unwrap().len(), 5);
    let [summary, _] = exported(36, 128, 7, &["--functions"]);
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 7);
    assert_eq!(summary["layers"], 36);
}

//! This project as a library.

use crate::support::fixture;

#[allow(dead_code)] // its `main`
#[path = "../../examples/export.rs"]
mod example;

#[test]
fn example_exports() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model.onnx");
    let summary = example::run(fixture("tiny"), model.clone()).unwrap().to_string();
    assert!(summary.contains("model.onnx") && model.exists(), "{summary}");
}

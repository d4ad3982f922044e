//! Packages in onnxruntime-genai.

use serde_json::json;

use super::environment::{python, reference};
use crate::genai::{package_args, with_tokenizer};
use crate::support::{export, fixture};

#[test]
fn generates_as_reference_does() {
    let homes =
        [&["--target", "ort"][..], &["--target", "onnx"], &["--functions"]].map(|options| {
            let home = with_tokenizer();
            let checkpoint = home.path().join("tiny");
            export(&package_args(&checkpoint, &checkpoint.join("model.onnx"), options));
            home
        });
    let request = json!({
        "folders": homes.each_ref().map(|home| home.path().join("tiny")),
        "greedy": fixture("reference/greedy-2x28.ids.npy"),
        "steps": 16,
        "references": [reference("1x300")],
    });
    let errors: Vec<f64> = serde_json::from_value(python("generate.py", &[], &request)).unwrap();
    assert!(errors.len() == 3 && errors.iter().all(|error| *error <= 1e-5), "{errors:?}");
}

/// In batches of one row, onnxruntime-genai processes 512 tokens at once.
#[test]
fn splits_long_prompts() {
    for target in ["ort", "onnx"] {
        let home = with_tokenizer();
        let checkpoint = home.path().join("tiny");
        let options = ["--target", target, "--batch-size", "1"];
        export(&package_args(&checkpoint, &checkpoint.join("model.onnx"), &options));
        let request = json!({"folders": [checkpoint], "references": [reference("1x4500")]});
        let error = &python("generate.py", &[], &request)[0];
        assert!(error.as_f64().unwrap() <= 1e-4, "{target}: {error}");
    }
}

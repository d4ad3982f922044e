//! Logits in real runtimes against those of OpenAI's implementation in f32.

use std::path::Path;

use serde_json::json;

use crate::support::{export, fixture, folder_with_tiny, logit_errors, python};

const CASES: [&str; 3] = ["2x40", "1x300", "1x4500"];
/// Two short cases, and the end of one beyond the context before YaRN's
/// stretching, where f32 angles themselves are coarser.
const BOUNDS: [f64; 3] = [1e-5, 1e-5, 1e-4];

fn assert_exact(model: &Path) {
    let errors = logit_errors(model, "onnxruntime", &CASES);
    for ((case, error), bound) in CASES.iter().zip(errors).zip(BOUNDS) {
        assert!(error <= bound, "{}: {case} is off by {error:e}", model.display());
    }
}

#[test]
fn the_flat_graph_is_exact() {
    let home = folder_with_tiny();
    let model = home.path().join("model.onnx");
    export(&[
        "--checkpoint",
        home.path().join("tiny").to_str().unwrap(),
        "--output",
        model.to_str().unwrap(),
    ]);
    assert_exact(&model);
}

#[test]
fn the_graph_of_functions_is_exact() {
    let home = folder_with_tiny();
    let model = home.path().join("model.onnx");
    let checkpoint = home.path().join("tiny");
    export(&[
        "--checkpoint",
        checkpoint.to_str().unwrap(),
        "--output",
        model.to_str().unwrap(),
        "--functions",
    ]);
    assert_exact(&model);
}

#[test]
fn a_copied_model_is_exact() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model.onnx");
    export(&[
        "--checkpoint",
        fixture("tiny").to_str().unwrap(),
        "--output",
        model.to_str().unwrap(),
    ]);
    assert_exact(&model);
}

#[test]
fn the_reference_evaluator_agrees_too() {
    for style in [&[][..], &["--functions"]] {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("model.onnx");
        let base = [
            "--checkpoint",
            fixture("tiny").to_str().unwrap(),
            "--output",
            model.to_str().unwrap(),
        ]
        .map(str::to_owned);
        let base: Vec<&str> = base.iter().map(String::as_str).collect();
        export(&[&base, style].concat());
        let [error] = logit_errors(&model, "reference", &["2x40"])[..] else { unreachable!() };
        assert!(error <= 1e-5, "{style:?}: {error:e}");
    }
}

#[test]
fn one_file_serves_every_batch_and_length() {
    let home = folder_with_tiny();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let tiny = path("tiny");
    let (flat, functions, copied) =
        (path("flat.onnx"), path("functions.onnx"), path("copied.onnx"));
    export(&["--checkpoint", &tiny, "--output", &flat]);
    export(&["--checkpoint", &tiny, "--output", &functions, "--functions"]);
    export(&["--checkpoint", &tiny, "--output", &copied, "--external-data", "copy"]);
    // Window 8: below, at and beyond it; a single token takes another path.
    let shapes = [[1, 1], [1, 7], [1, 8], [1, 9], [3, 1], [3, 20], [2, 33], [1, 130]];
    let request =
        json!({"model": flat, "others": [functions, copied], "shapes": shapes, "vocab": 320});
    let found = python("shapes.py", &[], &request);
    assert!(found["prefix"].as_f64().unwrap() <= 1e-5, "a prefix differs from the whole: {found}");
    assert!(found["between"].as_f64().unwrap() <= 1e-6, "graphs of one model differ: {found}");
}

#[test]
fn fixed_axes_compute_the_same() {
    let home = folder_with_tiny();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (free, fixed) = (path("free.onnx"), path("fixed.onnx"));
    for (batch, length) in [(1, 1), (2, 12), (3, 1)] {
        export(&["--checkpoint", &path("tiny"), "--output", &free]);
        let (b, t) = (batch.to_string(), length.to_string());
        let summary = export(&[
            "--checkpoint",
            &path("tiny"),
            "--output",
            &fixed,
            "--batch-size",
            &b,
            "--seq-len",
            &t,
        ]);
        assert_eq!(summary["model"]["inputs"][0]["shape"], json!([b, t]));
        let request =
            json!({"model": free, "others": [fixed], "shapes": [[batch, length]], "vocab": 320});
        let found = python("shapes.py", &[], &request);
        assert!(found["between"].as_f64().unwrap() <= 1e-6, "{batch}×{length}: {found}");
    }
}

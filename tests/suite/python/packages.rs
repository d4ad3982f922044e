//! Packages in the runtimes that they are for.

use serde_json::json;

use super::environment::{javascript, python, reference};
use crate::genai::{package, with_tokenizer};
use crate::support::{Home, export, export_args, fixture, npy};

#[test]
fn onnxruntime_genai_generates_as_reference_does() {
    let homes =
        [&["--target", "ort"][..], &["--target", "onnx"], &["--functions"]].map(|options| {
            let home = with_tokenizer();
            package(&home, "checkpoint/model", options);
            home
        });
    let request = json!({
        "folders": homes.each_ref().map(Home::checkpoint),
        "greedy": fixture("reference/greedy-2x28.ids.npy"),
        "steps": 16,
        "references": [reference("1x300")],
    });
    let errors: Vec<f64> = serde_json::from_value(python("generate.py", &[], &request)).unwrap();
    assert!(errors.len() == 3 && errors.iter().all(|error| *error <= 1e-5), "{errors:?}");
}

/// In batches of one row, onnxruntime-genai processes 512 tokens at once.
#[test]
fn onnxruntime_genai_splits_long_prompts() {
    for target in ["ort", "onnx"] {
        let home = with_tokenizer();
        package(&home, "checkpoint/model", &["--target", target, "--batch-size", "1"]);
        let request = json!({"folders": [home.checkpoint()], "references": [reference("1x4500")]});
        let error = &python("generate.py", &[], &request)[0];
        assert!(error.as_f64().unwrap() <= 1e-4, "{target}: {error}");
    }
}

/// In Node.js on a CPU, two rows at once, past the sliding window; with prompts of equal length,
/// and of 12 and 20 tokens.
#[test]
fn transformers_js_generates_as_reference_does() {
    let home = Home::new();
    let model = home.join("web/onnx/model.onnx");
    export(&export_args(&fixture("tiny-hf"), &model, &["--transformers-js"]));
    let texts = npy(&fixture("reference/greedy-2x28.ids.npy"), i64::from_le_bytes);
    let rows = |lengths: [usize; 2]| -> Vec<Vec<i64>> {
        let rows = texts.outer_iter().zip(lengths);
        rows.map(|(row, length)| row.iter().copied().take(length).collect()).collect()
    };
    let program = include_str!("../../javascript/generate.mjs");
    for (prompts, steps) in [([12, 12], 16), ([12, 20], 8)] {
        let printed = javascript(
            program,
            &["web", &json!(rows(prompts)).to_string(), &steps.to_string()],
            &home,
        );
        let found: Vec<Vec<i64>> = serde_json::from_str(&printed).unwrap();
        let padding = prompts.map(|length| prompts[1] - length);
        let found: Vec<&[i64]> =
            found.iter().zip(padding).map(|(row, count)| &row[count..]).collect();
        assert_eq!(found, rows(prompts.map(|length| length + steps)));
    }
}

//! Puzzle models in runtimes, against the model's definition in NumPy.

use std::fs;
use std::slice::from_ref;

use serde_json::{Value, json};

use super::environment::{
    assert_logits, assert_steps_of, javascript, onnxruntime, python, reference,
};
use crate::genai::with_tokenizer;
use crate::layout_fixtures::{home, write};
use crate::puzzle::puzzle;
use crate::support::{Home, export, fixture, npy, text};

const IDS: &str = "reference/logits-2x40.ids.npy";

/// The logits of a checkpoint by definition, as a case.
pub fn defined(home: &Home) -> Value {
    let case = json!({"ids": fixture(IDS), "logits": home.join("defined.npy")});
    let mut request = case.clone();
    request["checkpoint"] = json!(home.checkpoint());
    python("definition.py", &[], &json!([request]));
    case
}

/// The definition computes what OpenAI's implementation does.
#[test]
fn definition_is_openais() {
    let home = Home::with("tiny-hf");
    let logits = |case: &Value| npy(case["logits"].as_str().unwrap().as_ref(), f32::from_le_bytes);
    let expected = logits(&reference("2x40"));
    let off = logits(&defined(&home)) - expected;
    assert!(off.iter().all(|off| off.abs() <= 1e-5), "{off}");
}

#[test]
fn every_target_is_exact() {
    let (config, tensors) = puzzle();
    let home = home(&config, &tensors);
    let (case, checkpoint) = (defined(&home), home.checkpoint());
    let models = [
        ("flat", &[][..]),
        ("functions", &["--functions"]),
        ("ort", &["--target", "ort"]),
        ("bf16", &["--experts", "bf16", "--target", "ort"]),
        ("int8", &["--experts", "int8"]),
    ]
    .map(|(name, options)| home.export(name, options).0);
    let cached = [("ort-cached", "ort"), ("onnx-cached", "onnx")]
        .map(|(name, target)| home.export(name, &["--target", target, "--kv-cache"]).0);
    let onnxruntime = text(onnxruntime());
    for model in models.iter().chain(&cached) {
        let options = ["--checkpoint", text(&checkpoint), "--onnxruntime", onnxruntime];
        export(&[&["verify", text(model)], &options[..]].concat());
    }
    assert_logits(&models, from_ref(&case));
    let ways = json!([
        {"rows": [0, 1], "lengths": [12, 5], "padding": "left", "steps": 24},
        {"rows": [1], "lengths": [1], "steps": 30},
        {"rows": [0], "lengths": [20], "chunks": 3, "steps": 18},
    ]);
    assert_steps_of(1e-5, &cached, from_ref(&case), json!({"ways": ways}));

    let (staged, _) = home.stage("w", &[]);
    fs::remove_dir_all(&checkpoint).unwrap();
    let models = ["ort", "onnx"].map(|target| {
        let name = format!("staged-{target}");
        home.export_staged(&staged, &name, &["--target", target]).0
    });
    assert_logits(&models, &[case]);
}

/// The likeliest next tokens, of onnxruntime-genai and of transformers.js in Node.js.
#[test]
fn packages_are_exact() {
    let (config, tensors) = puzzle();
    let home = with_tokenizer();
    fs::write(home.join("checkpoint/config.json"), config.to_string()).unwrap();
    write(&home.join("checkpoint/model.safetensors"), &tensors);
    let case = defined(&home);
    let folders = ["ort", "onnx"].map(|target| {
        home.export(&format!("{target}/model"), &["--target", target, "--genai"]);
        home.join(target)
    });
    let request = json!({"folders": folders, "references": [case]});
    let errors: Vec<f64> = serde_json::from_value(python("generate.py", &[], &request)).unwrap();
    assert!(errors.len() == 2 && errors.iter().all(|error| *error <= 1e-5), "{errors:?}");

    home.export("web/onnx/model", &["--transformers-js"]);
    let rows = npy(&fixture(IDS), i64::from_le_bytes);
    let prompts: Vec<Vec<i64>> =
        rows.outer_iter().map(|row| row.iter().copied().collect()).collect();
    let program = include_str!("../../javascript/generate.mjs");
    let printed = javascript(program, &["web", &json!(prompts).to_string(), "1"], &home);
    let found: Vec<Vec<i64>> = serde_json::from_str(&printed).unwrap();
    let logits = npy(&home.join("defined.npy"), f32::from_le_bytes);
    for (row, tokens) in found.iter().enumerate() {
        let last = |token: &usize| logits[[row, 39, *token]];
        let likeliest = (0..320).max_by(|one, two| last(one).total_cmp(&last(two))).unwrap();
        assert_eq!(tokens[40], likeliest as i64, "row {row}");
    }
}

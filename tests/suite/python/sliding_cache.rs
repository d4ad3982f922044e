//! Caches limited to the window, of models whose layers have other windows, against the model's
//! definition in NumPy.

use std::path::Path;
use std::slice::from_ref;

use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_steps_of, javascript, python, reference};
use super::puzzle::defined;
use crate::sliding_cache::with_windows;
use crate::support::{Home, edit_json, fixture, npy};

/// Windows of no layer, of all, of one token, and of different numbers.
const WINDOWS: [[Option<u64>; 3]; 5] = [
    [None; 3],
    [Some(8); 3],
    [Some(1), None, Some(1)],
    [Some(16), Some(1), None],
    [Some(5), Some(8), Some(1)],
];

const VARIANTS: [(&str, &[&str]); 3] = [
    ("ort", &["--target", "ort"]),
    ("onnx", &["--kv-cache"]),
    ("functions", &["--kv-cache", "--functions"]),
];

#[test]
fn all_windows_are_exact() {
    let ways = json!([
        {"rows": [0, 1], "lengths": [40, 40]},
        {"rows": [0, 1], "lengths": [1, 1], "steps": 39},
        {"rows": [0, 1, 0, 1], "lengths": [40, 38, 29, 3], "random": 1},
        {"rows": [0, 1, 0, 1], "lengths": [33, 21, 9, 2], "padding": "left", "chunks": 3, "steps": 7},
        {"rows": [1, 0], "lengths": [17, 4], "padding": "right", "steps": 22},
        {"rows": [1], "lengths": [4], "steps": 20, "undo": 16},
    ]);
    for windows in WINDOWS {
        let home = with_windows(windows);
        let case = defined(&home);
        let models = VARIANTS.map(|(name, options)| home.export(name, options).0);
        assert_steps_of(1e-5, &models, from_ref(&case), json!({"ways": ways}));
        let request = json!({"engine": OPENVINO, "ways": ways});
        assert_steps_of(1e-5, &models[1..2], from_ref(&case), request);
    }
}

/// In onnxruntime-genai, which knows one window for all layers: with buffers for the window, and
/// with buffers that are shorter because the text is.
#[test]
fn onnxruntime_genai_keeps_the_window() {
    for windows in WINDOWS {
        let home = with_windows(windows);
        let case = defined(&home);
        let mut short = case.clone();
        short["length"] = json!(12);
        let folders = [&[][..], &["--batch-size", "1"]].map(|options| {
            let name = format!("genai{}/model", options.len());
            home.export(&name, &[&["--for", "genai"], options].concat()).0.with_file_name("")
        });
        let request = json!({"folders": folders, "references": [case, short]});
        let errors: Vec<f64> =
            serde_json::from_value(python("generate.py", &[], &request)).unwrap();
        assert!(errors.iter().all(|error| *error <= 1e-5), "{windows:?}: {errors:?}");
    }
}

/// Rewinding needs what a short buffer has no longer.
#[test]
fn onnxruntime_genai_rewinds_long_buffers() {
    let home = with_windows([Some(8), None, Some(8)]);
    let folder = |cache: &str| {
        let options = ["--for", "genai", "--sliding-cache", cache];
        home.export(&format!("{cache}/model"), &options).0.with_file_name("")
    };
    let (short, long) = (folder("window"), folder("full"));
    let rewinds = |folder: &Path, rewinds: bool| {
        let request =
            json!({"folders": [folder], "references": [reference("2x40")], "rewinds": rewinds});
        let error = &python("generate.py", &[], &request)[0];
        assert!(error.as_f64().unwrap() <= 1e-5, "{error}");
    };
    rewinds(&long, true);
    rewinds(&short, false);
    // The same graph with buffers for the whole text.
    edit_json(&short.join("genai_config.json"), |config| {
        config["model"]["decoder"].as_object_mut().unwrap().remove("sliding_window").unwrap();
    });
    rewinds(&short, true);
}

/// A second prompt in transformers.js over the cache of the first: it measures the text by the
/// first cache, which keeps all tokens.
#[test]
fn transformers_js_continues_texts() {
    let home = Home::with("tiny-hf");
    home.export("web/onnx/model", &["--transformers-js"]);
    let texts = npy(&fixture("reference/greedy-2x28.ids.npy"), i64::from_le_bytes);
    let program = include_str!("../../javascript/turns.mjs");
    for row in texts.outer_iter() {
        let text: Vec<i64> = row.iter().copied().collect();
        let turns = json!([text[..12], text[..26]]);
        let printed = javascript(program, &["web", &turns.to_string(), "2"], &home);
        let found: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(found, json!([text[..14], text[..28]]));
    }
}

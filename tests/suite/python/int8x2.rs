//! Dense matrices in two digits of 8 bits: what that costs, in every graph, and what reads them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_steps, assert_within, reference};
use super::verify::passes;
use crate::support::{Home, assert_contains, words};

/// Models of a checkpoint with dense matrices in int8x2 and each of these options.
fn models(home: &Home, options: &[&str]) -> Vec<PathBuf> {
    let export = |(at, options): (usize, &&str)| {
        let options = [&["--dense", "int8x2"][..], &words(options)].concat();
        let (model, summary) = home.export(&format!("int8x2-{at}"), &options);
        assert_eq!(summary["dense"]["format"], "int8x2", "{options:?}");
        model
    };
    options.iter().enumerate().map(export).collect()
}

/// Of few tokens and of many, with queries, keys and values fused and apart.
#[test]
fn logits_are_nearly_those_of_openais_implementation() {
    let options = [
        "",
        "--kv-cache --functions",
        "--target ort",
        "--target ort --functions --experts f32",
        "--target ort --keep-activations",
        "--target ort --external-data copy --max-shard-size 600kB",
    ];
    for (fixture, names) in [("tiny", &["2x40", "1x300"][..]), ("tiny-hf", &["2x40"])] {
        let home = Home::with(fixture);
        let names: Vec<Value> = names.iter().copied().map(reference).collect();
        assert_within(1e-4, &models(&home, &options), "onnxruntime", &names);
    }
    let home = Home::with("trained");
    assert_within(2e-4, &models(&home, &options), "onnxruntime", &[reference("trained")]);
    let home = Home::with("tiny");
    assert_within(1e-4, &models(&home, &[""]), OPENVINO, &[reference("2x40")]);
    let home = Home::with("tiny-3-heads");
    let sentence = home.refusal("m", &["--dense", "int8x2"]);
    assert_contains(&sentence, "rows of 72 elements, and conversions need a multiple of 32");
}

/// Steps past the window of 8, of rows of unequal length, of more than 64 tokens and fewer.
#[test]
fn steps_are_nearly_exact() {
    let ways = json!([
        {"rows": [0, 1], "lengths": [1, 1], "steps": 39},
        {"rows": [0], "lengths": [270], "steps": 30},
        {"rows": [0, 1, 1, 0], "lengths": [9, 5, 1, 3], "padding": "left", "steps": 31},
        {"rows": [0, 1, 0], "lengths": [36, 20, 5], "padding": "right", "chunks": 4, "steps": 3},
    ]);
    let home = Home::with("tiny");
    let models = models(&home, &["--target ort", "--kv-cache"]);
    assert_steps(1e-4, &models, &["2x40", "1x300"], json!({"ways": ways}));
}

/// `verify` compares with the model's own values, and so knows what multiplying digits costs.
#[test]
fn staged_files_are_read_and_converted() {
    for fixture in ["tiny", "tiny-hf"] {
        let home = Home::with(fixture);
        let (staged, summary) = home.stage("staged", &["--dense", "int8x2"]);
        assert_eq!(summary["dense"]["format"], "int8x2");
        for options in ["--target ort", "--kv-cache", "--target ort --keep-activations"] {
            let (model, summary) = home.export_staged(&staged, "m", &words(options));
            assert_eq!(summary["weights"]["bytes_written"], 0);
            for source in [&staged, &home.checkpoint()] {
                let report = passes(&model, source, &[]);
                assert_eq!(report["weights"]["different"], json!([]), "{options}");
            }
        }
        // Sixteen bits are numbers of f32, and little is lost on the way to 8.
        for (format, most) in [("f32", 0.0), ("int8", 0.02)] {
            let (model, summary) =
                home.export_staged(&staged, "again", &["--dense", format, "--kv-cache"]);
            let error = summary["dense"]["converted"]["relative_error"].as_f64().unwrap();
            assert!(error <= most && (most == 0.0 || error > 0.0), "{format}: {summary}");
            passes(&model, &staged, &[]);
        }
    }
}

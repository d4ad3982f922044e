//! Generation step by step in real runtimes: whatever part of a text comes in
//! whatever steps, its logits are those of OpenAI's implementation for the whole.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{copy_folder, export, fixture, python, reference, text};

/// Every way to write one model with a cache.
const WAYS: [&[&str]; 4] = [
    &["--target", "ort"],
    &["--target", "onnx", "--kv-cache"],
    &["--target", "onnx", "--kv-cache", "--functions"],
    &["--target", "ort", "--kv-cache", "--external-data", "copy"],
];

/// Exports a fixture in several ways, in place.
fn exported(checkpoint: &str, ways: &[Vec<&str>]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("checkpoint");
    copy_folder(&fixture(checkpoint), &folder);
    let models = ways.iter().enumerate().map(|(n, options)| {
        let model = home.path().join(format!("{n}.onnx"));
        export(
            &[&["--checkpoint", text(&folder), "--output", text(&model)], &options[..]].concat(),
        );
        model
    });
    let models = models.collect();
    (home, models)
}

/// The largest error of every model in every way of running it.
fn errors(request: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(python("cached.py", &[], request)).unwrap()
}

/// A prompt at once, token by token from nothing, past the window of 8, with a
/// past and several tokens; and rows of unequal length, padded anywhere.
fn ways_to_run() -> Value {
    json!([
        {"rows": [0, 1], "lengths": [40, 40]},
        {"rows": [0], "lengths": [300]},
        {"rows": [0, 1], "lengths": [1, 1], "steps": 39},
        {"rows": [0, 1], "lengths": [12, 12], "steps": 28},
        {"rows": [0], "lengths": [270], "steps": 30},
        {"rows": [0], "lengths": [300], "chunks": 7, "steps": 0},
        {"rows": [1], "lengths": [30], "chunks": 4, "steps": 10},
        {"rows": [0, 1, 0, 1], "lengths": [28, 17, 9, 1], "padding": "left", "steps": 12},
        {"rows": [0, 1, 0, 1], "lengths": [28, 17, 9, 1], "padding": "right", "steps": 12},
        {"rows": [0, 1, 0], "lengths": [36, 20, 5], "padding": "left", "chunks": 4, "steps": 3},
        {"rows": [0, 1, 0], "lengths": [36, 20, 5], "padding": "right", "chunks": 4, "steps": 3},
        {"rows": [0, 1, 0], "lengths": [30, 12, 1], "padding": "both", "chunks": 2, "steps": 4},
        {"rows": [0, 1, 0], "lengths": [30, 12, 1], "padding": "between", "steps": 4},
        turns("left", "left"),
        turns("left", "right"),
        turns("right", "left"),
        turns("right", "between"),
    ])
}

/// Two prompts one after the other, in rows that go on from where each ended.
fn turns(first: &str, second: &str) -> Value {
    json!({
        "rows": [0, 1, 1], "lengths": [13, 4, 9], "padding": first, "steps": 3,
        "then": [{"lengths": [3, 15, 9], "padding": second, "chunks": 2}],
    })
}

fn assert_exact(found: &[Vec<f64>], bound: f64) {
    for (model, errors) in found.iter().enumerate() {
        let exact = errors.iter().all(|error| *error <= bound);
        assert!(exact, "model {model} is off by {errors:?}");
    }
}

#[test]
fn every_step_is_exact() {
    for last in [false, true] {
        let with = |way: &&[&'static str]| {
            let last = if last { &["--last-logits"][..] } else { &[] };
            [way, last].concat()
        };
        let (_home, models) = exported("tiny", &WAYS.iter().map(with).collect::<Vec<_>>());
        let references = [reference("2x40"), reference("1x300")];
        let ways = ways_to_run();
        let request =
            json!({"models": models, "last": last, "references": references, "ways": ways});
        assert_exact(&errors(&request), 1e-5);
    }
}

/// Where f32 angles themselves are coarser.
#[test]
fn steps_far_beyond_the_first_context() {
    let ways = [WAYS[0].to_vec(), WAYS[1].to_vec()];
    let (_home, models) = exported("tiny", &ways);
    let request = json!({
        "models": models,
        "references": [reference("1x4500")],
        "ways": [
            {"rows": [0], "lengths": [4492], "steps": 8},
            {"rows": [0], "lengths": [4500], "chunks": 3},
        ],
    });
    assert_exact(&errors(&request), 1e-4);
}

#[test]
fn models_of_other_shapes() {
    let ways = json!([
        {"rows": [0, 1], "lengths": [50, 50]},
        {"rows": [0, 1], "lengths": [1, 1], "steps": 49},
        {"rows": [0, 1, 1], "lengths": [20, 3, 11], "padding": "left", "steps": 30},
        {"rows": [0, 1, 1], "lengths": [20, 3, 11], "padding": "right", "steps": 30},
        {"rows": [1], "lengths": [50], "chunks": 5},
    ]);
    // The one key head of `tiny-1-kv` is 20 wide, which ONNX Runtime's operator does not take.
    for (name, first) in [("tiny-3-heads", 0), ("tiny-1-kv", 1)] {
        let options: Vec<_> = WAYS[first..3].iter().map(|way| way.to_vec()).collect();
        let (_home, models) = exported(name, &options);
        let request = json!({"models": models, "references": [reference(name)], "ways": ways});
        assert_exact(&errors(&request), 1e-5);
    }
}

#[test]
fn fixed_axes_compute_the_same() {
    let cases: [(&[&str], Value); 3] = [
        (&["--seq-len", "1"], json!([{"rows": [0, 1], "lengths": [1, 1], "steps": 30}])),
        (
            &["--batch-size", "2"],
            json!([{"rows": [0, 1], "lengths": [14, 5], "padding": "left", "steps": 9}]),
        ),
        (
            &["--seq-len", "6", "--batch-size", "1"],
            json!([{"rows": [1], "lengths": [36], "chunks": 6}]),
        ),
    ];
    for (fixed, ways) in cases {
        let options: Vec<_> = WAYS[..3].iter().map(|way| [way, fixed].concat()).collect();
        let (_home, models) = exported("tiny", &options);
        let request = json!({"models": models, "references": [reference("2x40")], "ways": ways});
        assert_exact(&errors(&request), 1e-5);
    }
}

/// Where each expert gets several tokens: its GatherElements takes tables of at
/// most 64 entries, and the way for one token looks up in one of 256.
#[test]
fn the_reference_evaluator_agrees_too() {
    let (_home, models) = exported("tiny", &[WAYS[1].to_vec(), WAYS[2].to_vec()]);
    let request = json!({
        "models": models,
        "engine": "reference",
        "references": [reference("2x40")],
        "ways": [
            {"rows": [0, 1], "lengths": [40, 33], "padding": "left", "chunks": 2},
            {"rows": [0, 1], "lengths": [40, 33], "padding": "right"},
        ],
    });
    assert_exact(&errors(&request), 1e-5);
}

/// Without a cache too, the last token is the last that is not padding.
#[test]
fn last_logits_without_a_cache() {
    let options = [vec!["--last-logits"], vec!["--last-logits", "--functions"]];
    let (_home, models) = exported("tiny", &options);
    let request = json!({
        "models": models,
        "last": true,
        "references": [reference("2x40"), reference("1x300")],
        "ways": [
            {"rows": [0], "lengths": [300]},
            {"rows": [0, 1, 1], "lengths": [3, 40, 19], "padding": "left"},
            {"rows": [0, 1, 1], "lengths": [3, 40, 19], "padding": "right"},
        ],
    });
    assert_exact(&errors(&request), 1e-5);
}

/// Graphs of both targets, with and without a cache, over one weights file.
#[test]
fn several_graphs_share_one_weights_file() {
    let home = tempfile::tempdir().unwrap();
    let checkpoint = fixture("tiny");
    let out = |name: &str| home.path().join(name);
    let mut written = Vec::new();
    for (n, options) in
        [&["--target", "onnx"][..], WAYS[0], WAYS[1], &["--last-logits"]].into_iter().enumerate()
    {
        let model = out(&format!("{n}.onnx"));
        let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
        let summary = export(&[&base, options].concat());
        written.push(summary["weights"]["bytes_written"].as_u64().unwrap());
        assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 1);
        assert_eq!(summary["weights"]["reused"].as_array().unwrap().len(), usize::from(n > 0));
    }
    assert!(written[0] > 900_000 && written[1..] == [0, 0, 0], "{written:?}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 5);
    let request = json!({
        "models": [out("1.onnx"), out("2.onnx")],
        "references": [reference("2x40")],
        "ways": [{"rows": [0, 1], "lengths": [20, 20], "steps": 20}],
    });
    assert_exact(&errors(&request), 1e-5);
}

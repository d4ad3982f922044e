//! Generation step by step in real runtimes: however a text is split into steps, its logits
//! are those of OpenAI's implementation for the whole text.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_steps};
use crate::support::{Home, cases, export, export_args, fixture, words};

const VARIANTS: [&[&str]; 5] = [
    &["--target", "ort"],
    &["--target", "onnx", "--kv-cache"],
    &["--target", "onnx", "--kv-cache", "--functions"],
    &["--target", "ort", "--sliding-cache", "full", "--external-data", "copy"],
    &["--target", "onnx", "--kv-cache", "--sliding-cache", "full"],
];

/// Exports a fixture with options of `variants` and `more`.
fn exported(checkpoint: &str, variants: &[&[&str]], more: &[&str]) -> (Home, Vec<PathBuf>) {
    let home = Home::with(checkpoint);
    let export =
        |(n, options): (usize, &&[&str])| home.export(&n.to_string(), &[options, more].concat()).0;
    let models = variants.iter().enumerate().map(export).collect();
    (home, models)
}

/// Two prompts one after the other, in rows that go on from where each ended.
fn turns(first: &str, second: &str) -> Value {
    json!({
        "rows": [0, 1, 1], "lengths": [13, 4, 9], "padding": first, "steps": 3,
        "then": [{"lengths": [3, 15, 9], "padding": second, "chunks": 2}],
    })
}

/// A prompt at once, token by token from nothing, past the window of 8, with a past and
/// several tokens; and rows of unequal length, padded anywhere.
fn ways() -> Value {
    json!([
        {"rows": [0, 1], "lengths": [40, 40]},
        {"rows": [0], "lengths": [300]},
        {"rows": [0, 1], "lengths": [1, 1], "steps": 39},
        {"rows": [0, 1], "lengths": [12, 12], "steps": 28},
        {"rows": [0], "lengths": [270], "steps": 30},
        {"rows": [0], "lengths": [300], "chunks": 7, "steps": 0},
        {"rows": [1], "lengths": [30], "chunks": 4, "steps": 10},
        {"rows": [0, 1, 1, 0], "lengths": [9, 5, 1, 3], "padding": "left", "steps": 31},
        {"rows": [0, 1, 1, 0], "lengths": [9, 5, 1, 3], "padding": "right", "steps": 31},
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
        {"rows": [0, 1, 0, 1], "lengths": [40, 31, 24, 2], "random": 1},
        {"rows": [0, 0], "lengths": [300, 188], "random": 2},
    ])
}

/// Caches of sliding layers have the last 23 tokens: 7 for the window, and 16 that can be taken
/// back. A buffer keeps its length.
#[test]
fn limited_caches_can_be_cut_and_be_buffers() {
    let (_home, models) = exported("tiny", &VARIANTS[..3], &[]);
    let mut ways = vec![
        json!({"rows": [0], "lengths": [100], "steps": 60, "undo": 16}),
        json!({"rows": [0, 1], "lengths": [12, 5], "padding": "right", "steps": 20, "undo": 5}),
        json!({"rows": [0], "lengths": [1], "steps": 80, "undo": 1}),
    ];
    ways.extend([23, 24, 64].map(|length| {
        json!({"rows": [0, 1, 0], "lengths": [40, 33, 21], "random": 3, "buffers": {"P_8": length}})
    }));
    assert_steps(1e-5, &models, &["2x40", "1x300"], json!({"ways": ways}));
    // Full caches can be cut to any length, and by the mask.
    let (_full, full) = exported("tiny", &VARIANTS[3..], &[]);
    let ways = json!([
        {"rows": [0, 1], "lengths": [12, 5], "padding": "right", "steps": 8, "undo": 20},
        {"rows": [0, 1], "lengths": [12, 5], "padding": "right", "steps": 8, "undo": 20, "masked": true},
    ]);
    assert_steps(1e-5, &full, &["2x40"], json!({"ways": ways}));
    // As onnxruntime-genai allocates them: of a length for the whole text, or longer than the
    // window.
    let ways = [(20, 20, 20), (40, 40, 24), (40, 64, 40)].map(|(tokens, full, limited)| {
        let buffers = json!({"P": full, "P_8": limited});
        json!({"rows": [0, 1], "lengths": [tokens, 9], "random": 4, "buffers": buffers})
    });
    assert_steps(1e-5, &models[..1], &["2x40"], json!({"ways": ways}));
}

/// Past and present in one buffer, to which steps append in place.
#[test]
fn bound_caches_are_exact() {
    for (variant, buffers) in [
        (VARIANTS[0], json!({"P": 320, "P_8": 23})),
        (VARIANTS[0], json!({"P": 320, "P_8": 320})),
        (VARIANTS[3], json!({"P": 320})),
    ] {
        let (_home, models) = exported("tiny", &[variant], &[]);
        let ways = [
            json!({"rows": [0], "lengths": [270], "chunks": 7, "steps": 30}),
            json!({"rows": [0, 1, 0], "lengths": [9, 5, 3], "padding": "left", "steps": 31}),
            json!({"rows": [0, 1, 0], "lengths": [40, 33, 21], "random": 5}),
            json!({"rows": [0, 1], "lengths": [13, 4], "padding": "right", "steps": 3,
                   "then": [{"lengths": [3, 15], "padding": "left", "chunks": 2}]}),
        ];
        let bound = ways.map(|mut way| {
            (way["buffers"], way["bound"]) = (buffers.clone(), json!(true));
            way
        });
        assert_steps(1e-5, &models, &["2x40", "1x300"], json!({"ways": bound}));
    }
}

#[test]
fn every_step_is_exact() {
    for (last, options) in [(false, &[][..]), (true, &["--last-logits"])] {
        let (_home, models) = exported("tiny", &VARIANTS, options);
        assert_steps(1e-5, &models, &["2x40", "1x300"], json!({"last": last, "ways": ways()}));
    }
}

/// OpenVINO keeps buffers from run to run. They grow from step to step in a session of each
/// way's own, and fit the largest batch in a session for all ways.
#[test]
fn every_step_is_exact_in_openvino() {
    let f32_experts = &["--target", "onnx", "--kv-cache", "--experts", "f32"][..];
    for (checkpoint, last, variant) in [
        ("tiny", false, VARIANTS[1]),
        ("tiny", false, VARIANTS[4]),
        ("tiny", false, f32_experts),
        ("tiny-hf", true, &["--for", "openvino"]),
    ] {
        let (_home, models) = exported(checkpoint, &[variant], &[]);
        for fresh in [true, false] {
            let request = json!({"engine": OPENVINO, "fresh": fresh, "last": last, "ways": ways()});
            assert_steps(1e-5, &models, &["2x40", "1x300"], request);
        }
    }
}

/// Where f32 angles themselves are coarser.
#[test]
fn steps_beyond_the_initial_context_are_exact() {
    let (_home, models) = exported("tiny", &VARIANTS[..2], &[]);
    let ways = json!([
        {"rows": [0], "lengths": [4492], "steps": 8},
        {"rows": [0], "lengths": [4500], "chunks": 3},
    ]);
    assert_steps(1e-4, &models, &["1x4500"], json!({"ways": ways}));
}

#[test]
fn models_of_other_shapes_are_exact() {
    let ways = json!([
        {"rows": [0, 1], "lengths": [50, 50]},
        {"rows": [0, 1], "lengths": [1, 1], "steps": 49},
        {"rows": [0, 1, 1], "lengths": [20, 3, 11], "padding": "left", "steps": 30},
        {"rows": [0, 1, 1], "lengths": [20, 3, 11], "padding": "right", "steps": 30},
        {"rows": [1], "lengths": [50], "chunks": 5},
    ]);
    // The one key head of `tiny-1-kv` is 20 wide, which ONNX Runtime's operator does not take.
    for (name, first) in [("tiny-3-heads", 0), ("tiny-1-kv", 1)] {
        let (_home, models) = exported(name, &VARIANTS[first..3], &[]);
        assert_steps(1e-5, &models, &[name], json!({"ways": ways}));
    }
}

#[test]
fn fixed_axes_compute_the_same_steps() {
    let table = r#"--seq-len 1 | {"rows": [0, 1], "lengths": [1, 1], "steps": 30}
        --batch-size 2 | {"rows": [0, 1], "lengths": [14, 5], "padding": "left", "steps": 9}
        --seq-len 6 --batch-size 1 | {"rows": [1], "lengths": [36], "chunks": 6}"#;
    for [fixed, way] in cases(table) {
        let (_home, models) = exported("tiny", &VARIANTS[..3], &words(fixed));
        let way: Value = way.parse().unwrap();
        assert_steps(1e-5, &models, &["2x40"], json!({"ways": [way]}));
    }
}

/// Where each expert gets several tokens: its GatherElements takes tables of at most 64
/// entries, and a single token looks up in one of 256.
#[test]
fn reference_evaluator_agrees_with_a_cache() {
    let (_home, models) = exported("tiny", &VARIANTS[1..3], &[]);
    let ways = json!([
        {"rows": [0, 1], "lengths": [40, 33], "padding": "left", "chunks": 2},
        {"rows": [0, 1], "lengths": [40, 33], "padding": "right"},
    ]);
    assert_steps(1e-5, &models, &["2x40"], json!({"engine": "reference", "ways": ways}));
}

#[test]
fn last_logits_without_a_cache_are_of_the_last_token_before_padding() {
    let (_home, models) = exported("tiny", &[&[], &["--functions"]], &["--last-logits"]);
    let ways = json!([
        {"rows": [0], "lengths": [300]},
        {"rows": [0, 1, 1], "lengths": [3, 40, 19], "padding": "left"},
        {"rows": [0, 1, 1], "lengths": [3, 40, 19], "padding": "right"},
    ]);
    assert_steps(1e-5, &models, &["2x40", "1x300"], json!({"last": true, "ways": ways}));
}

/// Graphs of both targets, with and without a cache.
#[test]
fn graphs_share_one_weights_file() {
    let home = Home::new();
    let variants = [&["--target", "onnx"][..], VARIANTS[0], VARIANTS[1], &["--last-logits"]];
    let models = [0, 1, 2, 3].map(|n| home.join(format!("{n}.onnx")));
    for (n, (model, options)) in models.iter().zip(variants).enumerate() {
        let summary = export(&export_args(&fixture("tiny"), model, options));
        let weights = &summary["weights"];
        assert_eq!(weights["bytes_written"] == 0, n > 0);
        assert_eq!(weights["files"].as_array().unwrap().len(), 1);
        assert_eq!(weights["reused"].as_array().unwrap().len(), usize::from(n > 0));
    }
    assert_eq!(std::fs::read_dir(&*home).unwrap().count(), 5);
    let ways = json!([{"rows": [0, 1], "lengths": [20, 20], "steps": 20}]);
    assert_steps(1e-5, &models[1..3], &["2x40"], json!({"ways": ways}));
}

//! Stages in real runtimes, run one after the other.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_steps, python};
use crate::adapters::add;
use crate::stages::stage_paths;
use crate::support::{Home, cases, words};

/// A whole model and its stages, with the adapter files of each.
fn pair(home: &Home, name: &str, stages: usize, options: &[&str]) -> Value {
    let (whole, expected) = home.export(&format!("{name}-whole"), options);
    let count = stages.to_string();
    let (model, summary) = home.export(name, &[options, &["--stages", &count]].concat());
    let stages = stage_paths(&model, stages);
    let adapters = &summary["adapters"][0];
    let files = adapters["files"].as_array().into_iter().flatten().chain([&adapters["file"]]);
    let files: Vec<&str> = files.filter_map(Value::as_str).collect();
    let of_stage = |path: &PathBuf| {
        let suffix = path.file_stem().unwrap().to_str().unwrap();
        let suffix = suffix.strip_prefix(name).unwrap();
        files.iter().find(|file| file.contains(suffix)).copied()
    };
    let adapters: Vec<_> = stages.iter().map(of_stage).collect();
    let adapters = match &expected["adapters"][0]["file"] {
        Value::Null => json!(null),
        file => json!([file, adapters]),
    };
    json!({"whole": whole, "stages": stages, "adapters": adapters})
}

fn differences(cases: &[Value]) -> Vec<f64> {
    serde_json::from_value(python("stages.py", &[], &json!(cases))).unwrap()
}

/// Prompts, steps with a cache, rows of unequal length.
#[test]
fn stages_compute_the_bits_of_the_whole_model() {
    let table = "tiny | |
        tiny | --last-logits |
        tiny | --kv-cache |
        tiny | --kv-cache --functions --last-logits |
        tiny | --kv-cache --sliding-cache full |
        tiny | --kv-cache --batch-size 2 --seq-len 1 |
        tiny | --target ort |
        tiny | --target ort --sliding-cache full --last-logits |
        tiny | --target ort --seq-len 1 |
        tiny | --target ort --batch-size 2 --seq-len 6 |
        tiny | --target ort --compute f16 |
        tiny | --target ort --experts f32 --functions |
        tiny | --target ort --experts int4 --dense int8 |
        tiny | --target ort --external-data copy --dense int8x2 |
        tiny-hf | --target ort | 
        tiny-hf | --kv-cache | attention
        tiny-hf | --target ort | experts
        tiny-hf | --target ort --adapter-as merge | attention
        tiny-hf | --target ort --adapter-as swappable | attention
        tiny-hf | --kv-cache --adapter-as swappable | experts
        tiny-3-heads | --target ort |
        trained | --target ort |
        trained | --kv-cache |";
    let (mut homes, mut pairs) = (Vec::new(), Vec::new());
    for [checkpoint, options, adapter] in cases(table) {
        let home = Home::with(checkpoint);
        let adapter = (!adapter.is_empty()).then(|| add(&home, adapter, adapter));
        let mut options = words(options);
        options.extend(adapter.iter().flat_map(|it| ["--adapter", it]));
        let layers = if checkpoint == "trained" { 4 } else { 3 };
        for stages in [1, 2, layers] {
            pairs.push(pair(&home, &format!("s{stages}"), stages, &options));
        }
        homes.push(home);
    }
    for (found, pair) in differences(&pairs).into_iter().zip(&pairs) {
        assert_eq!(found, 0.0, "{pair}");
    }
}

/// The stages of one model, each for a target.
fn mixed(home: &Home, targets: &[&str]) -> Vec<PathBuf> {
    let count = targets.len().to_string();
    let stages = targets.iter().enumerate().map(|(at, target)| {
        let number = (at + 1).to_string();
        let options = ["--stages", &count, "--only-stage", &number];
        let (model, _) =
            home.export(target, &[&["--kv-cache", "--target", target], &options[..]].concat());
        stage_paths(&model, targets.len()).remove(at)
    });
    stages.collect()
}

/// The logits are those of OpenAI's implementation.
#[test]
fn stages_of_different_targets_fit_together() {
    let home = Home::with("tiny");
    let chains = [&["onnx", "ort"][..], &["ort", "onnx"], &["onnx", "ort", "onnx"], &["ort"]]
        .map(|targets| mixed(&home, targets));
    let ways = json!([
        {"rows": [0, 1], "lengths": [40, 40]},
        {"rows": [0], "lengths": [270], "steps": 30},
        {"rows": [0, 1, 1, 0], "lengths": [9, 5, 1, 3], "padding": "left", "steps": 31},
        {"rows": [0, 1, 1, 0], "lengths": [9, 5, 1, 3], "padding": "right", "steps": 31},
        {"rows": [0, 1, 0], "lengths": [30, 12, 1], "padding": "between", "chunks": 2, "steps": 4},
        {"rows": [0, 1, 0, 1], "lengths": [40, 31, 24, 2], "random": 1},
        {"rows": [0], "lengths": [100], "steps": 40, "undo": 16},
    ]);
    assert_steps(2e-5, &chains, &["2x40", "1x300"], json!({"ways": ways}));
}

#[test]
fn other_runtimes_run_stages_too() {
    let home = Home::with("tiny");
    let (model, _) = home.export("m", &["--kv-cache", "--stages", "3"]);
    let ways = json!([
        {"rows": [0, 1], "lengths": [12, 12], "steps": 28},
        {"rows": [0, 1, 1], "lengths": [9, 5, 3], "padding": "left", "steps": 12},
    ]);
    for engine in [OPENVINO, "reference"] {
        let ways = if engine == OPENVINO {
            ways.clone()
        } else {
            json!([{"rows": [0, 1], "lengths": [40, 33], "padding": "left", "chunks": 2}])
        };
        let request = json!({"engine": engine, "ways": ways});
        assert_steps(1e-5, &[stage_paths(&model, 3)], &["2x40"], request);
    }
}

/// Every node says what part of the model it belongs to, and onnxruntime takes settings of these.
#[test]
fn settings_place_parts_of_a_model() {
    let home = Home::with("tiny");
    let layers = |kinds: &[&str]| -> Vec<String> {
        kinds.iter().flat_map(|kind| (0..3).map(move |n| format!("{kind}.{n}"))).collect()
    };
    for (options, kinds) in [
        (&["--kv-cache"][..], &["attn", "router", "experts"][..]),
        (&["--target", "ort"], &["attn", "router", "experts"]),
        (&["--kv-cache", "--functions"], &["layers"]),
    ] {
        let (model, _) = home.export("m", options);
        let request = json!({"model": model, "settings": "cpu(experts, =attn.1); cpu(lm_head)"});
        let found = python("placed.py", &[], &request);
        assert_eq!(found["without"], 0);
        assert_eq!(found["is_equal"], true);
        // So the option is read.
        assert_eq!(found["refuses"], true);
        let parts: Vec<&str> =
            found["parts"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        for part in layers(kinds).iter().map(|it| &**it).chain(["embedding", "lm_head"]) {
            assert!(parts.contains(&part), "{part} is not in {parts:?}");
        }
    }
}

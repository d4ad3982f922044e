//! Stages in the engines of `examples`: Ray Serve, and Triton's configs without a server.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::environment::{serving, serving_interpreter};
use crate::stages::stage_paths;
use crate::support::{Home, fixture, printed, read_json, root};

fn example(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// Prompts with the likeliest continuations, of transformers.
fn greedy() -> Vec<Value> {
    let expected = read_json(&fixture("trained/expected.json"));
    expected["greedy"].as_array().unwrap().clone()
}

/// Ray in some seconds: requests at once, refusals, one that is cancelled, and each stage killed while
/// requests run.
#[cfg(target_os = "linux")]
#[test]
fn ray_serves_stages() {
    let home = Home::with("trained");
    let (model, _) = home.export("m", &["--for", "onnxruntime", "--stages", "2"]);
    let cases = greedy();
    let list = "`prompt` has to be a list of tokens below 1024, and `max_tokens` above 0.";
    let refused = [
        (json!({"prompt": [], "max_tokens": 1}), list),
        (json!({"prompt": [5, 1024], "max_tokens": 1}), list),
        (json!({"prompt": [-1], "max_tokens": 1}), list),
        (json!({"prompt": "text", "max_tokens": 1}), list),
        (json!({"prompt": [5], "max_tokens": 0}), list),
        (json!({"prompt": [5]}), list),
        (json!([5]), list),
        (
            json!({"prompt": [5, 6], "max_tokens": 1999}),
            "`prompt` and `max_tokens` are 2001 tokens; 2000 fit.",
        ),
    ];
    let found = serving(
        "served.py",
        &json!({
            "example": example("ray"),
            "model": model,
            "stages": 2,
            "cases": cases,
            "refused": refused.iter().map(|(body, _)| body).collect::<Vec<_>>(),
        }),
    );
    let answers: Vec<Value> = cases.iter().map(|case| json!([case["ids"], null])).collect();
    assert_eq!(found["together"], json!([&answers[..], &answers[..]].concat()));
    assert_eq!(found["refused"], json!(refused.map(|(_, sentence)| sentence)));
    assert_eq!(found["cancelled"], true);
    for (at, lost) in found["lost"].as_array().unwrap().iter().enumerate() {
        let number = at + 1;
        let sentence =
            format!("Stage {number}: the caches of this request are lost: send it again.");
        assert_eq!(lost["failed"], json!(vec![sentence; 4]));
        assert_eq!(lost["waiting"], json!([&answers[..], &answers[..]].concat()));
        // Ray's own answer to a full queue.
        assert_eq!(lost["more"], json!([[], 503]));
        assert_eq!(lost["next"], json!(answers));
        assert_eq!(lost["freed"], true);
    }
    assert_eq!(found["left"], json!([]));
}

/// Writes a repository, and returns what Triton would make of it.
fn repository(home: &Home, stages: &[PathBuf], options: &[&str], case: &Value) -> Value {
    let repository = home.join("repository");
    let mut script = Command::new(serving_interpreter());
    script.arg(example("triton/repository.py")).arg(&repository).args(stages);
    printed(script.args(options));
    let count = case["ids"].as_array().unwrap().len();
    let request = json!({"repository": repository, "prompt": case["prompt_ids"], "tokens": count});
    serving("triton.py", &request)
}

#[test]
fn triton_repository_fits_graphs() {
    let gpu = |number| json!({"count": 1, "kind": "KIND_GPU", "gpus": [number]});
    let cpu = json!({"count": 1, "kind": "KIND_CPU"});
    let placed =
        [(["--gpus", "2,0"], [gpu(2), gpu(0)], 8), (["--sequences", "3"], [cpu.clone(), cpu], 3)];
    let exports: [&[&str]; 3] = [
        &["--for", "onnxruntime"],
        &["--for", "openvino"],
        &["--target", "ort", "--compute", "f16", "--sliding-cache", "full"],
    ];
    for (at, options) in exports.into_iter().enumerate() {
        let home = Home::with("trained");
        let (model, _) = home.export("m", &[options, &["--stages", "2"]].concat());
        let stages = stage_paths(&model, 2);
        let case = &greedy()[at];
        let (placing, places, sequences) = &placed[at % 2];
        let found = repository(&home, &stages, placing, case);
        assert_eq!(found["stages"].as_object().unwrap().len(), 2);
        for (at, path) in stages.iter().enumerate() {
            let name = format!("stage-{}", at + 1);
            let stage = &found["stages"][&name];
            assert_eq!(stage["configured"], stage["graph"], "{options:?} {name}");
            let config = &stage["config"];
            let file = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(config["name"], name);
            assert_eq!(config["default_model_filename"], file);
            assert_eq!(config["instance_group"], json!([places[at]]));
            let oldest = &config["sequence_batching"]["oldest"];
            assert_eq!(oldest["max_candidate_sequences"], *sequences);
        }
        assert_eq!(found["tokens"], case["ids"], "{options:?}");
    }
}

#[test]
fn triton_repository_needs_caches() {
    let home = Home::with("tiny");
    for options in [&[][..], &["--kv-cache", "--batch-size", "1"]] {
        let (model, _) = home.export("m", &[options, &["--stages", "2"]].concat());
        let mut script = Command::new(serving_interpreter());
        script.arg(example("triton/repository.py")).arg(home.join("repository"));
        let output = script.args(stage_paths(&model, 2)).output().unwrap();
        let sentence = "has no caches or a fixed batch: export it with caches and without sizes.";
        assert!(String::from_utf8_lossy(&output.stderr).contains(sentence), "{output:?}");
        assert!(!Path::exists(&home.join("repository")));
    }
}

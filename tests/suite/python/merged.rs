//! Adapters merged into the weights, against the logits of PEFT.

use serde_json::json;

use super::adapters::{logits_of, references, ways};
use super::environment::{OPENVINO, assert_steps_of, python};
use crate::adapters::{ADAPTERS, add, bases, order};
use crate::layout_fixtures::in_folder;
use crate::support::{Home, text};

#[test]
fn merged_models_compute_what_peft_computes() {
    for (logits, others) in ADAPTERS {
        let (mut homes, mut models) = (Vec::new(), Vec::new());
        for name in [&[logits], others].concat() {
            for home in bases(name) {
                let adapter = add(&home, name, "adapter");
                let merge = ["--kv-cache", "--adapter", &adapter, "--adapter-as", "merge"];
                for target in ["onnx", "ort"] {
                    let options = [&merge, order(name), &["--target", target]].concat();
                    models.push(home.export(target, &options).0);
                }
                homes.push(home);
            }
        }
        assert_steps_of(2e-5, &models, &references(logits), json!({"ways": ways()}));
    }
}

/// Bounds are what logits of 40 tokens are off by with weights that another program merged in float64
/// and rounded to these formats, and half as much again.
#[test]
fn merged_models_round_as_their_formats_do() {
    let table: [(&str, &[&str], f64); 10] = [
        ("attention", &["--dense", "bf16", "--accept-rounding"], 3.3e-2),
        ("attention", &["--experts", "mxfp4"], 2e-5),
        ("experts", &["--experts", "bf16", "--accept-rounding"], 1.5e-2),
        ("experts", &["--experts", "bf16", "--dense", "bf16", "--accept-rounding"], 0.23),
        ("experts", &["--experts", "mxfp4", "--accept-rounding"], 1.0),
        ("experts", &["--experts", "f32"], 2e-5),
        ("patterns", &["--experts", "bf16", "--accept-rounding"], 0.54),
        ("patterns", &["--experts", "mxfp4", "--accept-rounding"], 1.5),
        ("tinker", &["--external-data", "copy"], 2e-5),
        ("tokens", &["--max-shard-size", "2MB"], 2e-5),
    ];
    for (name, options, bound) in table {
        let logits = logits_of(name);
        let home = Home::with("tiny-hf");
        let adapter = add(&home, name, "adapter");
        let merge = ["--kv-cache", "--adapter", &adapter, "--adapter-as", "merge"];
        let models = ["onnx", "ort"].map(|target| {
            home.export(target, &[&merge, options, &["--target", target]].concat()).0
        });
        let prompts = json!({"ways": [{"rows": [0, 1], "lengths": [40, 40]}]});
        assert_steps_of(bound, &models, &references(logits)[..1], prompts);
    }
}

/// A checkpoint merged once, from which models are exported without the adapter, converted or
/// with another one.
#[test]
fn staged_files_hold_merged_adapters() {
    for (name, base) in
        [("experts", "hf"), ("tinker", "bf16"), ("router-head", "split"), ("biases", "hf")]
    {
        let logits = logits_of(name);
        let home = in_folder(base);
        let adapter = add(&home, name, "adapter");
        let (staged, _) = home.stage("w", &["--adapter", &adapter, "--adapter-as", "merge"]);
        let mut models = Vec::new();
        for (model, options) in
            [("a", &[][..]), ("b", &["--target", "ort"]), ("c", &["--experts", "f32"])]
        {
            models.push(home.export_staged(&staged, model, &[&["--kv-cache"], options].concat()).0);
        }
        assert_steps_of(2e-5, &models, &references(logits), json!({"ways": ways()}));
    }
    let home = Home::with("tiny-hf");
    let [half, rest] = ["half", "rest"].map(|folder| add(&home, "experts", folder));
    let merged = format!("{half}=0.5");
    let (staged, _) = home.stage("w", &["--adapter", &merged, "--adapter-as", "merge"]);
    let added = format!("{rest}=0.5");
    for how in ["inline", "merge"] {
        let options = ["--kv-cache", "--adapter", &added, "--adapter-as", how];
        let (model, _) = home.export_staged(&staged, how, &options);
        assert_steps_of(2e-5, &[model], &references("experts"), json!({"ways": ways()}));
    }
}

#[test]
fn other_runtimes_compute_merged_adapters() {
    for name in ["experts", "tinker", "tokens", "embedding", "router-head"] {
        let logits = logits_of(name);
        let home = Home::with("tiny-hf");
        let adapter = add(&home, name, "adapter");
        let merge = ["--kv-cache", "--adapter", &adapter, "--adapter-as", "merge"];
        let (model, _) = home.export("m", &merge);
        python("check.py", &[text(&model)], &json!(null));
        let request = json!({"engine": OPENVINO, "ways": ways()});
        assert_steps_of(2e-5, &[model], &references(logits), request);
    }
}

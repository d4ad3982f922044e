//! Adapters in models, beside the weights of the base, against the logits of PEFT.

use std::path::Path;

use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_equal, assert_steps_of, python};
use crate::adapters::{ADAPTERS, CONFIG, WEIGHTS, add, bases, order};
use crate::layout_fixtures::{edit_file, in_folder};
use crate::support::{Home, edit_json, fixture, text};

/// Ids and logits `[2, 40]`, and `[1, 150]` of which the last 50 rows are known.
pub fn references(logits: &str) -> [Value; 2] {
    ["2x40", "1x150"].map(|size| {
        let path = |name: &str| fixture("lora").join(format!("{name}{size}.npy"));
        json!({"ids": path("ids-"), "logits": path(&format!("{logits}."))})
    })
}

/// The name of the logits of an adapter, of which there are several forms.
pub fn logits_of(adapter: &str) -> &str {
    match adapter {
        "experts-peft-0.19.0" => "experts",
        "tinker" => "tinker-peft",
        other => other,
    }
}

/// A prompt at once, token by token past the window of 8, and rows of unequal length.
pub fn ways() -> Value {
    json!([
        {"rows": [0, 1], "lengths": [40, 40]},
        {"rows": [0], "lengths": [150]},
        {"rows": [0, 1], "lengths": [1, 1], "steps": 39},
        {"rows": [0], "lengths": [120], "steps": 30},
        {"rows": [0, 1], "lengths": [9, 3], "padding": "left", "steps": 20},
    ])
}

#[test]
fn models_with_adapters_compute_what_peft_computes() {
    for (logits, others) in ADAPTERS {
        let (mut homes, mut models) = (Vec::new(), Vec::new());
        for name in [&[logits], others].concat() {
            for home in bases(name) {
                let adapter = add(&home, name, "adapter");
                let options = [&["--kv-cache", "--adapter", &adapter], order(name)].concat();
                for target in ["onnx", "ort"] {
                    let options = [&options[..], &["--target", target]].concat();
                    let (model, summary) = home.export(target, &options);
                    // Their experts are in a tensor each.
                    let is_gathered = ["split", "tinker-peft"].contains(&name);
                    assert_eq!(summary["weights"]["in_place"], !is_gathered, "{name}: {summary}");
                    models.push(model);
                }
                homes.push(home);
            }
        }
        assert_steps_of(2e-5, &models, &references(logits), json!({"ways": ways()}));
    }
}

/// The tensors of an adapter whose names have a part, as an adapter in a folder.
fn part(home: &Path, adapter: &str, has: &str, folder: &str) -> String {
    let path = add(home, adapter, folder);
    edit_file(&home.join(folder).join(WEIGHTS), |it| it.retain(|name, _| name.contains(has)));
    path
}

/// Weights that add up to 1, of the same change and of parts of it.
#[test]
fn several_adapters_are_added() {
    for name in
        ["attention", "experts", "experts-peft-0.19.0", "router-head", "embedding", "tinker"]
    {
        let logits = logits_of(name);
        let home = Home::with("tiny-hf");
        let [first, second] = ["first", "second"].map(|folder| add(&home, name, folder));
        let [first, second] = [format!("{first}=0.25"), format!("{second}=0.75")];
        let options = ["--kv-cache", "--adapter", &first, "--adapter", &second];
        let (model, summary) = home.export("m", &options);
        let weights = [0, 1].map(|at| summary["adapters"][at]["weight"].clone());
        assert_eq!(weights, [0.25, 0.75], "{summary}");
        assert_steps_of(2e-5, &[model], &references(logits), json!({"ways": ways()}));
    }
    let home = Home::with("tiny");
    let attention = part(&home, "experts", "self_attn", "one");
    let experts = part(&home, "experts", "mlp.experts", "two");
    let options = ["--target", "ort", "--adapter", &attention, "--adapter", &experts];
    let models = [home.export("m", &options).0];
    assert_steps_of(2e-5, &models, &references("experts"), json!({"ways": ways()}));
}

#[test]
fn a_weight_scales_alpha() {
    for name in ["attention", "experts", "patterns"] {
        let home = Home::with("tiny-hf");
        let adapter = add(&home, name, "adapter");
        let halved = add(&home, name, "halved");
        edit_json(&home.join("halved").join(CONFIG), |config| {
            let half = |value: &mut Value| *value = json!(value.as_f64().unwrap() / 2.0);
            half(&mut config["lora_alpha"]);
            config["alpha_pattern"].as_object_mut().unwrap().values_mut().for_each(half);
        });
        let (expected, _) = home.export("halved", &["--adapter", &halved]);
        let (model, _) = home.export("weighted", &["--adapter", &format!("{adapter}=0.5")]);
        let (negated, _) =
            home.export("negated", &["--adapter", &adapter, "--adapter", &format!("{halved}=-1")]);
        assert_equal(1e-5, &[model, negated], &expected);
    }
}

/// Formats of the base, functions, copies, logits of last tokens alone.
#[test]
fn adapters_go_with_other_options() {
    let table: [(&str, &[&str], f64); 9] = [
        ("functions", &["--functions"], 2e-5),
        ("copied", &["--external-data", "copy", "--target", "ort"], 2e-5),
        ("sharded", &["--max-shard-size", "600kB"], 2e-5),
        ("experts-f32", &["--experts", "f32"], 2e-5),
        ("experts-bf16-functions", &["--experts", "bf16", "--target", "ort", "--functions"], 2e-5),
        ("experts-int8", &["--experts", "int8"], 2e-5),
        ("dense-f32", &["--dense", "f32", "--target", "ort"], 2e-5),
        // Rounded by the format and by activations of 11 bits.
        ("dense-int8", &["--dense", "int8", "--target", "ort"], 3.5),
        ("f16", &["--compute", "f16", "--target", "ort"], 3.5),
    ];
    for name in ["experts", "router-head", "tokens", "tinker", "embedding"] {
        let logits = if name == "tinker" { "tinker-peft" } else { name };
        let home = in_folder("hf");
        let adapter = add(&home, name, "adapter");
        let add = ["--kv-cache", "--adapter", &adapter];
        for (variant, options, bound) in table {
            let (model, _) = home.export(variant, &[&add, options].concat());
            assert_steps_of(bound, &[model], &references(logits), json!({"ways": ways()}));
        }
        let (last, _) = home.export("last", &[&add[..], &["--last-logits"]].concat());
        let request = json!({"last": true, "ways": ways()});
        assert_steps_of(2e-5, &[last], &references(logits), request);
    }
}

#[test]
fn other_runtimes_compute_adapters() {
    for name in ["experts-peft-0.19.0", "tinker", "tokens", "embedding", "router-head", "biases"] {
        let logits = logits_of(name);
        let home = Home::with("tiny-hf");
        let adapter = add(&home, name, "adapter");
        let (model, _) = home.export("m", &["--kv-cache", "--adapter", &adapter]);
        python("check.py", &[text(&model)], &Value::Null);
        let request = json!({"engine": OPENVINO, "ways": ways()});
        assert_steps_of(2e-5, std::slice::from_ref(&model), &references(logits), request);
        let prompts = json!([{"rows": [0, 1], "lengths": [40, 40]}]);
        let request = json!({"engine": "reference", "ways": prompts});
        assert_steps_of(2e-5, &[model], &references(logits), request);
    }
}

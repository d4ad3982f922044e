//! Faults that are planted in models: `verify` finds each, and the layer it is in.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::derived::{self, Tensors, tiny};
use crate::support::{copy_folder, export, python, text};
use crate::verify::{exported, fails, passes};

/// A model of a checkpoint that was tampered with, and the report against the one
/// that was not.
fn planted(edit: impl Fn(&mut Tensors, &mut Value), options: &[&str]) -> (Value, String) {
    let (home, checkpoint, model) = exported("tiny", &[]);
    let other = home.path().join("other");
    let config = fs::read_to_string(checkpoint.join("config.json")).unwrap();
    let (mut tensors, mut config) = (tiny(), serde_json::from_str(&config).unwrap());
    edit(&mut tensors, &mut config);
    fs::create_dir(&other).unwrap();
    fs::write(other.join("config.json"), config.to_string()).unwrap();
    derived::write(&other.join("model.safetensors"), &tensors);
    export(&[&["--checkpoint", text(&other), "--output", text(&model)], options].concat());
    let (report, sentence) = fails(&model, &checkpoint, &["--trace"]);
    let (largest, off) = (&report["logits"]["largest_logit"], &report["logits"]["max"]);
    assert!(off.as_f64().unwrap() > 1e-3 * largest.as_f64().unwrap(), "{report}");
    assert!(sentence.contains(" is off by ") && sentence.contains(" is allowed"), "{sentence}");
    (report, sentence)
}

/// Where both targets' models depart: 0 is what is embedded, 1 the first layer.
fn first_departure(edit: impl Fn(&mut Tensors, &mut Value)) -> Value {
    let firsts =
        [&[][..], &["--functions"], &["--kv-cache"], &["--target", "ort"]].map(|options| {
            let (report, _) = planted(&edit, options);
            assert_eq!(report["identity"]["is"], "different");
            report["trace"]["first"].clone()
        });
    assert!(firsts.iter().all(|first| *first == firsts[0]), "{firsts:?}");
    firsts[0].clone()
}

fn bytes<'t>(tensors: &'t mut Tensors, name: &str) -> &'t mut Vec<u8> {
    &mut tensors.get_mut(name).unwrap().2
}

/// By default there is padding on both sides, where a model takes a mask.
#[test]
fn a_mask_that_is_overlooked_is_found() {
    for options in
        [&["--kv-cache"][..], &["--target", "ort"], &["--target", "ort", "--last-logits"]]
    {
        let (home, checkpoint, model) = exported("tiny", options);
        let faulty = home.path().join("faulty.onnx");
        python("unmasked.py", &[text(&model), text(&faulty)], &Value::Null);
        fails(&faulty, &checkpoint, &[]);
    }
}

/// A bit of a byte here and there.
#[test]
fn a_broken_weight_is_found_in_its_layer() {
    for (name, first) in [
        ("embedding.weight", json!(0)),
        ("block.0.attn.sinks", json!(1)),
        ("block.1.mlp.mlp2_weight.scales", json!(2)),
        ("block.2.attn.out.weight", json!(3)),
        ("unembedding.weight", Value::Null),
    ] {
        let found = first_departure(|tensors, _| {
            for byte in bytes(tensors, name).iter_mut().skip(1).step_by(101) {
                *byte ^= 2;
            }
        });
        assert_eq!(found, first, "{name}");
    }
}

/// One key fewer, in the layers that have a window, of which the first is the first.
#[test]
fn a_wrong_window_is_found() {
    let first = first_departure(|_, config| config["sliding_window"] = json!(7));
    assert_eq!(first, json!(1));
}

#[test]
fn gate_and_up_in_each_others_place_are_found_in_their_layer() {
    let first = first_departure(|tensors, _| {
        for part in ["weight.blocks", "weight.scales", "bias"] {
            let (_, shape, data) = tensors.get_mut(&format!("block.1.mlp.mlp1_{part}")).unwrap();
            let row = data.len() / (shape[0] * shape[1]);
            for pair in data.chunks_mut(2 * row) {
                let (gate, up) = pair.split_at_mut(row);
                gate.swap_with_slice(up);
            }
        }
    });
    assert_eq!(first, json!(2));
}

/// As transformers rounds YaRN's bounds unless `truncate` is false: the turns over
/// the context that give whole numbers for them.
#[test]
fn rounded_yarn_is_found() {
    let first = first_departure(|_, config| {
        let number = |key: &str| config[key].as_f64().unwrap();
        let (base, context) = (number("rope_theta"), number("initial_context_length"));
        let half = number("head_dim") / 2.0;
        let turns = std::f64::consts::TAU;
        let bound = |beta: f64| half * (context / (beta * turns)).ln() / base.ln();
        let beta = |bound: f64| context / (turns * base.powf(bound / half));
        let low = bound(number("rope_ntk_beta")).floor();
        let high = bound(number("rope_ntk_alpha")).ceil();
        (config["rope_ntk_beta"], config["rope_ntk_alpha"]) = (json!(beta(low)), json!(beta(high)));
    });
    assert_eq!(first, json!(1));
}

/// A file that changes under a model that reads it in place.
#[test]
fn a_weights_file_that_was_damaged_later_is_found() {
    let (_home, checkpoint, model) = exported("tiny", &["--external-data", "copy"]);
    passes(&model, &checkpoint, &[]);
    let files = fs::read_dir(model.parent().unwrap()).unwrap();
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
    let weights = files.map(|entry| entry.unwrap().path()).find(is_weights).unwrap();
    let mut damaged = fs::read(&weights).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4096].fill(0);
    fs::write(&weights, damaged).unwrap();
    let (report, _) = fails(&model, &checkpoint, &[]);
    assert_eq!(report["identity"], json!({"is": "same"}), "the model was made of it");
}

/// Two experts that score the same: where one of them has a place, the reference
/// takes the first, and a model whose checkpoint has the second ahead by a hair the
/// second. That is no fault; but what else is wrong is one.
#[test]
fn what_float32_does_not_decide_is_no_fault() {
    let (home, checkpoint, model) = exported("tiny", &[]);
    let mut tensors = tiny();
    let row = bytes(&mut tensors, "block.1.mlp.gate.weight").len() / 8;
    bytes(&mut tensors, "block.1.mlp.gate.weight").copy_within(..row, 3 * row);
    let other = home.path().join("other");
    copy_folder(&checkpoint, &other);
    // BF16 of 2⁻¹⁵, and for the second expert the next number to it.
    let write = |folder: &Path, second: u8, tensors: &mut Tensors| {
        let bias = bytes(tensors, "block.1.mlp.gate.bias");
        bias[..2].copy_from_slice(&[0, 0x38]);
        bias[6..8].copy_from_slice(&[second, 0x38]);
        derived::write(&folder.join("model.safetensors"), tensors);
    };
    write(&checkpoint, 0, &mut tensors);
    write(&other, 1, &mut tensors);
    export(&["--checkpoint", text(&other), "--output", text(&model)]);

    let report = passes(&model, &checkpoint, &["--tokens", "20", "--trace"]);
    assert_eq!(report["ties"]["followed"], "the_model");
    let flips = report["ties"]["flips"].as_array().unwrap();
    assert!(!flips.is_empty(), "{report}");
    for flip in flips {
        let (dropped, taken) = (&flip["dropped"], &flip["taken"]);
        assert_eq!((&flip["layer"], &flip["margin"]), (&json!(1), &json!(0.0)), "{report}");
        assert_eq!((dropped, taken), (&json!([0]), &json!([3])), "{report}");
    }
    assert_eq!(report["trace"]["first"], Value::Null);

    bytes(&mut tensors, "block.2.attn.out.weight")[1] ^= 2;
    write(&other, 1, &mut tensors);
    export(&["--checkpoint", text(&other), "--output", text(&model)]);
    fails(&model, &checkpoint, &["--tokens", "20"]);
}

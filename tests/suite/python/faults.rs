//! Planted faults: `verify` finds each, and the layer that it is in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::environment::python;
use super::verify::{exported, fails, passes};
use crate::inspect::data_file;
use crate::layout_fixtures::{Tensors, edit_tensors};
use crate::support::{
    Home, assert_contains, copy_folder, edit_json, export, export_args, fixture, model_path, text,
};

fn bytes<'t>(tensors: &'t mut Tensors, name: &str) -> &'t mut Vec<u8> {
    &mut tensors.get_mut(name).unwrap().2
}

/// Copies a checkpoint to a folder with this name beside it, and edits its config.
fn with_config(checkpoint: &Path, name: &str, edit: impl Fn(&mut Value)) -> PathBuf {
    let folder = checkpoint.with_file_name(name);
    copy_folder(checkpoint, &folder);
    edit_json(&folder.join("config.json"), edit);
    folder
}

/// The tiny checkpoint with edited tensors, in a folder of `home`.
pub fn with_tensors(home: &Path, name: &str, edit: impl Fn(&mut Tensors)) -> PathBuf {
    let folder = home.join(name);
    copy_folder(&fixture("tiny"), &folder);
    edit_tensors(&folder, edit);
    folder
}

/// The point where models of all targets made from an edited checkpoint depart from the
/// original: 0 is the embedding, 1 the first layer.
fn first_departure(edit: impl Fn(&mut Tensors), edit_config: impl Fn(&mut Value)) -> Value {
    let variants = [
        &[][..],
        &["--functions"],
        &["--kv-cache"],
        &["--target", "ort"],
        &["--stages", "2", "--kv-cache"],
        &["--stages", "3", "--target", "ort"],
    ];
    let firsts = variants.map(|options| {
        let home = Home::new();
        let tensors = with_tensors(&home, "tensors", &edit);
        let other = with_config(&tensors, "other", &edit_config);
        let model = home.join("model.onnx");
        export(&export_args(&other, &model, options));
        let model = model_path(&model, options);
        let (report, sentence) = fails(&model, &fixture("tiny"), &["--trace"]);
        let [largest, off] = ["largest_logit", "max"].map(|key| report["logits"][key].as_f64());
        assert!(off.unwrap() > 1e-3 * largest.unwrap(), "{report}");
        assert_contains(&sentence, "logits differ by ");
        assert_eq!(report["identity"]["is"], "different");
        report["trace"]["first"].clone()
    });
    assert!(firsts.iter().all(|first| *first == firsts[0]), "{firsts:?}");
    firsts[0].clone()
}

/// Models with a mask get padding on both sides by default.
#[test]
fn finds_ignored_mask() {
    for options in
        [&["--kv-cache"][..], &["--target", "ort"], &["--target", "ort", "--last-logits"]]
    {
        let (home, checkpoint, model) = exported("tiny", options);
        let faulty = home.join("faulty.onnx");
        python("unmasked.py", &[text(&model), text(&faulty)], &Value::Null);
        fails(&faulty, &checkpoint, &[]);
    }
}

#[test]
fn finds_broken_weight_in_its_layer() {
    for (name, first) in [
        ("embedding.weight", json!(0)),
        ("block.0.attn.sinks", json!(1)),
        ("block.1.mlp.mlp2_weight.scales", json!(2)),
        ("block.2.attn.out.weight", json!(3)),
        ("unembedding.weight", Value::Null),
    ] {
        let damage = |tensors: &mut Tensors| {
            let bytes = bytes(tensors, name).iter_mut().skip(1).step_by(101);
            bytes.for_each(|byte| *byte ^= 2);
        };
        assert_eq!(first_departure(damage, |_| ()), first, "{name}");
    }
}

/// The first layer has a window.
#[test]
fn finds_wrong_window() {
    let first = first_departure(|_| (), |config| config["sliding_window"] = json!(7));
    assert_eq!(first, json!(1));
}

#[test]
fn finds_swapped_gate_and_up_in_their_layer() {
    let swap = |tensors: &mut Tensors| {
        for part in ["weight.blocks", "weight.scales", "bias"] {
            let (_, shape, data) = tensors.get_mut(&format!("block.1.mlp.mlp1_{part}")).unwrap();
            let row = data.len() / (shape[0] * shape[1]);
            for pair in data.chunks_mut(2 * row) {
                let (gate, up) = pair.split_at_mut(row);
                gate.swap_with_slice(up);
            }
        }
    };
    assert_eq!(first_departure(swap, |_| ()), json!(2));
}

/// The betas for which YaRN's bounds are whole numbers, as transformers rounds them unless
/// `truncate` is false.
#[test]
fn finds_rounded_yarn_bounds() {
    let round = |config: &mut Value| {
        let number = |key: &str| config[key].as_f64().unwrap();
        let (base, context) = (number("rope_theta"), number("initial_context_length"));
        let half = number("head_dim") / 2.0;
        let turns = std::f64::consts::TAU;
        let bound = |beta: f64| half * (context / (beta * turns)).ln() / base.ln();
        let beta = |bound: f64| context / (turns * base.powf(bound / half));
        let low = bound(number("rope_ntk_beta")).floor();
        let high = bound(number("rope_ntk_alpha")).ceil();
        (config["rope_ntk_beta"], config["rope_ntk_alpha"]) = (json!(beta(low)), json!(beta(high)));
    };
    assert_eq!(first_departure(|_| (), round), json!(1));
}

#[test]
fn finds_weights_file_damaged_after_export() {
    let (_home, checkpoint, model) = exported("tiny", &["--external-data", "copy"]);
    passes(&model, &checkpoint, &[]);
    let weights = data_file(&model);
    let mut damaged = fs::read(&weights).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4096].fill(0);
    fs::write(&weights, damaged).unwrap();
    let (report, _) = fails(&model, &checkpoint, &[]);
    assert_eq!(report["identity"], json!({"is": "same"}), "the model was made from it");
}

/// Makes experts 0, 3, 5 and 6 equal for the routers of some layers, with biases of BF16's
/// 2⁻¹⁵, of which the last bit of the last two experts' is given.
pub fn tie(tensors: &mut Tensors, layers: &[usize], last_two: u8) {
    for layer in layers {
        let weight = bytes(tensors, &format!("block.{layer}.mlp.gate.weight"));
        let row = weight.len() / 8;
        [3, 5, 6].iter().for_each(|expert| weight.copy_within(..row, expert * row));
        let bias = bytes(tensors, &format!("block.{layer}.mlp.gate.bias"));
        for (expert, last) in [(0, 0), (3, 0), (5, last_two), (6, last_two)] {
            bias[2 * expert..][..2].copy_from_slice(&[last, 0x38]);
        }
    }
}

/// Of experts with equal scores the reference takes the first. A model whose checkpoint has
/// others ahead by one bit takes those: one or two for a token, in several layers. Nothing but
/// these bits is wrong.
#[test]
fn follows_model_in_ties() {
    let home = Home::new();
    let checkpoint = with_tensors(&home, "checkpoint", |tensors| tie(tensors, &[0, 1], 0));
    let other = with_tensors(&home, "other", |tensors| tie(tensors, &[0, 1], 1));
    let model = home.join("model.onnx");
    for (options, trace) in [
        (&[][..], &["--trace"][..]),
        (&["--functions", "--kv-cache"], &[]),
        (&["--target", "ort"], &["--trace"]),
        (&["--target", "ort", "--last-logits"], &[]),
        (&["--target", "ort", "--seq-len", "7"], &[]),
        (&["--target", "ort", "--stages", "3"], &["--trace"]),
    ] {
        export(&export_args(&other, &model, options));
        let model = model_path(&model, options);
        let checks = [&["--tokens", "20"], trace].concat();
        let (report, sentence) = fails(&model, &checkpoint, &checks);
        let biases = ["layers.0.mlp.router.bias", "layers.1.mlp.router.bias"];
        assert_eq!(report["weights"]["different"], json!(biases));
        assert!(sentence.contains("other bytes") && !sentence.contains("differ by"), "{sentence}");
        assert!(report["trace"]["first"].is_null(), "{report}");
        assert_eq!(report["ties"]["followed"], "the_model");
        let flips = report["ties"]["flips"].as_array().unwrap();
        let how = |flip: &Value| {
            let count = flip["taken"].as_array().unwrap().len();
            assert!(json!([[0], [3], [0, 3]]).as_array().unwrap().contains(&flip["dropped"]));
            assert_eq!(flip["margin"], 0.0);
            (flip["layer"].as_u64().unwrap(), count)
        };
        let found: BTreeSet<_> = flips.iter().map(how).collect();
        assert!([(0, 1), (0, 2), (1, 1), (1, 2)].iter().all(|it| found.contains(it)), "{report}");
    }
}

/// Neither in a later layer nor in a router.
#[test]
fn ties_excuse_no_other_fault() {
    let home = Home::new();
    let checkpoint = with_tensors(&home, "checkpoint", |tensors| tie(tensors, &[0], 0));
    let broken = with_tensors(&home, "broken", |tensors| {
        tie(tensors, &[0], 1);
        bytes(tensors, "block.2.attn.out.weight")[1] ^= 2;
    });
    // Experts 1 and 2 swapped.
    let wrong = with_tensors(&home, "wrong", |tensors| {
        tie(tensors, &[0], 1);
        for (name, row) in [("weight", 192), ("bias", 2)] {
            let rows = bytes(tensors, &format!("block.0.mlp.gate.{name}"));
            rows[row..3 * row].rotate_left(row);
        }
    });
    let model = home.join("model.onnx");
    for other in [&broken, &wrong] {
        export(&export_args(other, &model, &["--target", "ort"]));
        let (report, sentence) = fails(&model, &checkpoint, &["--tokens", "20"]);
        assert_contains(&sentence, "logits differ by ");
        assert_eq!(report["ties"]["followed"], "the_model");
    }
}

#[test]
fn finds_flipped_bit_that_no_logit_shows() {
    for (options, name) in [
        (&["--external-data", "copy"][..], "embedding.weight"),
        (&["--experts", "bf16", "--functions"], "layers.1.mlp.experts.down.weight"),
        (&["--external-data", "copy", "--target", "ort"], "layers.0.mlp.experts.gate_up.blocks"),
    ] {
        let (_home, checkpoint, model) = exported("tiny", options);
        let report = passes(&model, &checkpoint, &["--tokens", "3", "--batch", "1"]);
        let weights = &report["weights"];
        assert!(weights["compared"].as_u64().unwrap() > 100_000, "{report}");
        for list in ["different", "missing", "unknown"] {
            assert_eq!(weights[list], json!([]), "{report}");
        }
        let seen = export(&["inspect", text(&model), "--tensors", name]);
        let range = &seen["tensors"][0]["places"][0];
        let file = model.with_file_name(range["file"].as_str().unwrap());
        let last = range["offset"].as_u64().unwrap() + range["length"].as_u64().unwrap() - 1;
        let mut bytes = fs::read(&file).unwrap();
        bytes[last as usize] ^= 1;
        fs::write(&file, bytes).unwrap();
        let (report, sentence) =
            fails(&model, &checkpoint, &["--tokens", "3", "--batch", "1", "--seed", "5"]);
        assert_eq!(report["weights"]["different"], json!([name]), "{report}");
        assert_contains(&sentence, "it was changed since the export: restore it, or export again");
        let (max, bound) = (&report["logits"]["max"], &report["tolerance"]["bound"]);
        assert!(max.as_f64() < bound.as_f64(), "{report}");
        passes(&model, &checkpoint, &["--tokens", "3", "--batch", "1", "--tolerance", "9"]);
    }
}

#[test]
fn reads_no_weights_in_place() {
    let (_home, checkpoint, model) = exported("tiny", &[]);
    let report = passes(&model, &checkpoint, &["--tokens", "3"]);
    assert_eq!(report["weights"]["compared"], 0);
    let whole = fs::metadata(checkpoint.join("model.safetensors")).unwrap().len();
    let in_place = report["weights"]["in_place"].as_u64().unwrap();
    assert!(in_place < whole && whole - in_place < 16_384, "all but the header: {report}");
}

/// Some faults grow with the position.
#[test]
fn finds_slightly_wrong_constants() {
    for target in ["onnx", "ort"] {
        for (name, key, value, tokens) in [
            ("tiny-hf", "rms_norm_eps", json!(1e-6), "40"),
            ("tiny", "initial_context_length", json!(4095), "200"),
            ("tiny", "rope_theta", json!(150_001.0), "600"),
        ] {
            let (_home, checkpoint, model) = exported(name, &["--target", target]);
            let other = with_config(&checkpoint, "other", |config| config[key] = value.clone());
            export(&export_args(&other, &model, &["--target", target]));
            let checks = ["--tokens", tokens, "--batch", "1", "--decode", "0"];
            let (report, sentence) = fails(&model, &checkpoint, &checks);
            assert_contains(&sentence, "logits differ by ");
            assert!(report["weights"]["different"].as_array().unwrap().is_empty(), "{report}");
        }
        let (_home, checkpoint, model) = exported("tiny", &["--target", target]);
        let planted = python("constant.py", &[text(&model), "1.702", "1.7021"], &Value::Null);
        assert!(planted.as_u64().unwrap() > 0);
        fails(&model, &checkpoint, &["--batch", "1"]);
    }
}

/// A limited cache of a window of 8 tokens that keeps 6 in place of 23: the next token sees 7.
#[test]
fn finds_cache_that_forgets() {
    for options in [&["--kv-cache"][..], &["--target", "ort"]] {
        let (_home, checkpoint, model) = exported("tiny", options);
        passes(&model, &checkpoint, &[]);
        let planted = python("constant.py", &[text(&model), "23", "6"], &Value::Null);
        assert_eq!(planted, 1);
        fails(&model, &checkpoint, &[]);
    }
}

/// As in trained models, where they change the noise.
#[test]
fn accepts_large_channels_in_residual_stream() {
    for size in [300f32, 30_000.0] {
        let home = Home::new();
        let checkpoint = with_tensors(&home, "checkpoint", |tensors| {
            let embedding = bytes(tensors, "embedding.weight").as_chunks_mut().0;
            // BF16: the upper half of float32.
            for (at, number) in embedding.iter_mut().skip(5).step_by(96).enumerate() {
                let size = if at % 2 == 0 { size } else { -size / 2.0 };
                *number = [size.to_le_bytes()[2], size.to_le_bytes()[3]];
            }
        });
        for target in ["onnx", "ort"] {
            let (model, _) = home.export(target, &["--target", target]);
            passes(&model, &checkpoint, &["--trace"]);
        }
    }
}

/// An expert of the last layer that the last token does not use changes no logit of a model
/// that returns the last logits only.
#[test]
fn finds_departure_that_no_logit_shows() {
    let (home, checkpoint, model) = exported("tiny", &[]);
    let texts = ["--tokens", "12", "--batch", "1", "--decode", "0"];
    let mut unread = 0;
    for expert in 0..8 {
        let other = with_tensors(&home, &format!("other-{expert}"), |tensors| {
            let row = 2 * 96;
            bytes(tensors, "block.2.mlp.mlp2_bias")[expert * row..][..row].fill(0x3f);
        });
        export(&export_args(&other, &model, &["--last-logits"]));
        let (report, sentence) = fails(&model, &checkpoint, &texts);
        assert_eq!(report["trace"]["first"], 3, "{report}");
        if report["logits"]["max"].as_f64() <= report["tolerance"]["bound"].as_f64() {
            assert_contains(&sentence, "departs in layer 2 by ");
            passes(&model, &checkpoint, &[&texts[..], &["--tolerance", "1e-4"]].concat());
            unread += 1;
        }
    }
    assert_eq!(unread, 4, "half of the experts take the last token");
}

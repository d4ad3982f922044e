//! Every layout of the same model gives the same logits.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::environment::{assert_equal, assert_exact, assert_logits, python, reference};
use crate::derived::{LAYOUTS, config, home, in_folder, in_layout, write_shards};
use crate::layouts::{drop_experts, narrow};
use crate::provenance::with_mixed_formats;
use crate::support::{export, export_in, stage_args, staged_args};

/// Layouts whose experts are referenced in place.
const IN_PLACE: [&str; 5] = ["hf", "bf16", "f16", "f32", "fp8"];

/// Names and options of exports.
const VARIANTS: [(&str, &[&str]); 5] = [
    ("flat", &[]),
    ("functions", &["--functions"]),
    ("ort", &["--target", "ort"]),
    // Not with MXFP4 scales, which onnxruntime does not take as inputs of functions.
    ("ort-functions", &["--target", "ort", "--functions"]),
    ("copied", &["--external-data", "copy", "--target", "ort"]),
];

#[test]
fn every_layout_is_exact() {
    for layout in LAYOUTS {
        let (home, mut models) = (in_folder(layout), Vec::new());
        for (variant, options) in VARIANTS {
            if layout == "hf" && variant == "ort-functions" {
                continue;
            }
            let (model, summary) = export_in(home.path(), &format!("{layout}-{variant}"), options);
            models.push(model);
            let in_place = IN_PLACE.contains(&layout) && variant != "copied";
            assert_eq!(summary["weights"]["in_place"], in_place, "{layout} {variant}: {summary}");
            let reused = ["functions", "ort", "ort-functions"].contains(&variant);
            assert_eq!(summary["weights"]["bytes_written"] == 0, in_place || reused);
        }
        assert_logits(&models, &["2x40", "1x300"].map(reference));
        let [checkpoint, staged, model] =
            ["checkpoint", "w.safetensors", "staged.onnx"].map(|name| home.path().join(name));
        export(&stage_args(&checkpoint, &staged, &[]));
        fs::remove_dir_all(checkpoint).unwrap();
        let summary = export(&staged_args(&staged, &model, &["--target", "ort"]));
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_exact(&model, "2x40");
    }
}

/// Steps of a single token compute experts by other nodes.
#[test]
fn every_layout_is_exact_step_by_step() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let models = [("ort", "ort"), ("cached", "onnx")].map(|(name, target)| {
            export_in(home.path(), name, &["--target", target, "--kv-cache"]).0
        });
        let ways = json!([
            {"rows": [0, 1], "lengths": [12, 5], "padding": "left", "steps": 20},
            {"rows": [1], "lengths": [1], "steps": 20},
        ]);
        let request = json!({"models": models, "references": [reference("2x40")], "ways": ways});
        let found: Vec<Vec<f64>> =
            serde_json::from_value(python("cached.py", &[], &request)).unwrap();
        assert!(found.iter().flatten().all(|error| *error <= 1e-5), "{layout}: {found:?}");
    }
}

/// As in the released files, a tensor's blocks and scales are in different shards; and names
/// may lack `model.`.
#[test]
fn reads_blocks_and_scales_from_different_shards() {
    for prefix in ["model.", ""] {
        let home = tempfile::tempdir().unwrap();
        let renamed = in_layout("hf").into_iter().map(|(name, tensor)| {
            let rest = name.strip_prefix("model.");
            (rest.map_or(name.clone(), |rest| format!("{prefix}{rest}")), tensor)
        });
        write_shards(&home.path().join("checkpoint"), renamed.collect());
        let (model, summary) = export_in(home.path(), "model", &["--target", "ort"]);
        assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 3);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_exact(&model, "2x40");
    }
}

fn assert_equal_checkpoints(one: &TempDir, other: &TempDir) {
    let [one, other] = [one, other].map(|home| export_in(home.path(), "model", &[]).0);
    assert_equal(&[one], &other);
}

/// With tied embeddings, the embedding is lm_head; without bias, the projections of attention
/// add nothing.
#[test]
fn exports_tied_embeddings_and_attention_without_bias() {
    let (mut whole, mut without) = (in_layout("hf"), in_layout("hf"));
    let embedding = whole["model.embed_tokens.weight"].clone();
    whole.insert("lm_head.weight".to_owned(), embedding);
    without.remove("lm_head.weight");
    let is_bias = |name: &str| name.contains("self_attn") && name.ends_with("_proj.bias");
    for (_, (_, _, data)) in whole.iter_mut().filter(|(name, _)| is_bias(name)) {
        data.fill(0);
    }
    without.retain(|name, _| !is_bias(name));
    let mut config_without = config();
    config_without["tie_word_embeddings"] = json!(true);
    config_without["attention_bias"] = json!(false);
    let (whole, without) = (home(&config(), &whole), home(&config_without, &without));
    assert_equal_checkpoints(&whole, &without);
}

/// A pruned layer computes what it does when the missing experts are never chosen. No config
/// says how many experts a layer has; the tensors do.
#[test]
fn exports_layers_with_different_numbers_of_experts() {
    let mut never = in_layout("hf");
    let (_, _, bias) = never.get_mut("model.layers.1.mlp.router.bias").unwrap();
    bias.chunks_mut(2).skip(5).for_each(|bf16| bf16.copy_from_slice(&0xc6ff_u16.to_le_bytes()));
    let never = home(&config(), &never);
    let (expected, _) = export_in(never.path(), "model", &["--kv-cache"]);
    for layout in ["hf", "bf16", "fp8"] {
        let mut pruned = in_layout(layout);
        drop_experts(&mut pruned, 1, 5, true);
        let pruned = home(&config(), &pruned);
        let variants = [
            ("flat", &[][..]),
            ("functions", &["--functions"]),
            ("ort", &["--target", "ort"]),
            ("mxfp4", &["--experts", "mxfp4"]),
        ];
        let models = variants.map(|(variant, options)| {
            let options = [options, &["--kv-cache"]].concat();
            let (model, summary) =
                export_in(pruned.path(), &format!("{layout}-{variant}"), &options);
            assert_eq!(summary["experts"]["counts"], json!([8, 5, 8]));
            model
        });
        assert_equal(&models, &expected);
        let [checkpoint, stage, model] =
            ["checkpoint", "w.safetensors", "staged.onnx"].map(|name| pruned.path().join(name));
        export(&stage_args(&checkpoint, &stage, &[]));
        let summary = export(&staged_args(&stage, &model, &[]));
        assert_eq!(summary["experts"]["counts"], json!([8, 5, 8]));
    }
}

/// In the wider model, the neurons that the other one lacks add nothing.
#[test]
fn exports_rows_without_whole_blocks_as_floats() {
    let mut whole = in_layout("bf16");
    for layer in 0..3 {
        let name = format!("model.layers.{layer}.mlp.experts.down_proj");
        let (_, _, down) = whole.get_mut(&name).unwrap();
        // [experts, 128, 96] in BF16.
        for expert in down.chunks_mut(128 * 96 * 2) {
            expert[120 * 96 * 2..].fill(0);
        }
    }
    let (narrow_config, cut) = narrow();
    assert_equal_checkpoints(&home(&config(), &whole), &home(&narrow_config, &cut));
}

#[test]
fn exports_matrices_in_different_formats() {
    let home = with_mixed_formats();
    let models =
        [("mixed", &[][..]), ("bf16", &["--experts", "bf16"]), ("mxfp4", &["--experts", "mxfp4"])]
            .map(|(name, options)| export_in(home.path(), name, options).0);
    assert_logits(&models, &[reference("2x40")]);
}

//! Every layout of the same model gives the same logits, as it is stored and converted.

use std::fs;

use safetensors::Dtype;
use serde_json::json;

use super::environment::{assert_equal, assert_exact, assert_logits, assert_steps, reference};
use crate::layout_fixtures::{
    LAYOUTS, config, drop_experts, home, in_folder, in_layout, narrow, tiny, with_numbers,
    write_shards,
};
use crate::provenance::with_mixed_formats;
use crate::support::{Home, export, export_args, fixture, read_json};

const IN_PLACE: [&str; 7] = ["hf", "bf16", "f16", "f32", "fp8", "mixed", "numbers"];

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
            if ["hf", "mixed"].contains(&layout) && variant == "ort-functions" {
                continue;
            }
            let (model, summary) = home.export(&format!("{layout}-{variant}"), options);
            models.push(model);
            let in_place = IN_PLACE.contains(&layout) && variant != "copied";
            assert_eq!(summary["weights"]["in_place"], in_place, "{layout} {variant}: {summary}");
            let reused = ["functions", "ort", "ort-functions"].contains(&variant);
            assert_eq!(summary["weights"]["bytes_written"] == 0, in_place || reused);
        }
        assert_logits(&models, &["2x40", "1x300"].map(reference));
        let (staged, _) = home.stage("w", &[]);
        fs::remove_dir_all(home.checkpoint()).unwrap();
        let (model, summary) = home.export_staged(&staged, "staged", &["--target", "ort"]);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_exact(&model, "2x40");
    }
}

/// Steps of a single token compute experts by other nodes.
#[test]
fn every_layout_is_exact_step_by_step() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let models = [("ort", "ort"), ("cached", "onnx")]
            .map(|(name, target)| home.export(name, &["--target", target, "--kv-cache"]).0);
        let ways = json!([
            {"rows": [0, 1], "lengths": [12, 5], "padding": "left", "steps": 20},
            {"rows": [1], "lengths": [1], "steps": 20},
        ]);
        assert_steps(1e-5, &models, &["2x40"], json!({"ways": ways}));
    }
}

/// As in the released files, a tensor's blocks and scales are in different shards; and names
/// may lack `model.`.
#[test]
fn reads_blocks_and_scales_from_different_shards() {
    for prefix in ["model.", ""] {
        let home = Home::new();
        let renamed = in_layout("hf").into_iter().map(|(name, tensor)| {
            let rest = name.strip_prefix("model.");
            (rest.map_or(name.clone(), |rest| format!("{prefix}{rest}")), tensor)
        });
        write_shards(&home.checkpoint(), &config(), renamed.collect());
        let (model, summary) = home.export("model", &["--target", "ort"]);
        assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 3);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_exact(&model, "2x40");
    }
}

fn assert_equal_checkpoints(one: &Home, other: &Home) {
    let [one, other] = [one, other].map(|home| home.export("model", &[]).0);
    assert_equal(1e-6, &[one], &other);
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
    let (expected, _) = never.export("model", &["--kv-cache"]);
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
            let (model, summary) = pruned.export(&format!("{layout}-{variant}"), &options);
            assert_eq!(summary["experts"]["counts"], json!([8, 5, 8]));
            model
        });
        assert_equal(1e-5, &models, &expected);
        let (staged, _) = pruned.stage("w", &[]);
        let (_, summary) = pruned.export_staged(&staged, "staged", &[]);
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
            .map(|(name, options)| home.export(name, options).0);
    assert_logits(&models, &[reference("2x40")]);
}

/// Numbers of every dtype under OpenAI's names, alone and with packed matrices in the same layer:
/// no operator of onnxruntime reads both.
#[test]
fn numbers_in_openais_layout_are_exact() {
    let config = read_json(&fixture("tiny/config.json"));
    let (mut homes, mut models) = (Vec::new(), Vec::new());
    for dtype in [Dtype::F16, Dtype::F32] {
        for packed in ["none", ".0.mlp.mlp1_weight", ".2.mlp.mlp2_weight"] {
            let mut tensors = with_numbers(dtype);
            tensors.retain(|name, _| !name.contains(packed));
            tensors.extend(tiny().into_iter().filter(|(name, _)| name.contains(packed)));
            let home = home(&config, &tensors);
            let export = |target| home.export(target, &["--target", target]).0;
            models.extend(["onnx", "ort"].map(export));
            let (staged, _) = home.stage("w", &[]);
            models.push(home.export_staged(&staged, "staged", &["--target", "ort"]).0);
            homes.push(home);
        }
    }
    assert_logits(&models, &["2x40", "1x300"].map(reference));
}

#[test]
fn losslessly_converted_experts_are_exact() {
    let (mut homes, mut models) = (Vec::new(), Vec::new());
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let formats =
            [("mxfp4", "onnx"), ("mxfp4", "ort"), ("bf16", "ort"), ("f16", "ort"), ("f32", "ort")];
        models.extend(formats.map(|(format, target)| {
            let name = format!("{layout}-{format}-{target}");
            home.export(&name, &["--experts", format, "--target", target]).0
        }));
        let (staged, _) = home.stage("w", &["--experts", "mxfp4"]);
        models.push(home.export_staged(&staged, "staged", &["--target", "ort"]).0);
        homes.push(home);
    }
    assert_logits(&models, &["2x40", "1x300"].map(reference));
}

/// As the same layers of the released model.
#[test]
fn converted_first_layers_are_exact() {
    let home = in_folder("bf16");
    let (model, _) = home.export("model", &["--experts", "mxfp4", "--layers", "2"]);
    let plain = home.join("plain.onnx");
    export(&export_args(&fixture("tiny"), &plain, &["--layers", "2"]));
    assert_equal(1e-6, &[model], &plain);
}

//! Every layout of the same model gives the same logits.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::derived::{LAYOUTS, Tensors, config, home, in_folder, in_layout, rows, write_shards};
use crate::support::{export, failure, fixture, logit_errors, python, reference, text};

/// Layouts whose experts are referenced in place.
const IN_PLACE: [&str; 5] = ["hf", "bf16", "f16", "f32", "fp8"];

fn exported(home: &Path, name: &str, options: &[&str]) -> (PathBuf, Value) {
    let (checkpoint, model) = (home.join("checkpoint"), home.join(format!("{name}.onnx")));
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    (model.clone(), export(&[&base[..], options].concat()))
}

const WAYS: [(&str, &[&str]); 5] = [
    ("flat", &[]),
    ("functions", &["--functions"]),
    ("ort", &["--target", "ort"]),
    // Where onnxruntime takes them: not with MXFP4's scales.
    ("ort functions", &["--target", "ort", "--functions"]),
    ("copied", &["--external-data", "copy", "--target", "ort"]),
];

#[test]
fn every_layout_is_exact() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        for (way, options) in WAYS {
            if layout == "hf" && way == "ort functions" {
                continue;
            }
            let (model, summary) = exported(home.path(), way, options);
            let stays = IN_PLACE.contains(&layout) && way != "copied";
            assert_eq!(summary["weights"]["in_place"], stays, "{layout} {way}: {summary}");
            assert_eq!(
                summary["weights"]["bytes_written"] == 0,
                stays || ["functions", "ort", "ort functions"].contains(&way)
            );
            for (case, error) in ["2x40", "1x300"].iter().zip(logit_errors(
                &model,
                "onnxruntime",
                &["2x40", "1x300"],
            )) {
                assert!(error <= 1e-5, "{layout} {way}, {case}: {error:e}");
            }
        }
    }
}

/// Steps of a single token take another way through the experts.
#[test]
fn every_layout_is_exact_step_by_step() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let models = [("ort", "ort"), ("cached", "onnx")].map(|(name, target)| {
            exported(home.path(), name, &["--target", target, "--kv-cache"]).0
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

/// What a stage holds, and a model made of it, is the same in every layout.
#[test]
fn every_layout_can_be_staged() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let (stage, checkpoint) =
            (home.path().join("stage.safetensors"), home.path().join("checkpoint"));
        export(&["--checkpoint", text(&checkpoint), "--save-weights", text(&stage), "--skip-onnx"]);
        fs::remove_dir_all(checkpoint).unwrap();
        let model = home.path().join("model.onnx");
        let summary =
            export(&["--weights", text(&stage), "--output", text(&model), "--target", "ort"]);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        let error = logit_errors(&model, "onnxruntime", &["2x40"])[0];
        assert!(error <= 1e-5, "{layout}: {error:e}");
    }
}

/// The released files: three shards "of 2", named by the index, with a tensor's
/// blocks and scales in different ones; and no `model.` before names.
#[test]
fn reads_blocks_and_scales_from_different_shards() {
    for prefix in ["model.", ""] {
        let home = tempfile::tempdir().unwrap();
        let renamed = in_layout("hf").into_iter().map(|(name, tensor)| {
            let rest = name.strip_prefix("model.");
            (rest.map_or(name.clone(), |rest| format!("{prefix}{rest}")), tensor)
        });
        write_shards(&home.path().join("checkpoint"), renamed.collect());
        let (model, summary) = exported(home.path(), "model", &["--target", "ort"]);
        assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 3);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert!(logit_errors(&model, "onnxruntime", &["2x40"])[0] <= 1e-5);
    }
}

/// The largest difference between what two checkpoints compute.
fn difference(one: &tempfile::TempDir, other: &tempfile::TempDir) -> f64 {
    let models = [one, other].map(|home| exported(home.path(), "model", &[]).0);
    let request = json!({"models": models, "ids": fixture("reference/logits-2x40.ids.npy")});
    python("equal.py", &[], &request).as_f64().unwrap()
}

/// Tied, the embedding is the matrix of the logits; without bias, the
/// projections of attention add nothing.
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
    let error = difference(&home(&config(), &whole), &home(&config_without, &without));
    assert!(error <= 1e-6, "{error:e}");
}

/// Keeps the first experts of a layer, where one tensor has all of them: all layouts
/// but those with experts one by one. With `router`, its rows as well.
fn drop_experts(tensors: &mut Tensors, layer: usize, keep: usize, router: bool) {
    let of_experts = |name: &str| name.contains(&format!("layers.{layer}.mlp.experts."));
    let of_router = |name: &str| name.contains(&format!("layers.{layer}.mlp.router."));
    for (name, tensor) in tensors.iter_mut() {
        if of_experts(name) || router && of_router(name) {
            *tensor = rows(tensor, 0..keep);
        }
    }
}

/// Pruned, a layer computes what it does when the experts that it lacks are never
/// chosen. No config says so; the tensors do.
#[test]
fn exports_layers_with_different_numbers_of_experts() {
    let mut never = in_layout("hf");
    let (_, _, bias) = never.get_mut("model.layers.1.mlp.router.bias").unwrap();
    bias.chunks_mut(2).skip(5).for_each(|bf16| bf16.copy_from_slice(&0xc6ff_u16.to_le_bytes()));
    let never = home(&config(), &never);
    let (expected, _) = exported(never.path(), "model", &["--kv-cache"]);
    for layout in ["hf", "bf16", "fp8"] {
        let mut pruned = in_layout(layout);
        drop_experts(&mut pruned, 1, 5, true);
        let pruned = home(&config(), &pruned);
        let checkpoint = pruned.path().join("checkpoint");
        for options in [&[][..], &["--functions"], &["--target", "ort"], &["--experts", "mxfp4"]] {
            let options = [options, &["--kv-cache"]].concat();
            let (model, summary) = exported(pruned.path(), "model", &options);
            assert_eq!(summary["experts"]["counts"], json!([8, 5, 8]));
            let ids = fixture("reference/logits-2x40.ids.npy");
            let request = json!({"models": [model, expected], "ids": ids});
            let error = python("equal.py", &[], &request).as_f64().unwrap();
            assert!(error <= 1e-5, "{layout} {options:?}: {error:e}");
        }
        // Staged, it is the same model.
        let stage = pruned.path().join("stage.safetensors");
        let base = ["--checkpoint", text(&checkpoint), "--save-weights", text(&stage)];
        export(&[&base[..], &["--skip-onnx"]].concat());
        let output = pruned.path().join("staged.onnx");
        let summary = export(&["--weights", text(&stage), "--output", text(&output)]);
        assert_eq!(summary["experts"]["counts"], json!([8, 5, 8]));
    }
}

/// Keeps 120 of the 128 numbers inside each expert.
pub fn narrow(tensors: &mut Tensors) {
    for layer in 0..3 {
        for (part, rows, width, kept) in [
            ("down_proj", 8, 128 * 96, 120 * 96),
            ("gate_up_proj", 8 * 96, 256, 240),
            ("gate_up_proj_bias", 8, 256, 240),
        ] {
            let name = format!("model.layers.{layer}.mlp.experts.{part}");
            let (_, shape, data) = tensors.get_mut(&name).unwrap();
            *data = data.chunks(width * 2).flat_map(|row| &row[..kept * 2]).copied().collect();
            let axis = shape.iter().position(|size| [128, 256].contains(size)).unwrap();
            shape[axis] = data.len() / 2 / shape.iter().product::<usize>().div_ceil(shape[axis]);
            assert_eq!(data.len(), rows * kept * 2);
        }
    }
}

/// Rows of 120 fill no MXFP4 blocks, which matters to MXFP4 alone. What is cut off
/// adds nothing in the model that it is compared with.
#[test]
fn exports_rows_without_whole_blocks_as_floats_only() {
    let (mut whole, mut cut) = (in_layout("bf16"), in_layout("bf16"));
    for layer in 0..3 {
        let name = format!("model.layers.{layer}.mlp.experts.down_proj");
        let (_, _, down) = whole.get_mut(&name).unwrap();
        // [experts, 128, 96] in BF16.
        for expert in down.chunks_mut(128 * 96 * 2) {
            expert[120 * 96 * 2..].fill(0);
        }
    }
    narrow(&mut cut);
    let mut narrow_config = config();
    narrow_config["intermediate_size"] = json!(120);
    let narrow = home(&narrow_config, &cut);
    let error = difference(&home(&config(), &whole), &narrow);
    assert!(error <= 1e-6, "{error:e}");
    let (checkpoint, model) = (narrow.path().join("checkpoint"), narrow.path().join("m.onnx"));
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    let sentence = failure(&[&base[..], &["--experts", "mxfp4"]].concat());
    assert_eq!(
        sentence,
        "`layers.0.mlp.experts.down` has rows of 120 elements, and conversions need a multiple of 32: keep the format of the experts"
    );
}

type Edit = fn(&mut Tensors, &mut Value);

#[test]
fn refuses_tensors_that_fit_no_layout() {
    let cases: [(&str, Edit, &str); 12] = [
        (
            "hf",
            |tensors, _| tensors.retain(|name, _| !name.contains("_blocks")),
            "holds no experts under the names of a supported layout, found `model.layers.0.mlp.experts.down_proj_bias`",
        ),
        (
            "bf16",
            |tensors, _| {
                let name = "model.layers.1.mlp.experts.down_proj";
                let (_, shape, data) = tensors[name].clone();
                let halved = data.into_iter().step_by(2).collect();
                tensors.insert(name.to_owned(), (Dtype::F8_E4M3, shape, halved));
            },
            "has dtype F8_E4M3",
        ),
        (
            "split",
            |tensors, _| {
                let name = "model.layers.1.mlp.experts.down_projs.3.weight";
                let (_, shape, data) = tensors[name].clone();
                tensors.insert(name.to_owned(), (Dtype::F16, shape, data));
            },
            "down_projs.3.weight` must be bf16 as those of the other experts, found f16",
        ),
        (
            "linears",
            |tensors, _| drop(tensors.remove("model.layers.2.mlp.experts.7.up_proj.weight")),
            "lacks tensor `model.layers.2.mlp.experts.7.up_proj.weight`",
        ),
        (
            "bf16",
            |_, config| config["num_local_experts"] = json!(7),
            "`model.layers.0.mlp.router.weight` must have shape [7, 96] (from the config), found [8, 96]",
        ),
        (
            "hf",
            |_, config| config["tie_word_embeddings"] = json!(true),
            "not part of Hugging Face's layout with MXFP4 experts: `lm_head.weight`; ignore",
        ),
        (
            "hf",
            |_, config| config["quantization_config"] = json!({"quant_method": "gptq"}),
            "weights quantized with \"gptq\" cannot be read, only MXFP4 as released; use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b",
        ),
        (
            "hf",
            |tensors, _| drop_experts(tensors, 1, 5, false),
            "`model.layers.1.mlp.experts.gate_up_proj_blocks` must have shape [8, 256, 3, 16] (from the config), found [5, 256, 3, 16]",
        ),
        (
            "hf",
            |tensors, _| drop_experts(tensors, 1, 3, true),
            "`model.layers.1.mlp.router.weight` has 3 rows, one for each expert, and `",
        ),
        // Where layers differ, it is their routers that say how many experts there are.
        (
            "hf",
            |tensors, _| {
                drop_experts(tensors, 1, 5, true);
                drop_experts(tensors, 2, 6, false);
            },
            "`model.layers.2.mlp.experts.gate_up_proj_blocks` must have shape [8, 256, 3, 16] (from the rows of `model.layers.2.mlp.router.weight`), found [6, 256, 3, 16]",
        ),
        (
            "hf",
            |tensors, _| {
                drop_experts(tensors, 1, 5, true);
                let bias = &in_layout("hf")["model.layers.1.mlp.router.bias"];
                tensors.insert("model.layers.1.mlp.router.bias".to_owned(), bias.clone());
            },
            "`model.layers.1.mlp.router.bias` must have shape [5] (from the rows of `model.layers.1.mlp.router.weight`), found [8]",
        ),
        // And the config still says the rest.
        (
            "hf",
            |tensors, config| {
                drop_experts(tensors, 1, 5, true);
                config["intermediate_size"] = json!(96);
            },
            "`model.layers.0.mlp.experts.gate_up_proj_blocks` must have shape [8, 192, 3, 16] (from the config), found [8, 256, 3, 16]",
        ),
    ];
    for (layout, edit, sentence) in cases {
        let (mut tensors, mut config) = (in_layout(layout), config());
        edit(&mut tensors, &mut config);
        let home = home(&config, &tensors);
        let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("m.onnx"));
        let found = failure(&["--checkpoint", text(&checkpoint), "--output", text(&model)]);
        assert!(found.contains(sentence), "{found}\nlacks: {sentence}");
        assert!(!model.exists());
    }
}

//! How the reference reads checkpoints: layouts, configs and files by their definitions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gpt_oss_export::progress::Silent;
use gpt_oss_export::reference::{self, PassOptions, ReadOptions, ReferenceModel};
use ndarray::Array2;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::layout_fixtures::{
    Tensors, config, dequantized, drop_experts, edited, encoded, home, in_folder, in_layout,
    input_major, renamed, rows, tiny, write, write_index, write_shards,
};
use crate::reference::{error, ids, open};
use crate::reference_refusals::refusal;
use crate::support::{Home, assert_contains, edit_json, export, fixture, read_json, stage_args};

type Edit = fn(&mut Value);

/// Fails unless the reference computes OpenAI's logits.
#[track_caller]
fn assert_is_tiny(source: &Path, case: &str) {
    let error = error(&open(source), "2x40");
    assert!(error <= 1e-5, "{case}: {error:e}");
}

fn logits(model: &ReferenceModel) -> Array2<f64> {
    let found = reference::run(model, &ids("2x40"), &PassOptions::default(), &Silent).unwrap();
    found.logits(&(0..80).collect::<Vec<_>>()).unwrap().exact
}

/// With experts of these layers and matrices as numbers.
fn partly_numbers(chosen: &[(usize, &str)]) -> Tensors {
    let (mut tensors, numbers) = (in_layout("hf"), in_layout("bf16"));
    for (layer, matrix) in chosen {
        let name = format!("model.layers.{layer}.mlp.experts.{matrix}_proj");
        for part in ["_blocks", "_scales"] {
            tensors.remove(&format!("{name}{part}")).unwrap();
        }
        tensors.insert(name.clone(), numbers[&name].clone());
    }
    tensors
}

/// MLX's, dequantized: gate and up apart, each of all experts, `[experts, out, in]`.
fn mlx() -> Tensors {
    let mut tensors = in_layout("hf");
    for prefix in (0..3).map(|n| format!("model.layers.{n}.mlp.experts.")) {
        for (matrix, parts) in
            [("gate_up", &[("gate", 0), ("up", 1)][..]), ("down", &[("down", 0)])]
        {
            let mut take = |part| tensors.remove(&format!("{prefix}{matrix}_proj_{part}")).unwrap();
            let (values, bias) = (dequantized(&take("blocks"), &take("scales")), take("bias"));
            let [experts, out, inn] = values.0[..] else { unreachable!() };
            let weight = (Dtype::BF16, vec![experts * out, inn], encoded(&values.1, Dtype::BF16));
            let bias = (bias.0, vec![experts * out], bias.2);
            for (part, first) in parts {
                let picked = || (*first..experts * out).step_by(parts.len());
                let out = out / parts.len();
                for (end, tensor, shape) in [
                    ("weight", &weight, vec![experts, out, inn]),
                    ("bias", &bias, vec![experts, out]),
                ] {
                    let (dtype, _, data) = rows(tensor, picked());
                    tensors.insert(format!("{prefix}{part}_proj.{end}"), (dtype, shape, data));
                }
            }
        }
    }
    tensors
}

/// OpenAI's names with numbers.
fn openai_numbers(layers: std::ops::Range<usize>) -> Tensors {
    let mut tensors = tiny();
    for name in layers.flat_map(|n| [1, 2].map(|at| format!("block.{n}.mlp.mlp{at}_weight"))) {
        let mut take = |part| tensors.remove(&format!("{name}.{part}")).unwrap();
        let (shape, values) = dequantized(&take("blocks"), &take("scales"));
        tensors.insert(name, (Dtype::BF16, shape, encoded(&values, Dtype::BF16)));
    }
    tensors
}

#[test]
fn names_of_every_kind_are_the_same_model() {
    let hf = || in_layout("hf");
    let under = |prefix: &'static str| move |name: &str| format!("{prefix}{name}");
    let wrapped = |name: &str| {
        name.replace("layers.1.", "layers.1._checkpoint_wrapped_module.")
            .replace(".mlp.", "._orig_mod.mlp.")
    };
    let plain = |name: &str| name.trim_start_matches("model.").to_owned();
    for (case, tensors) in [
        ("without model.", renamed(hf(), plain)),
        ("prefix", renamed(hf(), under("policy.base."))),
        ("prefix, without model.", renamed(renamed(hf(), plain), under("policy."))),
        ("prefix model.", renamed(hf(), under("model."))),
        ("wrappers", renamed(hf(), wrapped)),
        ("wrapper of all", renamed(hf(), under("_orig_mod."))),
        ("wrapper in front of a prefix", renamed(hf(), under("_fsdp_wrapped_module.actor."))),
        ("split with a prefix", renamed(in_layout("split"), under("a."))),
        ("mlx", mlx()),
        ("mlx with a prefix", renamed(mlx(), under("language_model."))),
        ("numbers in one matrix", partly_numbers(&[(1, "down")])),
        ("numbers in a layer", partly_numbers(&[(0, "gate_up"), (0, "down")])),
        ("numbers in two", partly_numbers(&[(2, "gate_up"), (1, "down")])),
    ] {
        assert_is_tiny(&home(&config(), &tensors).checkpoint(), case);
    }
    let original = read_json(&fixture("tiny/config.json"));
    for (case, tensors) in [
        ("openai, numbers", openai_numbers(0..3)),
        ("openai, numbers in a layer", openai_numbers(1..2)),
        ("openai with a prefix", renamed(tiny(), under("module."))),
        ("openai with wrappers", renamed(tiny(), |name| name.replace(".mlp.", ".mlp._orig_mod."))),
    ] {
        assert_is_tiny(&home(&original, &tensors).checkpoint(), case);
    }
}

#[test]
fn configs_of_every_kind_are_the_same_model() {
    let edits: [(&str, Edit); 9] = [
        ("version 5", |it| {
            it["rope_parameters"] = it["rope_scaling"].take();
            it["rope_parameters"]["rope_theta"] = it["rope_theta"].take();
        }),
        ("both", |it| {
            it["rope_parameters"] = it["rope_scaling"].clone();
            it["rope_parameters"]["rope_theta"] = json!(150_000);
        }),
        ("defaults", |it| {
            for key in [
                "swiglu_limit",
                "rms_norm_eps",
                "attention_bias",
                "tie_word_embeddings",
                "layer_types",
            ] {
                it.as_object_mut().unwrap().remove(key);
            }
            it["rope_scaling"]["beta_fast"].take();
            it["rope_scaling"]["beta_slow"].take();
        }),
        ("one name", |it| _ = it["num_experts_per_tok"].take()),
        ("the other", |it| _ = it["experts_per_token"].take()),
        ("num_experts", |it| it["num_experts"] = it["num_local_experts"].take()),
        ("type", |it| it["rope_scaling"]["type"] = it["rope_scaling"]["rope_type"].take()),
        ("initial context", |it| _ = it["rope_scaling"]["original_max_position_embeddings"].take()),
        ("puzzle", |it| {
            it["model_type"] = json!("gpt_oss_puzzle");
            it["layer_types"].take();
            it["sliding_window"].take();
            it["num_local_experts"].take();
            let block = |window: Value| json!({"num_local_experts": 8, "sliding_window": window});
            it["block_configs"] = json!([block(json!(8)), block(Value::Null), block(json!(8))]);
        }),
    ];
    for (case, edit) in edits {
        let mut config = config();
        edit(&mut config);
        assert_is_tiny(&home(&config, &in_layout("hf")).checkpoint(), case);
    }
}

/// Each pair of a config's or tensors' edits is one model in two forms.
#[test]
fn what_is_absent_has_its_meaning() {
    let with = |edit: Edit, tensors: &Tensors| {
        let mut config = config();
        edit(&mut config);
        let home = home(&config, tensors);
        logits(&open(&home.checkpoint()))
    };
    let (mut tied, mut copied) = (in_layout("hf"), in_layout("hf"));
    tied.remove("lm_head.weight");
    copied.insert("lm_head.weight".to_owned(), copied["model.embed_tokens.weight"].clone());
    let expected = with(|_| (), &copied);
    for tensors in [&tied, &copied] {
        assert_eq!(with(|it| it["tie_word_embeddings"] = json!(true), tensors), expected);
    }
    let (mut zeros, mut without) = (in_layout("hf"), in_layout("hf"));
    let is_bias = |name: &str| name.contains("self_attn") && name.ends_with("_proj.bias");
    zeros.iter_mut().filter(|(name, _)| is_bias(name)).for_each(|(_, tensor)| tensor.2.fill(0));
    without.retain(|name, _| !is_bias(name));
    let no_bias: Edit = |it| it["attention_bias"] = json!(false);
    // Adding zero changes -0 alone.
    assert_eq!(with(no_bias, &without), with(|_| (), &zeros));
    let (mut never, mut pruned) = (in_layout("hf"), in_layout("hf"));
    let (_, _, bias) = never.get_mut("model.layers.1.mlp.router.bias").unwrap();
    bias.chunks_mut(2).skip(5).for_each(|bf16| bf16.copy_from_slice(&0xc6ff_u16.to_le_bytes()));
    drop_experts(&mut pruned, 1, 5, true);
    assert_eq!(with(|_| (), &pruned), with(|_| (), &never));
    // OpenAI's factor of 1 and Hugging Face's default.
    let plain = edited(|folder| {
        edit_json(&folder.join("config.json"), |it| it["rope_scaling_factor"] = json!(1.0));
    });
    let default = with(|it| it["rope_scaling"] = json!({"rope_type": "default"}), &in_layout("hf"));
    assert_eq!(default, logits(&open(&plain.checkpoint())));
    let no_windows = edited(|folder| {
        edit_json(&folder.join("config.json"), |it| it["sliding_window"] = json!(0));
    });
    let full = with(
        |it| it["layer_types"] = json!(["full_attention", "full_attention", "full_attention"]),
        &in_layout("hf"),
    );
    assert_eq!(full, logits(&open(&no_windows.checkpoint())));
}

#[test]
fn finds_the_files_of_a_checkpoint() {
    let one = in_folder("hf");
    let staged = one.checkpoint().join("weights-0123456789ab.safetensors");
    export(&stage_args(&one.checkpoint(), &staged, &["--experts", "bf16"]));
    assert_is_tiny(&one.checkpoint(), "model.safetensors beside a staged file");
    fs::rename(one.join("checkpoint/model.safetensors"), one.join("checkpoint/a.safetensors"))
        .unwrap();
    assert_is_tiny(&one.checkpoint(), "a file of any name beside a staged file");

    let shards = Home::new();
    write_shards(&shards.checkpoint(), &config(), in_layout("hf"));
    assert_is_tiny(&shards.checkpoint(), "shards by an index");
    fs::remove_file(shards.join("checkpoint/model.safetensors.index.json")).unwrap();
    fs::write(shards.join("checkpoint/._model-00001-of-00002.safetensors"), "Mac OS X").unwrap();
    assert_is_tiny(&shards.checkpoint(), "all shards, copied from macOS");

    // The index decides between two, and may name tensors that are of no use.
    let overlaid = in_folder("hf");
    let mut tensors = in_layout("hf");
    let norm = tensors["model.norm.weight"].clone();
    tensors.get_mut("model.norm.weight").unwrap().2.fill(1);
    write(&overlaid.join("checkpoint/base.safetensors"), &tensors);
    write(
        &overlaid.join("checkpoint/norm.safetensors"),
        &[("model.norm.weight".to_owned(), norm)].into(),
    );
    let mut map: BTreeMap<_, _> =
        tensors.keys().map(|name| (name.clone(), "base.safetensors")).collect();
    map.insert("model.norm.weight".to_owned(), "norm.safetensors");
    map.insert("mtp.fc.weight".to_owned(), "absent.safetensors");
    write_index(&overlaid.checkpoint(), &map);
    assert_is_tiny(&overlaid.checkpoint(), "an overlay");
    fs::remove_file(overlaid.join("checkpoint/model.safetensors.index.json")).unwrap();
    fs::remove_file(overlaid.join("checkpoint/model.safetensors")).unwrap();
    assert_contains(&refusal(&overlaid.checkpoint()), "tensor `model.norm.weight` is both in `");
}

/// Values of MXFP4 are exact in all of these.
#[test]
fn reads_staged_files() {
    for layout in ["hf", "bf16", "linears", "fp8"] {
        let home = in_folder(layout);
        for format in ["", "mxfp4", "bf16", "f16", "f32", "int8"] {
            let options: &[&str] = if format.is_empty() { &[] } else { &["--experts", format] };
            let (staged, _) = home.stage(&format!("w-{format}"), options);
            assert_is_tiny(&staged, &format!("{layout} in {format}"));
        }
    }
}

#[test]
fn ignored_names_decide_between_forms_alone() {
    let mut tensors = in_layout("hf");
    let shape = &tensors["model.layers.0.mlp.experts.down_proj_blocks"].1;
    let values =
        (vec![shape[0], shape[1], shape[2] * 32], vec![1.0; shape.iter().product::<usize>() * 2]);
    tensors.insert(
        "model.layers.0.mlp.experts.down_proj".to_owned(),
        input_major(values, Dtype::BF16),
    );
    let mut config = config();
    config["experts_per_token"] = json!(3);
    let home = home(&config, &tensors);
    assert_contains(
        &refusal(&home.checkpoint()),
        "keys `num_experts_per_tok` and `experts_per_token` mean the same",
    );
    let keys = ["experts_*".to_owned(), "hidden_size".to_owned()];
    let open = |tensors: &[String]| {
        let options =
            ReadOptions { ignored_keys: &keys, ignored_tensors: tensors, ..ReadOptions::default() };
        reference::read(&home.checkpoint(), &options)
    };
    assert_contains(
        &open(&[]).unwrap_err().to_string(),
        "has `layers.0.mlp.experts.down` in several forms",
    );
    for pattern in ["model.layers.0.mlp.experts.down_proj", "*.down_proj", "*.experts.down_pro?"] {
        let error =
            error(&open(&[pattern.to_owned(), "model.norm.weight".to_owned()]).unwrap(), "2x40");
        assert!(error <= 1e-5, "{pattern}: {error:e}");
    }
}

//! All that is wrong with tensors is said at once, with what to do.

use safetensors::Dtype;
use serde_json::json;

use crate::layout_fixtures::{Tensors, config, home, in_folder, in_layout};
use crate::support::{Home, assert_contains, assert_ends, cases, words};

type Edit = fn(&mut Tensors);
pub type Choice = fn(&str) -> bool;

pub fn with(layout: &str, edit: impl FnOnce(&mut Tensors)) -> Home {
    let mut tensors = in_layout(layout);
    edit(&mut tensors);
    home(&config(), &tensors)
}

pub fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    let names: Vec<String> = tensors.keys().filter(|name| name.contains(from)).cloned().collect();
    for name in names {
        let tensor = tensors.remove(&name).unwrap();
        tensors.insert(name.replace(from, to), tensor);
    }
}

/// The options that a sentence advises, one list for each alternative.
pub fn advised(sentence: &str) -> Vec<Vec<String>> {
    let (_, advice) = sentence.rsplit_once("; pass ").unwrap();
    let words =
        |it: &str| it.split(' ').map(|word| word.trim_matches(['\'', '"']).to_owned()).collect();
    advice.split(" or ").map(words).collect()
}

pub fn export(home: &Home, options: &[String]) -> String {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    home.export("m", &options).1["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn empty_tensors_are_told_from_wrong_ones() {
    let empty = |tensors: &mut Tensors, is_empty: Choice| {
        for (_, (_, shape, data)) in tensors.iter_mut().filter(|(name, _)| is_empty(name)) {
            *shape = vec![0];
            data.clear();
        }
    };
    let table: [(&str, Choice, &str); 4] = [
        ("bf16", |_| true, "54 of 54 tensors in `"),
        // Small tensors are on every GPU.
        ("bf16", |name| !name.contains("norm") && !name.contains("bias"), "26 of 54 tensors in `"),
        ("hf", |name| name.contains("layers.1.mlp.router"), "2 of 60 tensors in `"),
        ("linears", |name| name.contains("experts.3."), "18 of "),
    ];
    for (layout, is_empty, start) in table {
        let sentence = with(layout, |tensors| empty(tensors, is_empty)).refusal("m", &[]);
        assert!(sentence.starts_with(start), "{sentence}");
        assert_contains(
            &sentence,
            "` of shape [0], as DeepSpeed ZeRO-3 saves weights that were not gathered: save again with `stage3_gather_16bit_weights_on_model_save`, or run zero_to_fp32.py on the folder that DeepSpeed saved",
        );
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
}

#[test]
fn missing_tensors_are_listed_with_those_that_are_meant() {
    let table: [(&str, Edit, &str); 7] = [
        (
            "hf",
            |it| it.retain(|name, _| !name.contains("layers.1.mlp.router")),
            "checkpoint` lacks tensors `model.layers.1.mlp.router.weight`, `model.layers.1.mlp.router.bias` of the model that its config describes",
        ),
        (
            "bf16",
            |it| it.retain(|name, _| !name.ends_with("norm.weight") && !name.contains("sinks")),
            "and 2 more of the model that its config describes",
        ),
        (
            "hf",
            |it| rename(it, "layers.0.self_attn.sinks", "layers.0.self_attn.sink"),
            "checkpoint` lacks tensors of the model that its config describes, and holds similar ones: rename `model.layers.0.self_attn.sink` to `model.layers.0.self_attn.sinks`",
        ),
        (
            "bf16",
            |it| rename(it, "input_layernorm", "input_layer_norm"),
            ": rename `model.layers.0.input_layer_norm.weight` to `model.layers.0.input_layernorm.weight`, `model.layers.1.input_layer_norm.weight` to `model.layers.1.input_layernorm.weight`, `model.layers.2",
        ),
        (
            "hf",
            |it| {
                rename(
                    it,
                    "layers.2.mlp.experts.down_proj_scales",
                    "layers.2.mlp.experts.down_proj.scales",
                );
            },
            ": rename `model.layers.2.mlp.experts.down_proj.scales` to `model.layers.2.mlp.experts.down_proj_scales`",
        ),
        (
            "linears",
            |it| rename(it, "experts.7.up_proj.weight", "experts.7.upproj.weight"),
            ": rename `model.layers.0.mlp.experts.7.upproj.weight` to `model.layers.0.mlp.experts.7.up_proj.weight`, `model.layers.1.",
        ),
        (
            "mlx",
            |it| drop(it.remove("model.layers.2.mlp.experts.gate_proj.bias")),
            "lacks tensor `model.layers.2.mlp.experts.gate_proj.bias` of the model that its config describes: add it from the checkpoint that this one was made from, or download this one again",
        ),
    ];
    for (layout, edit, expected) in table {
        let sentence = with(layout, edit).refusal("m", &[]);
        assert_contains(&sentence, expected);
        // What is meant is not to be ignored.
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
    // Names of another layer are not meant.
    let sentence =
        with("hf", |it| rename(it, "layers.1.self_attn.sinks", "layers.4.self_attn.sinks"))
            .refusal("m", &[]);
    assert!(!sentence.contains("rename"), "{sentence}");
    // A config of a much larger model.
    let mut larger = config();
    larger["num_hidden_layers"] = json!(9000);
    larger["layer_types"].take();
    let sentence = home(&larger, &in_layout("linears")).refusal("m", &[]);
    assert_contains(&sentence, "describes 9,000 layers (`num_hidden_layers`), and `");
}

#[test]
fn all_wrong_tensors_are_named() {
    let edit = |tensors: &mut Tensors| {
        tensors.get_mut("model.layers.0.self_attn.sinks").unwrap().1 = vec![4, 2];
        tensors.get_mut("model.layers.1.mlp.experts.down_proj_scales").unwrap().0 = Dtype::I8;
        tensors.get_mut("model.norm.weight").unwrap().0 = Dtype::F16;
        tensors.remove("model.layers.2.self_attn.o_proj.bias");
        let norm = tensors["model.norm.weight"].clone();
        tensors.insert("extra.weight".to_owned(), norm);
    };
    let sentence = with("hf", edit).refusal("m", &[]);
    let lines: Vec<&str> = sentence.lines().collect();
    assert_eq!(lines.len(), 4, "{sentence}");
    for (line, expected) in lines.iter().zip([
        "lacks tensor `model.layers.2.self_attn.o_proj.bias` of the",
        "tensor `model.layers.1.mlp.experts.down_proj_scales` must be u8 (MXFP4 scales), found i8: export a checkpoint with tensors in BF16, F16 or F32, and",
        "tensor `model.layers.0.self_attn.sinks` must have shape [8] (from the config), found [4, 2]: save in that shape",
        "are not part of Hugging Face's layout with MXFP4 experts: `extra.weight`; ignore what the model does not use, by name or by a pattern with * and ?; pass --ignore-tensor extra.weight",
    ]) {
        assert_contains(line, expected);
    }
    // The first few of many.
    let flat = with("bf16", |tensors| {
        for (name, (_, shape, _)) in tensors.iter_mut() {
            if name.contains("norm") || name.contains("proj") {
                shape.push(1);
            }
        }
    });
    let sentence = flat.refusal("m", &[]);
    assert_eq!(sentence.lines().count(), 9, "{sentence}");
    assert_ends(
        &sentence,
        "other faults of dtype or shape: use a checkpoint and a config.json of one save",
    );
}

/// A size of the config that tensors contradict is one error, however many tensors do.
#[test]
fn contradicted_sizes_are_named_once() {
    let table = "hf | num_key_value_heads | 4 | 12 tensors, such as `model.layers.0.self_attn.k_proj.weight`, must have `num_key_value_heads` × `head_dim` KEYS (from `CONFIG`), found FOUND
        bf16 | vocab_size | 384 | 2 tensors, such as `model.embed_tokens.weight`, must have `vocab_size` 384 (from `CONFIG`), found 320
        hf | hidden_size | 192 | 42 tensors, such as `model.embed_tokens.weight`, must have `hidden_size` 192 (from `CONFIG`), found 96
        linears | intermediate_size | 64 | must have `intermediate_size` 64 (from `CONFIG`), found 128
        mlx | intermediate_size | 64 | 15 tensors, such as `model.layers.0.mlp.experts.gate_proj.weight`, must have `intermediate_size` 64 (from `CONFIG`), found 128
        split | intermediate_size | 64 | must have `intermediate_size` 64 (from `CONFIG`), found 128
        fp8 | num_local_experts | 16 | 18 tensors, such as `model.layers.0.mlp.router.weight`, must have the number of experts 16 (from `CONFIG`), found 8";
    for [layout, key, value, expected] in cases(table) {
        let mut config = config();
        let [heads, width] =
            ["num_key_value_heads", "head_dim"].map(|key| config[key].as_u64().unwrap());
        // Twice as many heads.
        config[key] = if key == "num_key_value_heads" {
            json!(2 * heads)
        } else {
            value.parse::<u64>().unwrap().into()
        };
        let expected = expected.replace("KEYS", &(2 * heads * width).to_string());
        let expected = expected.replace("FOUND", &(heads * width).to_string());
        let home = home(&config, &in_layout(layout));
        let sentence = home.refusal("m", &[]);
        let file = home.checkpoint().join("config.json").display().to_string();
        assert_contains(&sentence, &expected.replace("CONFIG", &file));
        assert_ends(&sentence, ": use the config.json that was saved with these tensors");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
}

/// Where a config and the tensors disagree as a whole, either may be right.
#[test]
fn both_ways_are_said_where_config_and_tensors_disagree() {
    type Change = fn(&mut Tensors, &mut serde_json::Value);
    fn set_layers(config: &mut serde_json::Value, count: usize) {
        config["num_hidden_layers"] = json!(count);
        config.as_object_mut().unwrap().remove("layer_types");
    }
    let table: [(&str, Change, &str); 12] = [
        (
            "hf",
            |_, config| set_layers(config, 2),
            "config.json` describes 2 layers (`num_hidden_layers`), and `CHECKPOINT` holds tensors of 3 layers, such as `model.layers.2.input_layernorm.weight`: set the key to 3 if they all are layers of the model, or ignore the others; pass --ignore-tensor 'model.layers.2.*'",
        ),
        (
            "bf16",
            |_, config| set_layers(config, 4),
            "config.json` describes 4 layers (`num_hidden_layers`), and `CHECKPOINT` holds 3 layers: add the tensors of the others, or set the key to 3 (and shorten `layer_types`, if it is there) if the model has no others",
        ),
        (
            "bf16",
            |tensors, _| rename(tensors, "layers.1.", "layers.3."),
            "config.json` describes 3 layers (`num_hidden_layers`), and `CHECKPOINT` holds 3 layers, up to number 3 without `1`: add the tensors of those, or, if these layers were removed, number the others from 0 without gaps, set the key to 3",
        ),
        (
            "hf",
            |tensors, config| {
                tensors.retain(|name, _| !name.contains("layers.0."));
                set_layers(config, 2);
            },
            "holds 2 layers, up to number 2 without `0`: add",
        ),
        (
            "hf",
            |_, config| config["attention_bias"] = json!(false),
            "says that attention has no biases (`attention_bias` false), and `CHECKPOINT` holds 12 tensors, such as `model.layers.0.self_attn.k_proj.bias`: set the key to true if the model adds them, or ignore them if not; pass --ignore-tensor",
        ),
        (
            "bf16",
            |tensors, _| tensors.retain(|name, _| !name.ends_with("_proj.bias")),
            "says that attention has biases (`attention_bias`, true unless set), and `CHECKPOINT` holds none such as `model.layers.0.self_attn.q_proj.bias`: set the key to false if the model has none",
        ),
        (
            "hf",
            |tensors, _| drop(tensors.remove("lm_head.weight")),
            "CHECKPOINT` lacks `lm_head.weight`, the language-model head, and `CHECKPOINT/config.json` does not tie it to the embedding: save the model with the head that it was trained with (from GptOssForCausalLM, not from GptOssModel), or set `tie_word_embeddings` to true if the embedding is the head",
        ),
        (
            "hf",
            |tensors, _| rename(tensors, "lm_head.weight", "score.weight"),
            "CHECKPOINT` holds `score.weight`, the head of a model for another task, and no `lm_head.weight`: only models with a language-model head can be exported: add the head of the model that this one was trained from, as",
        ),
        (
            "hf",
            |tensors, _| rename(tensors, "self_attn", "attention"),
            "model.layers.0.attention.k_proj.bias` [64], ",
        ),
        (
            "hf",
            |tensors, config| {
                rename(tensors, "self_attn", "attention");
                config["attention_bias"] = json!(false);
            },
            "says that attention has no biases (`attention_bias` false), and `CHECKPOINT` holds 12 tensors, such as `model.layers.0.attention.k_proj.bias`: set the key to true",
        ),
        (
            "bf16",
            |tensors, _| rename(tensors, "lm_head.weight", "classifier.out_proj.weight"),
            "holds `classifier.out_proj.weight`, the head of a model for another task",
        ),
        (
            "bf16",
            |tensors, _| rename(tensors, "lm_head.weight", "qa_outputs.weight"),
            "holds `qa_outputs.weight`, the head of a model for another task",
        ),
    ];
    for (layout, change, expected) in table {
        let (mut tensors, mut config) = (in_layout(layout), config());
        change(&mut tensors, &mut config);
        let home = home(&config, &tensors);
        let sentence = home.refusal("m", &[]);
        let checkpoint = home.checkpoint().display().to_string();
        assert_contains(&sentence, &expected.replace("CHECKPOINT", &checkpoint));
        // Weights under other names are a fault of their own.
        let is_renamed = expected.contains("true") && expected.contains(".attention.");
        assert_eq!(sentence.lines().count(), 1 + usize::from(is_renamed), "{sentence}");
    }
}

#[test]
fn unknown_tensors_are_ignored_by_one_line() {
    // Names of tensors to add, and the options that the sentence advises.
    let table = [
        ("a.b", "a.b"),
        ("vision.a vision.b.c vision.b.d", "vision.*"),
        (
            "model.layers.0.self_attn.q_proj.weight_scale model.layers.1.self_attn.q_proj.weight_scale model.layers.1.mlp.experts.weight_scale",
            "*.weight_scale",
        ),
        (
            "mtp.fc.weight mtp.norm.weight value_head.summary.weight x[0].y x[0].z",
            "mtp.* value_head.summary.weight x[[]0[]].*",
        ),
        ("model.layers.0.mlp.experts.spare.weight", "model.layers.0.mlp.experts.spare.weight"),
        (
            "model.layers.3.mlp.router.weight model.layers.3.mlp.router.bias model.layers.3.self_attn.sinks",
            "model.layers.3.*",
        ),
    ];
    for (names, patterns) in table {
        let home = with("hf", |tensors| {
            let norm = tensors["model.norm.weight"].clone();
            tensors.extend(names.split(' ').map(|name| (name.to_owned(), norm.clone())));
        });
        let [advice] = &advised(&home.refusal("m", &[]))[..] else { panic!("one way") };
        let found: Vec<&str> = advice.iter().skip(1).step_by(2).map(String::as_str).collect();
        assert_eq!(found.join(" "), patterns);
        assert_eq!(export(&home, advice), in_folder("hf").fingerprint());
    }
}

/// Experts that are there in two forms have two ways out, each another model.
#[test]
fn experts_in_several_forms_are_ambiguous() {
    // The other form, which of its tensors are there, and the MXFP4 ones in their place.
    let table = "bf16 | layers.1.mlp.experts.gate_up_proj | layers.1.mlp.experts.gate_up_proj_
        bf16 | layers.2.mlp.experts. | layers.2.mlp.experts.
        fp8 | mlp.experts. | mlp.experts.
        split | layers.0.mlp.experts. | layers.0.mlp.experts.
        linears | mlp.experts. | mlp.experts.
        mlx | layers.1.mlp.experts.down | layers.1.mlp.experts.down";
    for [layout, part, stale] in cases(table) {
        let mut others = in_layout(layout);
        others.retain(|name, _| name.contains(part));
        let home = with("hf", |tensors| tensors.extend(others.clone()));
        let replaced = with("hf", |tensors| {
            tensors.retain(|name, _| !name.contains(stale));
            tensors.extend(others);
        });
        let sentence = home.refusal("m", &[]);
        assert_contains(&sentence, "in several forms, such as `model.layers.");
        let end = "and these may differ: ignore all forms but one; pass --ignore-tensor ";
        assert_contains(&sentence, end);
        let found: Vec<String> = advised(&sentence).iter().map(|way| export(&home, way)).collect();
        let mut expected = [in_folder("hf").fingerprint(), replaced.fingerprint()];
        let mut found: [String; 2] = found.try_into().unwrap();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{layout} {part}: {sentence}");
    }
}

/// A config of another size or model: its sizes are no hint of what to edit.
#[test]
fn configs_of_other_models_are_told_first() {
    let table = "hidden_size=2880 vocab_size=201088 | `hidden_size` 2880 where tensors have 96 and `vocab_size` 201088 where tensors have 320
        hidden_size=2880 num_hidden_layers=24 | `hidden_size` 2880 where tensors have 96 and `num_hidden_layers` 24 where tensors have 3
        vocab_size=201088 num_hidden_layers=36 num_local_experts=128 | `num_hidden_layers` 36 where tensors have 3
        hidden_size=64 num_hidden_layers=2 | `num_hidden_layers` 2 where tensors have 3
        intermediate_size=2880 num_key_value_heads=4 | `intermediate_size` 2880 where tensors have 128";
    for layout in ["hf", "bf16", "linears"] {
        for [edits, expected] in cases(table) {
            let mut edited = config();
            for (key, value) in words(edits).into_iter().filter_map(|it| it.split_once('=')) {
                edited[key] = value.parse().unwrap();
            }
            let layers = edited["num_hidden_layers"].as_u64().unwrap();
            edited["layer_types"] = (0..layers)
                .map(|n| ["sliding_attention", "full_attention"][n as usize % 2])
                .collect();
            let home = home(&edited, &in_layout(layout));
            let sentence = home.refusal("m", &[]);
            assert_contains(&sentence, "/config.json` describes another model than `");
            assert_contains(&sentence, expected);
            assert_ends(&sentence, ": use the config.json that was saved with these tensors");
            assert_eq!(sentence.lines().count(), 1, "{sentence}");
        }
    }
}

//! Prefixes and wrappers in names are left out if the model is certain, and refused otherwise.

use std::collections::BTreeSet;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::inspect::inspect;
use crate::layout_fixtures::{
    Tensors, config, home, in_folder, in_layout, renamed, tiny, write_shards,
};
use crate::support::{
    Home, assert_contains, assert_ends, assert_same, cases, fixture, open, read_json,
};
use crate::tensor_problems::{rename, with};

fn config_of(layout: &str) -> Value {
    if ["numbers", "tiny"].contains(&layout) {
        read_json(&fixture("tiny/config.json"))
    } else {
        config()
    }
}

fn tensors_of(layout: &str) -> Tensors {
    if layout == "tiny" { tiny() } else { in_layout(layout) }
}

#[test]
fn prefix_of_all_names_is_left_out() {
    let table = "hf | module.
        hf | base_model.model.
        hf | language_model.
        hf | model.
        bf16 | _forward_module.module.
        split | a.b.c.
        linears | module.
        mlx | language_model.
        mixed | module.
        tiny | module.
        tiny | model.
        numbers | transformer.model.";
    for [layout, prefix] in cases(table) {
        let tensors = renamed(&tensors_of(layout), |name| format!("{prefix}{name}"));
        let expected = home(&config_of(layout), &tensors_of(layout)).fingerprint();
        let whole = home(&config_of(layout), &tensors);
        assert_eq!(whole.fingerprint(), expected, "{layout} {prefix}");
        let sharded = Home::new();
        write_shards(&sharded.checkpoint(), &config_of(layout), tensors.clone());
        assert_eq!(sharded.fingerprint(), expected, "{layout} {prefix}");

        let (_, summary) = whole.export("m", &[]);
        let said = format!("the prefix `{prefix}` of all names is left out");
        assert_eq!(summary["notes"], json!([said]));
        let report = inspect(&whole.checkpoint(), &["--tensors", "*"]);
        assert_eq!([&report["notes"], &report["layout"]], [&summary["notes"], &summary["layout"]]);
        let listed = report["tensors"].as_array().unwrap().iter();
        let stored = listed.flat_map(|it| it["stored_as"].as_array().unwrap());
        let stored: BTreeSet<&str> = stored.map(|name| name.as_str().unwrap()).collect();
        assert_eq!(stored, tensors.keys().map(String::as_str).collect());
    }
    // What else is under it.
    let mut tensors = renamed(&in_layout("hf"), |name| format!("module.{name}"));
    tensors.insert("module.aux.layers.0.w".to_owned(), tensors["module.lm_head.weight"].clone());
    let more = home(&config(), &tensors);
    assert_contains(&more.refusal("m", &[]), "MXFP4 experts: `module.aux.layers.0.w`; ignore");
    more.export("m", &["--ignore-tensor", "module.aux.*"]);
    // Some files lack `model.` behind it.
    let rename = |name: &str| format!("module.{}", name.trim_start_matches("model."));
    let short = home(&config(), &renamed(&in_layout("hf"), rename));
    assert_eq!(short.fingerprint(), in_folder("hf").fingerprint());
}

#[test]
fn wrappers_within_names_are_left_out() {
    let table = "layers.1. | layers.1._orig_mod. | `_orig_mod` (torch.compile)
        layers.0. | layers.0._checkpoint_wrapped_module. | `_checkpoint_wrapped_module` (activation checkpointing)
        layers. | layers._fsdp_wrapped_module. | `_fsdp_wrapped_module` (FSDP)
        mlp. | _checkpoint_wrapped_module.mlp._orig_mod. | `_orig_mod` (torch.compile), `_checkpoint_wrapped_module` (activation checkpointing)
        model.e | _orig_mod.model.e | `_orig_mod` (torch.compile)
        block.2. | block.2._orig_mod. | `_orig_mod` (torch.compile)
        norm. | norm._orig_mod. | `_orig_mod` (torch.compile)";
    for [from, to, said] in cases(table) {
        for layout in ["hf", "bf16", "linears", "tiny"] {
            let tensors = renamed(&tensors_of(layout), |name| name.replace(from, to));
            if tensors == tensors_of(layout) {
                continue;
            }
            let wrapped = home(&config_of(layout), &tensors);
            let expected = home(&config_of(layout), &tensors_of(layout)).fingerprint();
            assert_eq!(wrapped.fingerprint(), expected, "{layout} {to}");
            let said: Vec<_> =
                said.split(", ").map(|it| format!("{it} in names is left out")).collect();
            assert_eq!(open(&wrapped.checkpoint()).notes, said);
        }
    }
    // With a prefix of all names besides.
    let rename =
        |name: &str| format!("module.{}", name.replace("self_attn", "self_attn._orig_mod"));
    let wrapped = home(&config(), &renamed(&in_layout("hf"), rename));
    assert_eq!(wrapped.fingerprint(), in_folder("hf").fingerprint());
    let said = [
        "the prefix `module.` of all names is left out",
        "`_orig_mod` (torch.compile) in names is left out",
    ];
    assert_eq!(open(&wrapped.checkpoint()).notes, said);
}

#[test]
fn one_name_with_and_without_a_wrapper_is_ambiguous() {
    let mut tensors = in_layout("hf");
    let [norm, other] = ["model.norm.weight", "model._orig_mod.norm.weight"];
    let mut changed = tensors[norm].clone();
    changed.2.fill(1);
    tensors.insert(other.to_owned(), changed.clone());
    let both = home(&config(), &tensors);
    let end = format!(
        "checkpoint` holds `{other}` and `{norm}`, one name without the wrappers: ignore one of them; pass --ignore-tensor {other} or --ignore-tensor {norm}"
    );
    assert_ends(&both.refusal("m", &[]), &end);
    let kept = in_folder("hf").fingerprint();
    tensors.remove(other);
    tensors.insert(norm.to_owned(), changed);
    let replaced = home(&config(), &tensors).fingerprint();
    for (ignored, expected) in [(other, kept), (norm, replaced)] {
        let (_, summary) = both.export("m", &["--ignore-tensor", ignored]);
        assert_eq!(summary["fingerprint"], json!(expected));
    }
}

/// A training with averaged weights saves two models, and the choice is the user's.
#[test]
fn one_of_two_models_is_chosen_by_ignoring_the_other() {
    let (mut tensors, mut alone) = (Tensors::new(), Vec::new());
    for prefix in ["student.", "ema."] {
        let mut own = in_layout("hf");
        own.get_mut("lm_head.weight").unwrap().2.rotate_left(prefix.len());
        let fingerprint = home(&config(), &own).export("m", &[]).1["fingerprint"].clone();
        alone.push((format!("{prefix}*"), fingerprint));
        tensors.extend(own.into_iter().map(|(name, it)| (format!("{prefix}{name}"), it)));
    }
    let both = home(&config(), &tensors);
    let sentence = both.refusal("m", &[]);
    assert_contains(&sentence, "holds two models, in tensors whose names begin with `");
    let [(student, of_student), (ema, of_ema)] = &alone[..] else { unreachable!() };
    for (ignored, expected) in [(ema, of_student), (student, of_ema)] {
        assert_contains(&sentence, &format!("--ignore-tensor '{ignored}'"));
        let (_, summary) = both.export("m", &["--ignore-tensor", ignored]);
        assert_eq!(summary["fingerprint"], *expected);
    }
}

/// Which names have the prefix, what is added, and the sentence.
#[test]
fn prefix_of_some_names_is_refused() {
    type Rename = fn(&str) -> bool;
    let table: [(&str, Rename, &str); 6] = [
        (
            "module.",
            |name| name.contains("lm_head"),
            "the names of 1 of 60 tensors begin with `module.`, such as `module.lm_head.weight`, and others do not, such as `model.embed_tokens.weight`:",
        ),
        (
            "module.",
            |name| !name.contains("lm_head"),
            "the names of 59 of 60 tensors begin with `module.`, such as `module.model.embed_tokens.weight`, and others do not, such as `lm_head.weight`:",
        ),
        (
            "module.",
            |name| name.contains("layers.1."),
            "the names of 19 of 60 tensors begin with `module.`, such as `module.model.layers.1.input_layernorm.weight`, and others do not, such as",
        ),
        (
            "base_model.model.",
            |name| name.contains("layers."),
            "the names of 57 of 60 tensors begin with `base_model.model.`",
        ),
        (
            "module.",
            |name| name.contains("layers.2.mlp.router.bias"),
            "the names of 1 of 60 tensors begin with `module.`, such as `module.model.layers.2.mlp.router.bias`",
        ),
        ("x.", |name| !name.contains("norm.weight"), "begin with `x.`"),
    ];
    for (prefix, has_it, expected) in table {
        let rename =
            |name: &str| if has_it(name) { format!("{prefix}{name}") } else { name.to_owned() };
        let sentence = home(&config(), &renamed(&in_layout("hf"), rename)).refusal("m", &[]);
        assert_contains(&sentence, expected);
        assert!(!sentence.contains("not part of") && !sentence.contains("--ignore"), "{sentence}");
    }
    // A part of a larger model: what else it has can be ignored.
    let mut tensors = renamed(&in_layout("bf16"), |name| format!("language_model.{name}"));
    let extra = tensors["language_model.model.norm.weight"].clone();
    let others =
        ["vision_tower.encoder.layers.0.norm.weight", "vision_tower.norm.weight", "mlp1.0.weight"];
    tensors.extend(others.map(|name| (name.to_owned(), extra.clone())));
    let home = home(&config(), &tensors);
    let sentence = home.refusal("m", &[]);
    assert_contains(&sentence, "begin with `language_model.`, such as");
    let advice = "--ignore-tensor mlp1.0.weight --ignore-tensor 'vision_tower.*'";
    assert_ends(&sentence, &format!("ignore the tensors outside the model; pass {advice}"));
    let options = ["--ignore-tensor", "mlp1.0.weight", "--ignore-tensor", "vision_tower.*"];
    let (_, summary) = home.export("m", &options);
    assert_eq!(summary["fingerprint"], json!(in_folder("bf16").fingerprint()));
}

#[test]
fn tensors_of_the_other_layout_are_named() {
    let [original, hugging_face] = ["OpenAI's original layout", "Hugging Face's layout"];
    let end = "use the config.json that was saved with them (released repositories have OpenAI's in the folder `original`, Hugging Face's in the root)";
    for (config, layout, example) in [
        ("numbers", "hf", "model.layers.0.mlp.experts.gate_up_proj_blocks"),
        ("numbers", "bf16", "model.layers.0.mlp.experts.gate_up_proj"),
        ("numbers", "linears", "model.layers.0.mlp.experts.0.gate_proj.weight"),
        ("numbers", "mlx", "model.layers.0.mlp.experts.gate_proj.weight"),
        ("hf", "tiny", "block.0.mlp.mlp1_weight.blocks"),
        ("hf", "numbers", "block.0.mlp.mlp1_weight"),
    ] {
        for prefix in ["", "module."] {
            let tensors = renamed(&tensors_of(layout), |name| format!("{prefix}{name}"));
            let home = home(&config_of(config), &tensors);
            let path = home.checkpoint().display().to_string();
            let names = [original, hugging_face];
            let [ours, theirs] = if config == "hf" { [names[1], names[0]] } else { names };
            assert_same(
                &home.refusal("m", &[]),
                &format!(
                    "`{path}/config.json` is a config of {ours}, and the tensors in `{path}` have the names of {theirs}, such as `{prefix}{example}`: {end}"
                ),
            );
        }
    }
}

/// Without their scales, values of experts in 8 bits are another model's.
#[test]
fn scales_of_experts_are_never_needless() {
    for end in ["_scale", ".scale", "_scales", "_descale", "_scale_inv", "_weight_scale"] {
        let home = with("fp8", |tensors| {
            for n in 0..3 {
                let name = format!("model.layers.{n}.mlp.experts.down_proj{end}");
                tensors.insert(name, (Dtype::F32, vec![8], vec![0; 32]));
            }
        });
        let sentence = home.refusal("m", &[]);
        assert_contains(
            &sentence,
            " in f8e5m2 with scales, such as `model.layers.0.mlp.experts.down_proj",
        );
        assert_ends(
            &sentence,
            ", which are not read: dequantize it with the program that wrote it, and save the products in BF16 without the scales",
        );
    }
}

/// What is unknown beside slips stands for nothing that is lacking.
#[test]
fn tensors_beside_slips_are_told_apart() {
    let home = with("hf", |tensors| {
        let norm = tensors["model.norm.weight"].clone();
        rename(tensors, "layers.", "layer.");
        tensors.insert("gain".to_owned(), norm);
    });
    let sentence = home.refusal("m", &[]);
    assert_contains(&sentence, "and holds similar ones: rename `model.layer.0.");
    assert_contains(&sentence, " with MXFP4 experts: `gain`; ignore what the model does not use");
    assert!(!sentence.contains("lacks  of"), "{sentence}");
}

/// A vector of attention may be no bias, so that both ways are said.
#[test]
fn other_vectors_of_attention_may_be_biases() {
    let home = with("bf16", |tensors| {
        let norm = tensors["model.norm.weight"].clone();
        tensors.retain(|name, _| !name.ends_with("_proj.bias"));
        tensors.insert("model.layers.1.self_attn.gain".to_owned(), norm);
    });
    let sentence = home.refusal("m", &[]);
    assert_contains(
        &sentence,
        "`model.layers.1.self_attn.gain` [96]: rename these to those of equal size, and add the others",
    );
    assert_ends(&sentence, "; set `attention_bias` to false if the model has no biases there");
    assert!(!sentence.contains("--ignore-tensor"), "{sentence}");
}

/// Where the config denies a part of the model, both ways are said of what may be it.
#[test]
fn parts_that_a_config_denies_may_have_other_names() {
    let table = "_proj.bias | _proj.b | attention_bias=false | says that attention has no biases (`attention_bias` false), and `CHECKPOINT` holds 12 tensors, such as `model.layers.0.self_attn.k_proj.b`: set the key to true if the model adds them, or ignore them if not; pass --ignore-tensor '*.b'
        lm_head.weight | output.weight | tie_word_embeddings=true | ties lm_head to the embedding (`tie_word_embeddings`), and `CHECKPOINT` holds `output.weight` of its shape: rename it to `lm_head.weight` if it is the language-model head, or ignore it if not; pass --ignore-tensor output.weight";
    for [from, to, edit, expected] in cases(table) {
        let (mut config, mut tensors) = (config(), in_layout("hf"));
        let (key, value) = edit.split_once('=').unwrap();
        config[key] = value.parse().unwrap();
        rename(&mut tensors, from, to);
        let home = home(&config, &tensors);
        let checkpoint = home.checkpoint().display().to_string();
        assert_ends(&home.refusal("m", &[]), &expected.replace("CHECKPOINT", &checkpoint));
    }
}

/// Blocks of another length say nothing of the sizes in a config.
#[test]
fn blocks_that_are_not_mxfp4_are_told_as_such() {
    // Values in a block, and bytes for a value, as a fraction.
    for (values, bytes) in [(32, [1, 1]), (16, [1, 2]), (64, [1, 2])] {
        let home = with("hf", |tensors| {
            for (name, (_, shape, data)) in tensors.iter_mut() {
                let is_down = name.contains("down_proj");
                if is_down && (name.ends_with("_blocks") || name.ends_with("_scales")) {
                    shape[2] = 128 / values;
                    shape.iter_mut().skip(3).for_each(|it| *it = values * bytes[0] / bytes[1]);
                    data.resize(shape.iter().product(), 1);
                }
            }
        });
        let sentence = home.refusal("m", &[]);
        assert_contains(
            &sentence,
            "down_proj_blocks`, must have shape [8, 96, 4, 16] (from the config), found [8, 96, ",
        );
        assert_ends(
            &sentence,
            ": save as MXFP4, in blocks of 32 values in 16 bytes with one scale each",
        );
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
}

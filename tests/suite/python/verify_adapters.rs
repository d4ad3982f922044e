//! `verify` of models with adapters.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::environment::onnxruntime;
use super::verify::{fails, passes, refused};
use crate::adapters::{ADAPTERS, CONFIG, add, bases, edit_tensors, order};
use crate::layout_fixtures::{Tensor, Tensors, in_folder, read, renamed};
use crate::reference_adapters::copies_and_others;
use crate::support::{
    Home, assert_contains, binary, cases, copy_folder, edit_json, export_args, model_path, printed,
    sentence, summary, text, words,
};

/// Each adapter in each layout and each kind of model, if not in each combination of them.
#[test]
fn accepts_every_adapter() {
    let kinds = [&[][..], &["--kv-cache"], &["--target", "ort"]];
    let adapters = ADAPTERS.iter().flat_map(|(name, others)| [&[*name], *others].concat());
    for (at, name) in adapters.enumerate() {
        let homes = bases(name);
        for (turn, kind) in kinds.iter().enumerate() {
            let home = &homes[(at + turn) % homes.len()];
            let adapter = add(home, name, "adapter");
            let options = [&["--adapter", &adapter], order(name)].concat();
            let (model, exported) = home.export("m", &[&options, *kind].concat());
            let report = passes(&model, &home.checkpoint(), &options);
            let case = format!("{name} {kind:?}: {report}");
            assert_eq!(report["identity"], json!({"is": "same"}), "{case}");
            assert!(report["tolerance"]["bound"].as_f64().unwrap() < 1e-4, "{case}");
            let adapters = report["adapters"].as_array().unwrap();
            for key in ["name", "fingerprint", "weight"] {
                assert_eq!(adapters[0][key], exported["adapters"][0][key], "{case}");
            }
        }
    }
}

/// Two adapters, verified in another order; formats, copies, parts of the model.
#[test]
fn accepts_adapters_with_other_options() {
    let table = "--functions | --trace
        --external-data copy --target ort | --batch 2
        --max-shard-size 600kB |
        --layers 1 --target ort |
        --layers 2 |
        --last-logits --kv-cache |
        --experts f32 --dense f32 |
        --experts int4 |
        --dense int8 |
        --experts int4 --dense int4 --target ort --keep-activations |
        --target ort --compute f16 | --tolerance 3.5
        --stages 2 --kv-cache | --trace
        --stages 3 --target ort |";
    for [exported, verified] in cases(table) {
        for base in ["tiny", "tiny-hf"] {
            let home = Home::with(base);
            let [experts, head] = ["experts", "router-head"].map(|name| add(&home, name, name));
            let head = format!("{head}=-0.3");
            let adapters = ["--adapter", &experts, "--adapter", &head];
            let (model, _) = home.export("m", &[&adapters, &words(exported)[..]].concat());
            let model = model_path(&model, &words(exported));
            let turned = ["--adapter", &head, "--adapter", &experts];
            let options = [&turned, &words(verified)[..]].concat();
            let report = passes(&model, &home.checkpoint(), &options);
            assert_eq!(report["adapters"][1]["weight"], -0.3, "{exported}: {report}");
            assert_eq!(report["weights"]["unknown"], json!([]), "{exported}");
        }
    }
}

/// The same checkpoint in other layouts, and staged.
#[test]
fn accepts_adapters_on_every_source() {
    for (layout, format) in
        [("linears", "bf16"), ("mlx", "mxfp4"), ("fp8", "int8"), ("split", "f32")]
    {
        let home = in_folder(layout);
        let names = ["tinker", "whole-modules"].map(|name| add(&home, name, name));
        let adapters = ["--adapter", &names[0], "--adapter", &names[1]];
        let (model, _) = home.export("m", &adapters);
        passes(&model, &home.checkpoint(), &adapters);
        let (staged, _) = home.stage("w", &["--experts", format, "--accept-rounding"]);
        let (model, _) = home.export_staged(&staged, "s", &adapters);
        let report = passes(&model, &staged, &adapters);
        assert_eq!(report["identity"], json!({"is": "same"}), "{layout}");
    }
}

/// Copies of the checkpoint's values beside other values for the same matrices, in any order.
#[test]
fn accepts_copies_beside_replacements() {
    for layout in ["hf", "linears", "numbers"] {
        let home = in_folder(layout);
        let [copies, others] = copies_and_others(&home);
        for (name, order) in [("a/m", [&copies, &others]), ("b/m", [&others, &copies])] {
            let options = order.map(|it| ["--adapter", it]).concat();
            let (model, _) = home.export(name, &options);
            passes(&model, &home.checkpoint(), &options);
        }
    }
}

#[test]
fn an_export_verifies_its_adapters() {
    let home = Home::with("tiny-hf");
    let adapter = add(&home, "patterns", "adapter");
    let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
    let options = ["--adapter", &adapter, "--verify", "--onnxruntime", text(onnxruntime())];
    let arguments = export_args(&checkpoint, &model, &options);
    let report = &summary(binary(&arguments).arg("--json"))["verification"];
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(report["adapters"][0]["name"], "adapter", "{report}");
    let shown = printed(&mut binary(&arguments));
    assert_contains(&shown, "\nadapter  adapter, weight 1, fingerprint ");
    assert_contains(
        &shown,
        "verdict  the model computes what the checkpoint says, with the adapter",
    );
    // In a folder of another name it is the same.
    copy_folder(Path::new(&adapter), &home.join("renamed"));
    passes(&model, &checkpoint, &["--adapter", text(&home.join("renamed"))]);
}

type Edit = fn(&mut Value, &mut Tensors);

/// Changes of an adapter that both readers have to understand in the same way. Where other adapters
/// have the same meaning, tests of the exporter's reader compare them.
#[test]
fn both_readers_agree_on_rare_forms() {
    let table: [(&str, &str, Edit); 14] = [
        ("patterns", "the first of two patterns", |config, _| {
            config["alpha_pattern"] = json!({"z": 1, "self_attn.*": 11, "q_proj": 3});
        }),
        ("patterns", "alternatives and anchors", |config, _| {
            config["alpha_pattern"] =
                json!({"^model.layers.2.*": 9, "q_proj|k_proj": 3, "xo_proj": 5});
        }),
        ("patterns", "a part of a component", |config, _| {
            config["alpha_pattern"] = json!({"proj": 9, "attn.q_proj": 3});
        }),
        ("experts", "the root of the rank", |config, _| config["use_rslora"] = json!(true)),
        ("router-head", "whole names", |config, _| {
            let names: Vec<_> =
                (0..3).map(|n| format!("model.layers.{n}.mlp.router.weight")).collect();
            config["target_parameters"] = json!(names);
            config["alpha_pattern"] = json!({"router.weight": 3, "router": 5});
        }),
        ("attention", "a weight as a parameter", |config, _| {
            config["target_parameters"] = json!(["q_proj.weight"]);
            config["alpha_pattern"] = json!({"q_proj": 3, "k_proj": 5});
        }),
        ("tokens", "a list of tokens", |config, tensors| {
            config["trainable_token_indices"] = json!([300, 0, 7]);
            tensors.remove("base_model.model.lm_head.token_adapter.trainable_tokens_delta");
        }),
        ("one-parameter-each", "names without a prefix", |_, tensors| {
            *tensors = renamed(tensors, |name| name.replace("base_model.model.model.", ""));
        }),
        ("tinker", "names without one of two prefixes", |_, tensors| {
            *tensors = renamed(tensors, |name| name.replace("base_model.model.", ""));
        }),
        ("attention", "values of q, k and v", |_, tensors| {
            for (part, rows) in [("q", 256), ("k", 64), ("v", 64)] {
                let name = format!("base_model.model.model.layers.1.self_attn.{part}_proj");
                tensors.insert(format!("{name}.base_layer.weight"), values(&[rows, 96]));
                tensors.insert(format!("{name}.bias"), values(&[rows]));
            }
        }),
        ("attention", "values of q alone", |_, tensors| {
            let name = "base_model.model.model.layers.2.self_attn.q_proj.base_layer.weight";
            tensors.insert(name.to_owned(), values(&[256, 96]));
        }),
        ("experts", "biases of experts", |_, tensors| {
            let name = "base_model.model.model.layers.2.mlp.experts";
            tensors.insert(format!("{name}.gate_up_proj_bias"), values(&[8, 256]));
            tensors.insert(format!("{name}.down_proj_bias"), values(&[8, 96]));
        }),
        ("split", "norms and sinks", |_, tensors| {
            for (name, size) in [
                ("layers.0.post_attention_layernorm.weight", 96),
                ("layers.2.self_attn.sinks", 8),
                ("norm.weight", 96),
            ] {
                tensors.insert(format!("base_model.model.model.{name}"), values(&[size]));
            }
        }),
        ("experts", "a tensor to ignore", |_, tensors| {
            let factor = values(&[2, 96]);
            tensors.insert("base_model.model.score.lora_A.weight".to_owned(), factor);
            tensors.insert("base_model.model.score.weight".to_owned(), values(&[2, 96]));
        }),
    ];
    for (name, case, edit) in table {
        for home in [Home::with("tiny"), in_folder("linears")] {
            let adapter = add(&home, name, "adapter");
            edit_json(&home.join("adapter").join(CONFIG), |config| {
                edit_tensors(&home, |tensors| edit(config, tensors));
            });
            let ignoring = if case.ends_with("ignore") { "--ignore-tensor *score*" } else { "" };
            let options = [&["--adapter", &adapter], &words(ignoring)[..]].concat();
            let (model, _) = home.export("m", &options);
            let report = passes(&model, &home.checkpoint(), &options);
            assert_eq!(report["identity"], json!({"is": "same"}), "{name}, {case}: {report}");
        }
    }
}

/// Some values in F32.
fn values(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|at| ((at * 37 % 101) as f32 - 50.0) / 400.0);
    (Dtype::F32, shape.to_vec(), values.flat_map(f32::to_le_bytes).collect())
}

/// What `verify` says of a model in a folder.
fn sentence_of(home: &Path, model: &str, adapters: &str) -> String {
    let arguments = ["verify", model, "--checkpoint", "checkpoint", "--onnxruntime"];
    let mut command = binary(&[&arguments, &[text(onnxruntime())][..]].concat());
    for adapter in words(adapters) {
        command.args(["--adapter", adapter]);
    }
    sentence(command.current_dir(home))
}

/// What a model with `experts=0.5` and `attention` is verified with, and what is said.
#[test]
fn refuses_other_adapters_than_those_of_the_model() {
    let home = Home::with("tiny-hf");
    let names = ["experts", "attention", "patterns"];
    let [experts, attention, patterns] = names.map(|name| add(&home, name, name));
    copy_folder(Path::new(&patterns), &home.join("other/attention"));
    let halved = format!("{experts}=0.5");
    let (model, _) = home.export("m", &["--adapter", &halved, "--adapter", &attention]);
    home.export("plain", &[]);
    passes(&model, &home.checkpoint(), &["--adapter", &attention, "--adapter", &halved]);
    let table = "experts=0.5 | `m.onnx` has the adapter `attention` with weight 1, and it is not given: give its folder or file; pass --adapter DIR
        | `m.onnx` has the adapter `experts` with weight 0.5, and it is not given: give its folder or file; pass --adapter 'DIR=0.5'
        | help: all of these can be passed together: --adapter 'DIR=0.5' --adapter DIR
        attention experts | adapter `experts` is given with weight 1, and `m.onnx` has it with weight 0.5: give it that weight; pass --adapter 'experts=0.5'
        attention=2 experts=0.5 | adapter `attention` is given with weight 2, and `m.onnx` has it with weight 1: give it that weight; pass --adapter attention
        attention experts=nan | adapter `experts` has the weight NaN, expected a number other than 0
        attention experts=0.5 patterns | adapter `patterns` is given, and `m.onnx` was exported without it: leave it out
        attention attention experts=0.5 | adapter `attention` is given, and `m.onnx` was exported without it
        patterns experts=0.5 | `m.onnx` has the adapter `attention` with weight 1, and it is not given
        patterns experts=0.5 | adapter `patterns` is given, and `m.onnx` was exported without it
        other/attention experts=0.5 | `m.onnx` has an adapter `attention` with fingerprint
        other/attention experts=0.5 | it was changed, or its factors are read in another layout; give what the export was given
        attention nowhere | there is nothing at `nowhere`
        attention owner/name=0.5 | there is nothing at `owner/name`; only an export reads repositories on the hub: choose the folder into which it downloads them";
    for [adapters, expected] in cases(table) {
        assert_contains(&sentence_of(&home, "m.onnx", adapters), expected);
    }
    assert_contains(
        &sentence_of(&home, "plain.onnx", "attention"),
        "adapter `attention` is given, and `plain.onnx` was exported without it: leave it out",
    );

    // Read in the other order it is another adapter.
    let home = Home::with("tiny-square");
    let adapter = add(&home, "square-down", "adapter");
    let options = |layout| ["--adapter", &adapter, "--adapter-layout", layout];
    let (model, _) = home.export("m", &options("plain"));
    let sentence = refused(&model, &home.checkpoint(), &options("swapped"));
    assert_contains(&sentence, "has an adapter `adapter` with fingerprint ");
    let sentence = refused(&model, &home.checkpoint(), &options("plain")[..2]);
    assert_contains(&sentence, "fit in two orders");
    passes(&model, &home.checkpoint(), &options("plain"));
}

/// NaN in the base, in an adapter, in both: all may be damaged, and are named.
#[test]
fn damaged_adapters_are_named() {
    let home = Home::with("tiny-hf");
    let adapter = add(&home, "attention", "adapter");
    // Where no sample shows it.
    crate::layout_fixtures::edit_tensors(&home.checkpoint(), |tensors| {
        tensors.get_mut("model.embed_tokens.weight").unwrap().2[4096..28_672].fill(255);
    });
    let options = ["--adapter", &adapter];
    let (model, _) = home.export("m", &options);
    let checkpoint = home.checkpoint();
    let sentence = refused(&model, &checkpoint, &options);
    let scans =
        [text(&checkpoint), &adapter].map(|it| format!("`inspect --scan {it}`")).join(" or ");
    assert_contains(
        &sentence,
        &format!(
            "are infinite or NaN, so values that it reads are damaged: use another copy; {scans} tells which"
        ),
    );
}

/// Bytes that were copied beside the model, and values that samples do not show.
#[test]
fn finds_changed_factors() {
    let home = Home::with("tiny-hf");
    let adapter = add(&home, "experts", "adapter");
    let options = ["--adapter", &adapter];
    let (model, exported) =
        home.export("m", &[&options[..], &["--external-data", "copy"]].concat());
    passes(&model, &home.checkpoint(), &options);
    let written = exported["weights"]["written"][0].as_str().unwrap();
    let name = "layers.1.mlp.experts.gate_up.lora_B";
    let bytes = fs::read(written).unwrap();
    let stored = read(Path::new(written))[name].2.clone();
    let at = bytes.windows(stored.len()).position(|it| it == stored).unwrap() + stored.len() / 3;
    let mut changed = bytes;
    changed[at] ^= 0x40;
    fs::write(written, changed).unwrap();
    let (report, error) = fails(&model, &home.checkpoint(), &options);
    assert_eq!(report["weights"]["different"], json!([name]), "{report}");
    let change = "was changed or damaged (weights with other bytes: `layers.1.mlp.experts.gate_up.lora_B`): restore it, or export again";
    assert_contains(&error, change);
    // To export again repairs it, once the file that is named is deleted.
    let again = [&options[..], &["--external-data", "copy"]].concat();
    assert_contains(&home.refusal("m", &again), &format!("`{written}` exists and differs"));
    fs::remove_file(written).unwrap();
    home.export("m", &again);
    passes(&model, &home.checkpoint(), &options);
}

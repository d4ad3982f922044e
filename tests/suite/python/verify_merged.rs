//! `verify` of models with merged adapters, and of swappable models with adapters.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::environment::onnxruntime;
use super::verify::{fails, passes, refused};
use crate::adapters::{ADAPTERS, add, bases, order};
use crate::layout_fixtures::read;
use crate::support::{
    Home, assert_contains, binary, cases, export_args, printed, summary, text, words,
};

/// Each adapter in each layout and each kind of model, if not in each combination of them.
#[test]
fn accepts_every_merged_adapter() {
    let kinds = [&[][..], &["--kv-cache"], &["--target", "ort"]];
    let adapters = ADAPTERS.iter().flat_map(|(name, others)| [&[*name], *others].concat());
    for (at, name) in adapters.enumerate() {
        let homes = bases(name);
        let (home, kind) = (&homes[at % homes.len()], kinds[at % kinds.len()]);
        let adapter = add(home, name, "adapter");
        let options = [&["--adapter", &adapter], order(name)].concat();
        let merge = [&options[..], &["--adapter-as", "merge"], kind].concat();
        let (model, _) = home.export("m", &merge);
        let report = passes(&model, &home.checkpoint(), &options);
        let case = format!("{name} {kind:?}: {report}");
        assert_eq!(report["tolerance"]["from"], "float32", "{case}");
        assert!(report["tolerance"]["bound"].as_f64().unwrap() < 1e-4, "{case}");
        assert!(report["weights"]["compared"].as_u64() > Some(0), "{case}");
        assert_eq!(report["adapters"][0]["merged"], true, "{case}");
    }
}

/// Formats that round are compared with the model's own values, after their bytes.
#[test]
fn accepts_merged_adapters_with_other_options() {
    let table = "--functions | float32
        --external-data copy | float32
        --max-shard-size 900kB --target ort | float32
        --layers 1 --target ort | float32
        --last-logits --kv-cache | float32
        --experts f32 --dense f32 | float32
        --experts mxfp4 --accept-rounding --target ort | own_numbers
        --experts bf16 --dense bf16 --accept-rounding | own_numbers
        --dense f16 --accept-rounding | own_numbers
        --experts int4 | own_numbers
        --dense int8 | own_numbers
        --experts int8 --dense int4 | own_numbers";
    for (at, [exported, tolerance]) in cases(table).enumerate() {
        let homes = bases("experts");
        let home = &homes[at % homes.len()];
        let names = ["experts", "router-head", "biases", "attention"];
        let [experts, head, biases, attention] = names.map(|name| add(home, name, name));
        let attention = format!("{attention}=-0.3");
        let given = [experts, head, biases, attention];
        let adapters: Vec<&str> = given.iter().flat_map(|it| ["--adapter", it]).collect();
        let merge = [&adapters[..], &["--adapter-as", "merge"], &words(exported)].concat();
        let (model, _) = home.export("m", &merge);
        let report = passes(&model, &home.checkpoint(), &adapters);
        assert_eq!(report["tolerance"]["from"], tolerance, "{exported}: {report}");
        assert_eq!(report["weights"]["unknown"], json!([]), "{exported}: {report}");
    }
}

/// A value of each kind that only a merge converts, and of matrices.
#[test]
fn finds_changed_values_of_a_merge() {
    let table = "router-head | layers.1.mlp.router.weight
        router-head | lm_head.weight
        embedding | embedding.weight
        biases | layers.0.attn.q.bias
        experts | layers.1.mlp.experts.down.weight";
    for [name, weight] in cases(table) {
        let home = Home::with("tiny-hf");
        let adapter = add(&home, name, "adapter");
        let options = ["--adapter", &adapter];
        let merge = [&options[..], &["--adapter-as", "merge"]].concat();
        let (model, exported) = home.export("m", &merge);
        passes(&model, &home.checkpoint(), &options);
        let written = exported["weights"]["written"][0].as_str().unwrap();
        let mut bytes = fs::read(written).unwrap();
        let stored = &read(Path::new(written))[weight].2;
        let start = bytes.windows(stored.len()).position(|it| it == stored).unwrap();
        // The lowest bit of a value.
        bytes[start + stored.len() / 8 * 4] ^= 1;
        fs::write(written, bytes).unwrap();
        let (report, _) = fails(&model, &home.checkpoint(), &options);
        assert_eq!(report["weights"]["different"], json!([weight]), "{report}");
    }
}

#[test]
fn a_merge_can_be_staged_first() {
    let home = Home::with("tiny-hf");
    let [experts, attention] = ["experts", "attention"].map(|name| add(&home, name, name));
    let options = ["--adapter", &experts];
    let (staged, _) = home.stage("w", &[&options[..], &["--adapter-as", "merge"]].concat());
    let (model, _) = home.export_staged(&staged, "m", &[]);
    // With the checkpoint and the adapter, or with the staged file, which has it.
    passes(&model, &home.checkpoint(), &options);
    passes(&model, &staged, &[]);
    let sentence = refused(&model, &staged, &options);
    assert_contains(&sentence, "the staged weights have it in their values: leave it out");
    let sentence = refused(&model, &home.checkpoint(), &[]);
    assert_contains(
        &sentence,
        "has the adapter `experts` with weight 1, and it is not given: give its folder or file",
    );
    let converted = ["--experts", "int4", "--dense", "int8"];
    let (model, _) = home.export_staged(&staged, "converted", &converted);
    passes(&model, &staged, &[]);
    // Another one beside the weights.
    let beside = ["--adapter", &attention];
    let (model, _) = home.export_staged(&staged, "beside", &beside);
    passes(&model, &staged, &beside);
    let both = ["--adapter", &experts, "--adapter", &attention];
    assert_contains(
        &refused(&model, &home.checkpoint(), &both),
        "has merged adapters and unmerged ones: verify it with the staged file",
    );
}

/// Adapters as inputs of one model, one or several that change different matrices.
#[test]
fn verifies_swappable_models_with_adapters() {
    let table = "attention
        attention=-0.5
        experts
        router-head
        embedding
        experts-peft-0.19.0
        tinker
        split";
    for (target, base) in [("onnx", "tiny"), ("ort", "tiny-hf")] {
        let home = Home::with(base);
        let swappable = ["--adapter-as", "swappable", "--adapter-modules", "all"];
        let (model, _) = home.export("m", &[&swappable[..], &["--target", target]].concat());
        passes(&model, &home.checkpoint(), &[]);
        for [given] in cases(table) {
            let (name, weight) = given.split_once('=').unwrap_or((given, "1"));
            let adapter = format!("{}={weight}", add(&home, name, name));
            let report = passes(&model, &home.checkpoint(), &["--adapter", &adapter]);
            assert_eq!(report["adapters"][0]["name"], name, "{report}");
            assert!(report["tolerance"]["bound"].as_f64().unwrap() < 1e-4, "{report}");
        }
        let [attention, head, patterns, biases] =
            ["attention", "router-head", "patterns", "biases"].map(|name| add(&home, name, name));
        passes(&model, &home.checkpoint(), &["--adapter", &attention, "--adapter", &head]);
        let both = ["--adapter", &attention, "--adapter", &patterns];
        assert_contains(
            &refused(&model, &home.checkpoint(), &both),
            "and a runtime adds one adapter to a matrix at a time: verify the model with one after the other",
        );
        assert_contains(
            &refused(&model, &home.checkpoint(), &["--adapter", &biases]),
            "a runtime can only add products of factors",
        );
        let (model, _) = home.export("attention", &swappable[..2]);
        assert_contains(
            &refused(&model, &home.checkpoint(), &["--adapter", &head]),
            "has no inputs: export the model with inputs for these",
        );
    }
}

#[test]
fn exports_verify_merged_and_swappable_adapters() {
    let home = Home::with("tiny-hf");
    let [one, other] = ["attention", "experts"].map(|name| add(&home, name, name));
    let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
    let adapters = ["--adapter", &one, "--adapter", &other, "--verify"];
    let adapters =
        [&adapters[..], &["--onnxruntime", text(onnxruntime()), "--adapter-as"]].concat();
    let merge = export_args(&checkpoint, &model, &[&adapters[..], &["merge"]].concat());
    let report = &summary(binary(&merge).arg("--json"))["verification"];
    assert_eq!((&report["passed"], &report["adapters"][1]["merged"]), (&json!(true), &json!(true)));
    let swappable = export_args(&checkpoint, &model, &[&adapters[..], &["swappable"]].concat());
    let found = summary(binary(&swappable).arg("--json"));
    assert_eq!(found["verification"]["passed"], true);
    assert!(found["verification"]["adapters"].is_null());
    for (at, name) in ["attention", "experts"].into_iter().enumerate() {
        let report = &found["adapter_verifications"][at];
        assert_eq!(report["passed"], true, "{report}");
        assert_eq!(report["adapters"][0]["name"], name, "{report}");
    }
    let shown = printed(&mut binary(&swappable));
    assert_eq!(shown.matches("\nverdict ").count(), 3, "{shown}");
}

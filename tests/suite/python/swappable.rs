//! Adapters that a runtime adds, in onnxruntime and onnxruntime-genai, against the logits of PEFT.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::adapters::{references, ways};
use super::environment::{assert_steps_of, assert_within, onnxruntime, python, reference};
use super::verify::passes;
use crate::adapters::{ADAPTERS, add, bases, order};
use crate::genai::with_tokenizer;
use crate::support::{Home, binary, fixture, printed, text};

/// Adapters of products alone, and the others that have their logits.
fn swappable() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let replacing = ["biases", "tokens", "whole-modules"];
    let adapters = ADAPTERS.into_iter().filter(move |(name, _)| !replacing.contains(name));
    adapters.map(|(logits, others)| (logits, [&[logits], others].concat()))
}

/// Writes an adapter for a model that exists, and returns the file.
fn later(model: &Path, adapter: &str) -> PathBuf {
    let (folder, file) = (fixture("lora").join(adapter), model.with_file_name(adapter));
    let file = file.with_extension("onnx_adapter");
    let arguments = ["adapter", text(&folder), "--for", text(model), "-o", text(&file)];
    printed(&mut binary(&[&arguments, order(adapter)].concat()));
    file
}

/// A swappable model for each layout and target, whose experts and all else adapters may change.
fn models(homes: &[Home]) -> Vec<PathBuf> {
    let all = ["--kv-cache", "--adapter-as", "swappable", "--adapter-modules", "all"];
    let of_target =
        |home: &Home, target| home.export(target, &[&all[..], &["--target", target]].concat()).0;
    homes.iter().flat_map(|home| ["onnx", "ort"].map(|target| of_target(home, target))).collect()
}

#[test]
fn one_model_computes_with_every_adapter_what_peft_computes() {
    for square in [false, true] {
        let homes = bases(if square { "square" } else { "attention" });
        let models = models(&homes);
        for (logits, names) in swappable().filter(|(name, _)| name.starts_with("square") == square)
        {
            let pairs = models.iter().flat_map(|model| names.iter().map(move |name| (model, name)));
            let (models, adapters): (Vec<PathBuf>, Vec<PathBuf>) =
                pairs.map(|(model, name)| (model.clone(), later(model, name))).unzip();
            let request = json!({"adapters": adapters, "ways": ways()});
            assert_steps_of(2e-5, &models, &references(logits), request);
        }
    }
}

/// With what the given adapters change, with nothing, with all; in one session adapters come and go.
#[test]
fn models_without_an_adapter_compute_the_same_bits() {
    let (mut homes, mut models, mut adapters) = (Vec::new(), Vec::new(), Vec::new());
    for home in bases("attention") {
        let [first, second] = ["patterns", "one-parameter-each"].map(|name| add(&home, name, name));
        for options in [
            &["--kv-cache"][..],
            &["--target", "ort"],
            &["--target", "ort", "--experts", "int4", "--dense", "int8"],
            &["--target", "ort", "--experts", "f32"],
            &["--target", "ort", "--experts", "f32", "--functions"],
            &["--target", "ort", "--compute", "f16"],
            &["--kv-cache", "--functions", "--dense", "f32"],
        ] {
            let name = format!("m{}", models.len());
            let (plain, _) = home.export(&format!("{name}-plain"), options);
            let swappable = [options, &["--adapter-as", "swappable"]].concat();
            let given = [&swappable[..], &["--adapter", &first, "--adapter", &second]].concat();
            let all = [&swappable[..], &["--adapter-modules", "all"]].concat();
            let (given, summary) = home.export(&format!("{name}-given"), &given);
            let files = [0, 1].map(|at| summary["adapters"][at]["file"].clone());
            let (all, _) = home.export(&format!("{name}-all"), &all);
            let (attention, _) = home.export(&format!("{name}-attention"), &swappable);
            models.extend([given, all, attention].map(|model| [model, plain.clone()]));
            adapters.extend([
                json!(files),
                json!(files),
                json!([later(&models.last().unwrap()[0], "attention")]),
            ]);
        }
        homes.push(home);
    }
    let request = json!({"models": models, "adapters": adapters});
    assert!(python("swapped.py", &[], &request).as_u64() > Some(5_000));
}

/// A weight is in the file, under any name; layers that are left out are not.
#[test]
fn files_beside_a_model_compute_what_inline_adapters_compute() {
    let home = Home::with("tiny-hf");
    let adapter = add(&home, "experts", "experts");
    let ids = fixture("lora/ids-2x40.npy");
    for (name, weight, options) in [
        ("whole", "", &[][..]),
        ("half", "=0.5", &["--target", "ort"]),
        ("negated", "=-1", &["--functions"]),
        ("first", "=1.5", &["--layers", "2"]),
    ] {
        let given = format!("{adapter}{weight}");
        let inline = [options, &["--adapter", &given]].concat();
        let (inline, _) = home.export(&format!("{name}-inline"), &inline);
        let given = format!("{name}={given}");
        let options = [options, &["--adapter", &given, "--adapter-as", "swappable"]].concat();
        let (model, summary) = home.export(&format!("{name}-swappable"), &options);
        assert_eq!(
            summary["adapters"][0]["file"],
            json!(home.join(format!("{name}.onnx_adapter")))
        );
        let case = json!({"ids": ids, "model": inline, "adapter": summary["adapters"][0]["file"]});
        assert_within(1e-5, &[model], "onnxruntime", &[case]);
    }
}

/// By `verify`, onnx's checker, and onnx's reference evaluator.
#[test]
fn models_without_an_adapter_are_verified() {
    for home in bases("attention") {
        for (target, modules) in [("onnx", "all"), ("ort", "all"), ("onnx", "attention")] {
            let options = ["--kv-cache", "--adapter-as", "swappable", "--adapter-modules", modules];
            let (model, _) = home.export(target, &[&options[..], &["--target", target]].concat());
            let report = passes(&model, &home.checkpoint(), &[]);
            assert_eq!(report["identity"]["is"], "same", "{report}");
            if target == "onnx" {
                python("check.py", &[text(&model)], &Value::Null);
                assert_within(1e-5, &[model], "reference", &[reference("2x40")]);
            }
        }
        let adapter = add(&home, "experts", "experts");
        let library = ["--verify", "--onnxruntime", text(onnxruntime())];
        let options = ["--adapter-as", "swappable", "--adapter", &adapter];
        home.export("verified", &[&options[..], &library].concat());
    }
    // From a staged file, and against it.
    let home = Home::with("tiny");
    let (staged, _) = home.stage("w", &[]);
    let (model, _) = home.export_staged(&staged, "m", &["--adapter-as", "swappable"]);
    passes(&model, &staged, &[]);
    passes(&model, &home.checkpoint(), &[]);
}

#[test]
fn onnxruntime_genai_switches_adapters() {
    let adapters = ["attention", "experts", "embedding", "tinker-peft"];
    for target in ["ort", "onnx"] {
        let home = with_tokenizer();
        let options = [
            "--genai",
            "--target",
            target,
            "--adapter-as",
            "swappable",
            "--adapter-modules",
            "all",
        ];
        let (model, _) = home.export("checkpoint/model", &options);
        let files: Map<String, Value> =
            adapters.iter().map(|name| ((*name).to_owned(), json!(later(&model, name)))).collect();
        let with = |name: &&str| {
            let [_, mut case] = references(name);
            case["adapter"] = json!(name);
            case
        };
        let base = || [reference("1x300")].into_iter();
        let cases: Vec<Value> = base().chain(adapters.iter().map(with)).chain(base()).collect();
        let request =
            json!({"folders": [home.checkpoint()], "adapters": files, "references": cases});
        let error = &python("generate.py", &[], &request)[0];
        assert!(error.as_f64().unwrap() <= 2e-5, "{target}: {error}");
    }
}

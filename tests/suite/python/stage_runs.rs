//! The stages of a model, which `verify`, `generate` and `evaluate` run as one.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::environment::{onnxruntime, python};
use super::verify::{fails, passes};
use crate::adapters::add;
use crate::layout_fixtures::edit_tensors;
use crate::support::{
    Home, assert_contains, assert_starts, binary, cases, export, export_args, fixture, model_path,
    printed, read_json, shell, summary, text, words,
};

/// Exports `m.onnx` in stages: the pattern of their paths, and the summary.
fn exported(home: &Home, options: &[&str]) -> (PathBuf, Value) {
    let (model, summary) = home.export("m", options);
    (model_path(&model, options), summary)
}

fn stage(home: &Home, number: usize, of: usize) -> PathBuf {
    home.join(format!("m.stage-{number}-of-{of}.onnx"))
}

/// Runs a command in the folder of a test: its status, output and errors.
fn run(home: &Home, command: &str) -> (Option<i32>, String, String) {
    shell(&format!("ORT_DYLIB_PATH='{}' \"$0\" {command}", text(onnxruntime())), home)
}

/// Files of a list or a pattern, or one that lies beside the others.
#[test]
fn stages_are_found_however_they_are_named() {
    let home = Home::with("tiny");
    home.export("m", &["--stages", "3", "--target", "ort"]);
    for part in ["0..1", "1..3"] {
        let name = format!("part-{}", part.replace("..", "-"));
        home.export(&name, &["--layers", part, "--target", "ort"]);
    }
    let stages = "m.stage-*-of-3.onnx";
    for (given, name, layers) in [
        ("m.stage-1-of-3.onnx", stages, "0, 1 and 2"),
        ("./m.stage-3-of-3.onnx", "./m.stage-*-of-3.onnx", "0, 1 and 2"),
        ("m.stage-2-of-3.onnx m.stage-1-of-3.onnx m.stage-3-of-3.onnx", stages, "0, 1 and 2"),
        ("'m.stage-*-of-3.onnx'", stages, "0, 1 and 2"),
        ("'?.stage-[12]*'", stages, "0, 1 and 2"),
        ("part-1-3.onnx part-0-1.onnx", "part-0-1.onnx", "0 and 1-2"),
        ("'part-*'", "part-0-1.onnx", "0 and 1-2"),
    ] {
        let command = format!("verify {given} --checkpoint checkpoint --tokens 20 --trace");
        let (status, report, error) = run(&home, &command);
        assert_eq!(status, Some(0), "{given}: {error}");
        let count = if name == stages || given.starts_with('.') { 3 } else { 2 };
        let head =
            format!("model    {name}\n  {count} stages as one model, with layers {layers}\n");
        assert_starts(&report, &head);
        assert_contains(&report, "\n  layer 0 of stage 1 max ");
        assert_contains(&report, &format!("\n  layer 2 of stage {count} max "));
    }
}

/// A constant of one graph.
#[test]
fn a_fault_in_a_graph_is_found_in_its_stage() {
    for (options, number, layer) in [("--kv-cache", 2, 2), ("--kv-cache", 3, 3), ("", 1, 0)] {
        let home = Home::with("trained");
        let cut = ["--stages", "0..2,2..3,3..4"];
        let (model, _) = exported(&home, &[&cut, &words(options)[..]].concat());
        let file = stage(&home, number, 3);
        let planted = python("constant.py", &[text(&file), "1.702", "1.8"], &Value::Null);
        assert!(planted.as_u64().unwrap() > 0);
        let checks = ["--tokens", "20", "--trace"];
        let (report, sentence) = fails(&model, &home.checkpoint(), &checks);
        assert_eq!(report["trace"]["first"], layer + 1, "{report}");
        assert_eq!(report["stages"][number - 1]["start"], layer, "{report}");
        assert_eq!(report["weights"]["different"], json!([]), "{report}");
        assert_contains(&sentence, "m.stage-*-of-3.onnx`: logits differ by ");
        let (_, shown, _) = run(&home, "verify 'm.st*' --checkpoint checkpoint --trace");
        let place = format!("the residual stream departs in layer {layer} of stage {number}\n");
        assert_contains(&shown, &place);
    }
}

/// A bit that no logit shows.
#[test]
fn weights_of_all_stages_are_compared() {
    for options in [&[][..], &["--experts", "bf16"]] {
        let home = Home::with("tiny");
        let copied = ["--stages", "3", "--external-data", "copy"];
        let (model, _) = exported(&home, &[&copied, options].concat());
        passes(&model, &home.checkpoint(), &["--tokens", "3"]);
        for (number, name) in
            [(1, "embedding.weight"), (2, "layers.1.attn.sinks"), (3, "lm_head.weight")]
        {
            let inspected = export(&["inspect", text(&stage(&home, number, 3)), "--tensors", name]);
            let range = &inspected["tensors"][0]["places"][0];
            let file = home.join(range["file"].as_str().unwrap());
            let original = fs::read(&file).unwrap();
            let mut damaged = original.clone();
            damaged[range["offset"].as_u64().unwrap() as usize] ^= 1;
            fs::write(&file, damaged).unwrap();
            let (report, _) = fails(&model, &home.checkpoint(), &["--tokens", "3"]);
            assert_eq!(report["weights"]["different"], json!([name]), "{report}");
            fs::write(&file, original).unwrap();
        }
    }
}

#[test]
fn texts_are_verified_evaluated_and_continued() {
    let home = Home::with("trained");
    fs::copy(fixture("trained/held-out.txt"), home.join("text.txt")).unwrap();
    home.export("m", &["--stages", "2", "--kv-cache"]);
    home.export("w", &["--kv-cache"]);
    let checks = "--checkpoint checkpoint --text text.txt --tokens 512 --json";
    let read = |command: &str| -> Value {
        let (status, report, error) = run(&home, &format!("{command} {checks}"));
        assert_eq!(status, Some(0), "{error}");
        serde_json::from_str(&report).unwrap()
    };
    let report = read("verify m.stage-1-of-2.onnx --expert-use use.json");
    assert_eq!(report["quality"]["window"], 512);
    assert_eq!(read_json(&home.join("use.json"))["layers"].as_array().unwrap().len(), 4);
    // A list of the stages and one of them are one model.
    for given in ["m.stage-*", "m.stage-2-of-2.onnx", "'m.stage-?-of-2.onnx'"] {
        let evaluated = read(&format!("evaluate w.onnx {given}"));
        let [whole, stages] = &evaluated["models"].as_array().unwrap()[..] else {
            panic!("{evaluated}")
        };
        assert_eq!(stages["model"], "m.stage-*-of-2.onnx");
        assert_eq!(stages["kl_divergence"]["mean"], whole["kl_divergence"]["mean"]);
        assert!(stages["bytes"].as_u64() > whole["bytes"].as_u64(), "{evaluated}");
        assert_eq!(stages["error_by_layer"], whole["error_by_layer"]);
    }

    home.export("folder/m", &["--stages", "2", "--target", "ort"]);
    let expected = &read_json(&fixture("trained/expected.json"))["greedy"][1];
    let [prompt, whole] = ["prompt", "text"].map(|key| expected[key].as_str().unwrap());
    for model in
        ["m.stage-1-of-2.onnx", "m.stage-2-of-2.onnx", "'m.stage-*'", "m.*-of-2.onnx", "folder"]
    {
        let options = format!("--tokenizer checkpoint --prompt '{prompt}' --max-new-tokens 24");
        let (status, shown, error) = run(&home, &format!("generate {model} {options}"));
        assert_eq!(status, Some(0), "{error}");
        assert_starts(whole, &format!("{prompt}{}", shown.strip_suffix('\n').unwrap()));
        assert_contains(&error, "\n  2 stages are run as one model: `");
    }
}

/// The factors of an adapter go to the stages that have inputs for them.
#[test]
fn adapters_are_added_to_stages() {
    let home = Home::with("tiny");
    let adapter = add(&home, "attention", "adapter");
    for target in ["onnx", "ort"] {
        let swappable = ["--kv-cache", "--target", target, "--adapter-as", "swappable"];
        let verified = ["--verify", "--onnxruntime", text(onnxruntime())];
        let both = [&swappable[..], &["--adapter", &adapter], &verified].concat();
        let (whole, _) = home.export("w", &swappable);
        let (stages, summed) = exported(&home, &[&both, &["--stages", "3"][..]].concat());
        assert_eq!(summed["verification"]["passed"], true, "{summed}");
        assert_eq!(summed["adapter_verifications"][0]["passed"], true, "{summed}");
        let file = home.join("whole.onnx_adapter");
        printed(&mut binary(&["adapter", &adapter, "--for", text(&whole), "-o", text(&file)]));
        let generated = |model: &str, adapters: &[String]| {
            let base = ["generate", model, "--ids", "17,96,91,279,292", "--max-new-tokens", "12"];
            let given = adapters.iter().flat_map(|it| ["--adapter", it]);
            let library = ["--onnxruntime", text(onnxruntime()), "--json"];
            let all: Vec<&str> = base.into_iter().chain(library).chain(given).collect();
            summary(&mut binary(&all))["ids"].clone()
        };
        let of_whole = vec![text(&file).to_owned()];
        let of_stages =
            |number| format!("{}/adapter.stage-{number}-of-3.onnx_adapter", text(&home));
        let expected = generated(text(&whole), &of_whole);
        assert!(expected != generated(text(&whole), &[]));
        assert_eq!(generated(text(&stages), &of_whole), expected, "{target}");
        assert_eq!(generated(text(&stages), &[1, 2, 3].map(of_stages)), expected, "{target}");
    }
}

/// What happens to the files of an export, what is named, and why that is no model.
#[test]
fn stages_that_are_no_model_are_refused() {
    let table = "rm m.stage-2-of-3.onnx | m.stage-1-of-3.onnx | `m.stage-1-of-3.onnx` is a stage of 3, and `m.stage-2-of-3.onnx` is missing: put all stages into one folder, or give the files of all
        rm m.stage-[13]* | m.stage-2-of-3.onnx | `m.stage-2-of-3.onnx` is a stage of 3, and `m.stage-1-of-3.onnx`, `m.stage-3-of-3.onnx` are missing
        rm m.stage-3-of-3.onnx | m.stage-*-of-3.onnx | `m.stage-3-of-3.onnx` is missing
        mkdir d; mv m.stage-3* d | './m.stage-*-of-3.onnx' | `m.stage-3-of-3.onnx` is missing
        cp m.stage-1-of-3.onnx m.stage-2-of-3.onnx | m.stage-1-of-3.onnx | `m.stage-1-of-3.onnx` and `m.stage-2-of-3.onnx` both have layer 0: give one of them
        cp m.stage-3-of-3.onnx x.onnx | x.onnx m.stage-3-of-3.onnx | `x.onnx` and `m.stage-3-of-3.onnx` both have layer 2: give one of them
        cp m.stage-1-of-3.onnx x.onnx | x.onnx | `x.onnx` is a part of a model of 3 layers, without layers 1-2: give the files of all stages
        rm m.*; cp long/m.stage-1* short/m.stage-2* . | m.stage-1-of-2.onnx | `m.stage-1-of-2.onnx` ends before layer 2, and `m.stage-2-of-2.onnx` begins with layer 1: they are cut at different layers; export both again with the same stages
        rm m.*; cp short/m.stage-1* long/m.stage-2* . | m.stage-2-of-2.onnx | `m.stage-1-of-2.onnx` ends before layer 1, and `m.stage-2-of-2.onnx` begins with layer 2: they are cut
        true | m.stage-1-of-3.onnx m.stage-2-of-2.onnx | `m.stage-1-of-3.onnx` and `m.stage-2-of-2.onnx` are of different exports, with other `stages` (3 and 2): give the stages of one export
        cp f16/m.stage-2* . | m.stage-1-of-3.onnx | `m.stage-1-of-3.onnx` and `m.stage-2-of-3.onnx` are of different exports, with other `options.compute` (f32 and f16)
        cp ort/m.stage-2* . | m.stage-3-of-3.onnx | are of different exports, with other `options.kv_cache` (true and false), `options.target` (onnx and ort): give the stages of one export
        cp int8/m.stage-2* . | m.stage-1-of-3.onnx | `formats.experts` (mxfp4 and int8): give the stages of one export
        cp other/m.stage-2* . | m.stage-1-of-3.onnx | are of different exports, with other `fingerprint` (
        cp fewer/m.stage-1* x.onnx | m.stage-1-of-3.onnx x.onnx | `layers` (3 and 2), `stages` (3 and 2): give the stages of one export
        true | m.stage-1-of-3.onnx w.onnx | `m.stage-1-of-3.onnx`, `w.onnx` are given, expected one model or the stages of one: verify or run one after the other
        true | w.onnx w.onnx | `w.onnx`, `w.onnx` are given, expected one model
        true | 'n.stage-*' | no file has a name like `n.stage-*`: correct it, or name the files
        true | '[' | there is no file `[`, and it is no pattern (invalid range pattern): correct it
        echo no model > m.stage-2-of-3.onnx | m.stage-1-of-3.onnx | `m.stage-2-of-3.onnx` is a text that begins";
    let home = Home::with("tiny");
    let other = Home::with("tiny");
    edit_tensors(&other.checkpoint(), |tensors| {
        tensors.get_mut("block.1.attn.sinks").unwrap().2[0] ^= 1;
    });
    let cache = ["--kv-cache", "--stages", "3"];
    for (name, options) in [
        ("w", &["--kv-cache"][..]),
        ("m", &["--kv-cache", "--stages", "2"]),
        ("m", &cache),
        ("f16/m", &[&cache[..], &["--compute", "f16"]].concat()),
        ("ort/m", &["--target", "ort", "--stages", "3"]),
        ("int8/m", &[&cache[..], &["--experts", "int8"]].concat()),
        ("short/m", &["--kv-cache", "--stages", "0..1,1..3"]),
        ("long/m", &["--kv-cache", "--stages", "0..2,2..3"]),
        ("fewer/m", &["--kv-cache", "--stages", "2", "--layers", "2"]),
    ] {
        home.export(name, options);
    }
    export(&export_args(&other.checkpoint(), &home.join("other/m.onnx"), &cache));
    let keep = "mkdir keep && cp *.onnx keep";
    assert_eq!(shell(keep, &home).0, Some(0));
    for [change, given, expected] in cases(table) {
        for command in ["verify --checkpoint checkpoint", "generate --ids 1"] {
            let restore = "rm -rf d *.onnx; cp keep/* .";
            assert_eq!(shell(&format!("{restore}; {change}"), &home).0, Some(0), "{change}");
            let (status, _, error) = run(&home, &format!("{command} {given}"));
            assert_eq!((status, error.lines().count()), (Some(1), 1), "{change}: {error}");
            assert_contains(&error, expected);
        }
    }
    let (_, _, error) = run(&home, "generate w.onnx 'In the beginning'");
    assert_contains(
        &error,
        "`In the beginning` is no ONNX model: a text to continue is the value of --prompt",
    );
    let (_, _, error) = run(&home, "generate . --ids 1");
    assert_contains(
        &error,
        "`.` holds several models, `./m.stage-1-of-2.onnx`, `./m.stage-1-of-3.onnx`, `./w.onnx`: name one of them",
    );
}

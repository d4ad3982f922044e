//! What `inspect` reports, against the files themselves.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::adapters::{WEIGHTS, copied, edit_tensors};
use crate::layout_fixtures::{config, home, in_folder, in_layout};
use crate::support::{
    Home, assert_contains, assert_starts, binary, export, export_args, failure, fixture, printed,
    resize, run, text, words,
};

/// The report as JSON. The exit status tells whether all data is there.
pub fn inspect(path: &Path, options: &[&str]) -> Value {
    let output = run(&[&["inspect", text(path), "--json"], options].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.success(), report["whole"] != false, "{error}");
    report
}

pub fn printed_report(path: &Path) -> String {
    String::from_utf8(run(&["inspect", text(path)]).stdout).unwrap()
}

/// A model in a folder of its own, with its weights beside it.
pub fn copied_model(home: &Path, options: &[&str]) -> PathBuf {
    let model = home.join("out/model.onnx");
    export(&export_args(&fixture("tiny"), &model, options));
    model
}

pub fn data_file(model: &Path) -> PathBuf {
    model.with_file_name(inspect(model, &[])["files"][0]["file"].as_str().unwrap())
}

#[test]
fn lists_tensors_of_checkpoint_with_their_bytes() {
    let home = Home::with("tiny");
    let folder = home.checkpoint();
    let (_, summary) = home.export("m", &[]);
    let report = inspect(&folder, &["--tensors", "*"]);
    assert_eq!(report["kind"], "checkpoint");
    assert_eq!(report["fingerprint"], summary["fingerprint"]);
    assert_eq!(report["bytes_to_write"], 0);
    assert_eq!(report["bytes"], summary["weights"]["bytes_referenced"]);
    let totals = report["totals"].as_array().unwrap().iter();
    assert_eq!(totals.map(|it| it["bytes"].as_u64().unwrap()).sum::<u64>(), report["bytes"]);

    // Every range holds the tensor that the safetensors crate finds there.
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), whole.len());
    for tensor in tensors {
        let name = tensor["stored_as"].get(0).unwrap_or(&tensor["name"]).as_str().unwrap();
        let range = &tensor["places"][0];
        assert_eq!(range["file"], "model.safetensors");
        let [offset, length] = ["offset", "length"].map(|key| range[key].as_u64().unwrap());
        let found = &bytes[offset as usize..][..length as usize];
        assert_eq!(found, whole.tensor(name).unwrap().data(), "{name}");
    }
}

#[test]
fn filters_tensors_by_canonical_and_stored_names() {
    let tiny = fixture("tiny");
    let tensors = |options: &[&str]| inspect(&tiny, options)["tensors"].as_array().unwrap().len();
    assert_eq!(tensors(&["--tensors", "block.1.attn.qkv.*"]), 2);
    assert_eq!(tensors(&["--tensors", "layers.1.attn.qkv.*"]), 2);
    assert_eq!(tensors(&["--tensors", "layers.?.mlp.router.bias"]), 3);
    assert_eq!(tensors(&["--tensors", "qkv"]), 0);
    assert_eq!(tensors(&[]), 0);
    for (pattern, matches) in [("zzz", false), ("qkv", false), ("*qkv*", true)] {
        let printed = printed(&mut binary(&["inspect", text(&tiny), "--tensors", pattern]));
        let said = printed.contains(&format!("no name of a tensor matches `{pattern}`"));
        assert!(said != matches, "{printed}");
    }
    let sentence = failure(&["inspect", text(&tiny), "--tensors", "a***"]);
    assert_contains(&sentence, "invalid pattern \"a***\" for tensor names");
}

#[test]
fn a_pattern_without_a_match_is_told() {
    let home = Home::with("tiny");
    home.export("m", &[]);
    for path in ["checkpoint", "checkpoint/model.safetensors", "m.onnx"] {
        let path = home.join(path);
        let report = run(&["inspect", text(&path), "--tensors", "zzz*"]);
        let report = String::from_utf8(report.stdout).unwrap();
        assert_contains(&report, "no name of a tensor matches `zzz*`\n");
        let report = run(&["inspect", text(&path), "--tensors", "rout"]);
        let report = String::from_utf8(report.stdout).unwrap();
        assert_contains(&report, "matches `rout`; `*rout*` matches parts of names\n");
    }
}

/// The edit of a tensor's bytes, which tensor, and lines of the scan.
#[test]
fn scan_names_zeros_and_spares_sinks_of_minus_infinity() {
    type Fill = fn(&mut [u8]);
    let minus_infinity: Fill = |bytes| bytes.as_chunks_mut().0[0] = 0xff80_u16.to_le_bytes();
    let infinity: Fill = |bytes| bytes.as_chunks_mut().0[0] = 0x7f80_u16.to_le_bytes();
    let zero: Fill = |bytes| bytes.fill(0);
    let hole: Fill = |bytes| bytes[3_200..73_600].fill(0);
    for (name, edit, is_damaged, lines) in [
        ("model.layers.1.self_attn.sinks", minus_infinity, false, "all values are finite\n"),
        (
            "model.layers.1.self_attn.sinks",
            infinity,
            true,
            "layers.1.attn.sinks (model.layers.1.self_attn.sinks): 1 of 8 values",
        ),
        (
            "model.norm.weight",
            minus_infinity,
            true,
            "norm.scale (model.norm.weight): 1 of 96 values",
        ),
        (
            "model.layers.0.self_attn.q_proj.weight",
            zero,
            false,
            "layers.0.attn.q.weight (model.layers.0.self_attn.q_proj.weight): all bytes are 0, as in an unfinished download",
        ),
        (
            "model.layers.2.mlp.experts.down_proj_blocks",
            zero,
            false,
            "all values are finite, zeros in 1 tensor\n",
        ),
        (
            "model.layers.1.mlp.experts.gate_up_proj_blocks",
            hole,
            false,
            "gate_up_proj_blocks): 70 kB of 98 kB in a row are 0, as in an unfinished download",
        ),
        ("model.layers.0.self_attn.q_proj.bias", zero, false, "all values are finite\n"),
    ] {
        let mut tensors = in_layout("hf");
        edit(&mut tensors.get_mut(name).unwrap().2);
        let home = home(&config(), &tensors);
        let scan = run(&["inspect", text(&home.checkpoint()), "--scan"]);
        assert_contains(&String::from_utf8(scan.stdout).unwrap(), lines);
        assert_eq!(scan.status.success(), !is_damaged, "{name}");
    }
}

#[test]
fn counts_bytes_that_cannot_be_in_place() {
    for (layout, in_place) in [("hf", true), ("bf16", true), ("split", false), ("linears", false)] {
        let home = in_folder(layout);
        let report = inspect(&home.checkpoint(), &[]);
        let mut totals = report["totals"].as_array().unwrap().iter();
        let experts = &totals.find(|total| total["kind"] == "experts").unwrap()["bytes"];
        let expected = if in_place { &json!(0) } else { experts };
        assert_eq!(&report["bytes_to_write"], expected, "{layout}");
        assert_eq!(report["obstacle"].is_null(), in_place);
    }
}

#[test]
fn reports_why_a_target_is_not_supported() {
    for (name, is_supported, line) in [
        ("tiny", true, "ort: supported; needs onnxruntime 1.32"),
        ("tiny-1-kv", false, "ort: not supported: target `ort` does not support a head_dim of 20"),
    ] {
        let report = inspect(&fixture(name), &[]);
        assert!(report["targets"][0]["refused"].is_null());
        assert_eq!(report["targets"][1]["refused"].is_null(), is_supported);
        assert_contains(&printed_report(&fixture(name)), line);
    }
}

#[test]
fn describes_staged_and_other_safetensors_files() {
    let home = in_folder("bf16");
    let (staged, summary) = home.stage("w", &["--experts", "mxfp4"]);
    let report = inspect(&staged, &["--tensors", "*.down.*"]);
    assert_eq!(report["kind"], "weights");
    assert_eq!(report["fingerprint"], summary["fingerprint"]);
    assert_eq!(report["experts"]["origin"], "bf16");
    assert_eq!(report["tensors"].as_array().unwrap().len(), 9);
    assert_contains(&printed_report(&staged), "experts   mxfp4, from bf16, lossless");

    let report = inspect(&home.join("checkpoint/model.safetensors"), &["--tensors", "*.sinks"]);
    assert_eq!(report["kind"], "tensors");
    assert_eq!(report["tensors"].as_array().unwrap().len(), 3);
}

#[test]
fn reports_missing_and_short_data() {
    let home = Home::new();
    let model = copied_model(&home, &[]);
    let weights = data_file(&model);
    assert_contains(&printed_report(&model), "complete, as far as lengths and samples tell");
    let assert_problem = |expected: &str| {
        let report = inspect(&model, &[]);
        let problem = report["files"][0]["problem"].as_str().unwrap();
        assert!(problem.contains(expected) && report["whole"] == false, "{problem}");
        assert_contains(&printed_report(&model), "NOT as the model expects them");
    };
    let original = fs::read(&weights).unwrap();
    for (first, expected) in [
        ("version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not"),
        ("<html>", "it is an HTML page, not the file itself: download it again"),
        ("\x1f\u{8b}", "it has 3 bytes, and the model reads up to"),
    ] {
        fs::write(&weights, first).unwrap();
        assert_problem(expected);
    }
    fs::write(&weights, [&b"\x1f\x8b\x08"[..], &original].concat()).unwrap();
    assert_problem("it is an archive or a compressed file: unpack it");
    fs::write(&weights, original).unwrap();
    resize(&weights, |length| length - 1);
    let short = fs::metadata(&weights).unwrap().len();
    assert_problem(&format!(
        "it has {short} bytes, and the model reads up to {}: restore it, or",
        short + 1
    ));
    #[cfg(unix)]
    {
        let elsewhere = home.join("elsewhere");
        fs::rename(&weights, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &weights).unwrap();
        assert_problem("it is a symbolic link");
        assert_problem("put a copy of the file there, or export again");
    }
    fs::remove_file(&weights).unwrap();
    assert_problem("it does not exist: restore it, or export again");
    fs::create_dir(&weights).unwrap();
    assert_problem("it is not a regular file: restore it, or export again");
}

/// A model in place whose source is replaced by a fine-tune of equal header and size.
#[test]
fn reports_exchanged_data() {
    let home = Home::with("tiny");
    let source = home.join("checkpoint/model.safetensors");
    let (model, _) = home.export("m", &[]);
    let problem = || inspect(&model, &[])["files"][0]["problem"].clone();
    assert_eq!(problem(), Value::Null);
    let released = fs::read(&source).unwrap();
    let mut tuned = released.clone();
    *tuned.last_mut().unwrap() ^= 0x80;
    fs::write(&source, tuned).unwrap();
    assert_eq!(problem(), "it was changed since the export: restore it, or export again");
    let expected = "m.onnx` is not what it expects: `checkpoint/model.safetensors`: it was changed since the export: restore it, or export again";
    assert_contains(&failure(&["inspect", text(&model)]), expected);
    assert_eq!(inspect(&model, &[])["whole"], false);
    fs::write(&source, released).unwrap();
    assert_eq!(problem(), Value::Null);
    // Opening a FIFO would block.
    #[cfg(unix)]
    {
        fs::remove_file(&source).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&source).status().unwrap().success());
        assert_eq!(problem(), "it is not a regular file: restore it, or export again");
    }
}

#[test]
fn refuses_other_files() {
    let home = Home::new();
    for (name, text, expected) in [
        ("a.txt", "", "is not a checkpoint folder, a .safetensors, .onnx or .onnx_adapter file"),
        ("a.gguf", "", "is GGUF, llama.cpp's format: use"),
        ("empty.onnx", "", "is not an ONNX model, or is truncated (it has no graph): export again"),
        (
            "text.onnx",
            "hello, this is text",
            "text.onnx` is a text that begins \"hello, this is text\", not the file itself",
        ),
        (
            "lfs.onnx",
            "version https://git-lfs.github.com/spec/v1",
            "lfs.onnx` is a Git LFS pointer, not the file itself: run `git lfs pull`",
        ),
        ("page.onnx", "<!DOCTYPE html>", "page.onnx` is an HTML page, not the file itself"),
        ("a.onnx", "\x1f\u{8}", "is not an ONNX model, or is truncated (failed to decode"),
        ("a.safetensors", "{}", "has 2 bytes, too few for a SafeTensors file"),
    ] {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        assert_contains(&failure(&["inspect", path.to_str().unwrap()]), expected);
    }
    for (path, hub) in [
        ("no/where/at/all", false),
        ("no/where.safetensors", false),
        ("no/where", true),
        ("hf:no/where", true),
        ("https://huggingface.co/no/where", true),
    ] {
        let sentence = failure(&["inspect", path]);
        assert_starts(&sentence, &format!("there is nothing at `{path}`"));
        assert_eq!(
            sentence.contains("only an export reads repositories on the hub"),
            hub,
            "{sentence}"
        );
    }
    let stage = home.join("m.stage-1-of-2.onnx");
    fs::write(&stage, "").unwrap();
    let hint = format!(" (did you mean `{}`, of a model in stages?)", stage.display());
    for (model, hint) in [("none.onnx", ""), ("no/where.onnx", ""), ("m.onnx", &hint)] {
        let model = home.join(model);
        let expected = format!("there is no file `{}`{hint}", model.display());
        assert_eq!(failure(&["inspect", text(&model)]), expected);
    }
    let meant = Home::with("tiny");
    let sentence = failure(&["inspect", text(&meant.join("chekpoint"))]);
    assert_contains(&sentence, &format!("(did you mean `{}`?)", text(&meant.checkpoint())));
}

#[test]
fn describes_20b() {
    let home = Home::new();
    let total = crate::sizes::sparse(&home, 24, 32, 1);
    let report = inspect(&home, &[]);
    assert_eq!((&report["bytes"], &report["bytes_to_write"]), (&json!(total), &json!(0)));
    let printed = printed_report(&home);
    for line in [
        "24 layers, hidden size 2,880, vocabulary 201,088\n",
        "experts   32 of size 2,880, 4 for each token",
        "window 128 in 12 of 24",
    ] {
        assert_contains(&printed, line);
    }
}

/// Values of an adapter that are damaged, in its folder and in its file.
#[test]
fn inspect_scans_adapters() {
    let home = copied("attention");
    let (folder, file) = (home.join("adapter"), home.join("adapter").join(WEIGHTS));
    let scan = |path: &Path| run(&["inspect", "--scan", text(path)]);
    for path in [&folder, &file] {
        let output = scan(path);
        assert!(output.status.success(), "{output:?}");
        assert_contains(&String::from_utf8(output.stdout).unwrap(), "all values are finite\n");
        let next = format!("next     `inspect --scan {}` reads every value\n", text(path));
        assert_contains(&words(&printed_report(path)).join(" "), words(&next).join(" ").as_str());
    }
    for (values, count) in [(f32::NAN, 1), (f32::INFINITY, 1), (0.0, 0)] {
        edit_tensors(&home, |tensors| {
            let (name, (_, _, data)) =
                tensors.iter_mut().find(|(name, _)| name.contains("v_proj")).unwrap();
            assert!(name.contains("layers.0"));
            data.as_chunks_mut().0[0] = values.to_le_bytes();
        });
        for path in [&folder, &file] {
            let output = scan(path);
            assert_eq!(output.status.success(), count == 0);
            let printed = String::from_utf8(output.stdout).unwrap();
            assert_eq!(
                printed.contains("layers.0.self_attn.v_proj.lora_A.weight: 1 of "),
                count == 1,
                "{printed}"
            );
        }
    }
}

/// The folder of a model is described as its model.
#[test]
fn inspect_describes_folders_of_models() {
    let home = Home::with("trained");
    let copied = ["--external-data", "copy"];
    home.export("out/m", &copied);
    home.export("web/onnx/model", &["--transformers-js"]);
    let path = |folder: &str| inspect(&home.join(folder), &[])["path"].clone();
    let below = |names: &str| json!(names.split('/').fold(home.to_owned(), |dir, it| dir.join(it)));
    assert_eq!(path("out"), below("out/m.onnx"));
    assert_eq!(path("web"), below("web/onnx/model.onnx"));
    // A checkpoint with a model in it, and several models.
    home.export("checkpoint/m", &[]);
    assert_eq!(path("checkpoint"), json!(home.checkpoint()));
    home.export("out/n", &copied);
    assert_contains(&failure(&["inspect", text(&home.join("out"))]), "holds no config.json");
}

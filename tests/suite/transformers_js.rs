//! Packages for transformers.js.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{contents, copy_folder, export, failure, fixture, javascript, npy, text};

const WEBGPU: [&str; 6] = ["--target", "ort", "--ep", "webgpu", "--experts", "int4"];

/// The arguments of an export for transformers.js.
fn package<'a>(checkpoint: &'a Path, model: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    let base = ["--checkpoint", text(checkpoint), "--output", text(model), "--transformers-js"];
    [&base, options].concat()
}

#[test]
fn writes_repository_with_data_config_and_tokenizer() {
    let home = tempfile::tempdir().unwrap();
    let (tiny, root) = (home.path().join("tiny"), home.path().join("web"));
    copy_folder(&fixture("tiny-hf"), &tiny);
    fs::write(tiny.join("tokenizer.json"), "{}").unwrap();
    let model = root.join("onnx/model_q4f16.onnx");
    let before = contents(&tiny);
    let small = ["--max-shard-size", "300kB"];
    let summary = export(&package(&tiny, &model, &[&WEBGPU[..], &small].concat()));
    assert!(contents(&tiny) == before);
    let found = &summary["transformers_js"];
    assert_eq!((&found["dtype"], &found["device"]), (&json!("q4f16"), &json!("webgpu")));
    assert_eq!(found["copied"], json!([root.join("tokenizer.json")]));

    let config: Value =
        serde_json::from_slice(&fs::read(root.join("config.json")).unwrap()).unwrap();
    let settings = &config["transformers.js_config"];
    let count = settings["use_external_data_format"]["model_q4f16.onnx"].as_u64().unwrap();
    assert!(count > 1 && config["model_type"] == "gpt_oss");
    assert_eq!(settings["kv_cache_dtype"]["q4f16"], "float16");
    let mut expected = vec![model.clone()];
    for at in 0..count {
        let number = if at == 0 { String::new() } else { format!("_{at}") };
        let data = root.join(format!("onnx/model_q4f16.onnx_data{number}"));
        assert!(fs::metadata(&data).unwrap().len() <= 300_000, "{}", data.display());
        expected.push(data);
    }
    expected.sort();
    let names: Vec<_> = contents(&root.join("onnx")).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, expected);
    // The config is still one of a checkpoint.
    fs::copy(root.join("config.json"), tiny.join("config.json")).unwrap();
    export(&["--checkpoint", text(&tiny), "--output", text(&home.path().join("again.onnx"))]);
}

/// In Node.js on a CPU: two rows at once, past the sliding window.
#[test]
fn generates_as_reference_does() {
    let home = tempfile::tempdir().unwrap();
    export(&package(&fixture("tiny-hf"), &home.path().join("web/onnx/model.onnx"), &[]));
    let texts = fixture("reference/greedy-2x28.ids.npy");
    let texts = npy(&texts, i64::from_le_bytes);
    let rows = |width: usize| -> Vec<Vec<i64>> {
        texts.outer_iter().map(|row| row.iter().copied().take(width).collect()).collect()
    };
    let program = include_str!("../javascript/generate.mjs");
    let prompts = json!(rows(12)).to_string();
    let printed = javascript(program, &["web", &prompts, "16"], home.path());
    let found: Vec<Vec<i64>> = serde_json::from_str(&printed).unwrap();
    assert_eq!(found, rows(28));
}

#[test]
fn refuses_what_transformers_js_cannot_use() {
    let home = tempfile::tempdir().unwrap();
    let tiny = home.path().join("tiny");
    copy_folder(&fixture("tiny-hf"), &tiny);
    let before = contents(home.path());
    for (output, options, sentence) in [
        ("tiny/onnx/model.onnx", &WEBGPU[..], "tiny/config.json` belongs to a checkpoint"),
        ("web/model.onnx", &WEBGPU, "web/model.onnx`; pass --output "),
        ("onnx/mine.onnx", &WEBGPU, "looks for `model.onnx` or `model_DTYPE.onnx`"),
        ("onnx/model.onnx", &["--target", "ort"], "`cpu`; pass --ep webgpu or --target onnx"),
        ("onnx/model.onnx", &["--max-shard-size", "3GB"], "; pass --max-shard-size 2GB"),
        ("onnx/model.onnx", &["--compute", "bf16"], "; pass --compute f16 or --compute f32"),
        ("onnx/model.onnx", &["--seq-len", "8"], "the sequence length cannot be fixed"),
    ] {
        let found = failure(&package(&tiny, &home.path().join(output), options));
        assert!(found.contains(sentence), "{found}\nlacks: {sentence}");
        assert!(contents(home.path()) == before, "{found}");
    }
}

/// Whichever way the checkpoint's folder is named.
#[test]
fn keeps_config_of_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    let (root, tiny) = (home.path().join("root"), home.path().join("tiny"));
    let (original, staged) = (root.join("original"), tiny.join("w.safetensors"));
    copy_folder(&fixture("tiny"), &original);
    fs::copy(fixture("tiny-hf/config.json"), root.join("config.json")).unwrap();
    copy_folder(&fixture("tiny-hf"), &tiny);
    export(&["--checkpoint", text(&tiny), "--save-weights", text(&staged), "--skip-onnx"]);
    let before = contents(home.path());
    for (origin, path, output) in [
        ("--checkpoint", &original, root.join("onnx/model.onnx")),
        ("--weights", &staged, tiny.join("onnx/model.onnx")),
    ] {
        let found = failure(&[origin, text(path), "--output", text(&output), "--transformers-js"]);
        assert!(found.contains("config.json` belongs to a checkpoint"), "{found}");
        assert!(contents(home.path()) == before);
    }
}

#[test]
fn refuses_config_of_another_model() {
    let home = tempfile::tempdir().unwrap();
    let (tiny, path) = (fixture("tiny-hf"), home.path().join("config.json"));
    let config = fs::read_to_string(tiny.join("config.json")).unwrap();
    fs::write(&path, config.replace("\"head_dim\": 32", "\"head_dim\": 64")).unwrap();
    let found = failure(&package(&tiny, &home.path().join("onnx/model.onnx"), &[]));
    assert!(found.ends_with("its `head_dim` is 64, and the weights have 32"), "{found}");
}

#[test]
fn finds_repository_from_relative_path() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("onnx")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"))
        .args(package(&fixture("tiny-hf"), Path::new("model.onnx"), &["--layers", "2"]))
        .current_dir(home.path().join("onnx"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let config = fs::read(home.path().join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["num_hidden_layers"], 2);
    assert_eq!(config["layer_types"].as_array().unwrap().len(), 2);
}

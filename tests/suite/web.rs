//! Repositories that transformers.js opens.

use std::fs;

use serde_json::{Value, json};

use crate::support::{contents, copy_folder, export, failure, fixture, javascript, npy, text};

const WEB: [&str; 6] = ["--target", "ort", "--ep", "webgpu", "--experts", "int4"];

#[test]
fn a_repository_has_data_config_and_tokenizer_where_they_are_looked_for() {
    let home = tempfile::tempdir().unwrap();
    let tiny = home.path().join("tiny");
    copy_folder(&fixture("tiny-hf"), &tiny);
    fs::write(tiny.join("tokenizer.json"), "{}").unwrap();
    let model = home.path().join("web/onnx/model_q4f16.onnx");
    let base = ["--checkpoint", text(&tiny), "--output", text(&model), "--transformers-js"];
    let small = ["--max-shard-size", "300kB"];
    let before = contents(&tiny);
    let summary = export(&[&base[..], &WEB, &small].concat());
    assert!(contents(&tiny) == before);
    let config: Value =
        serde_json::from_slice(&fs::read(home.path().join("web/config.json")).unwrap()).unwrap();
    let own = &config["transformers.js_config"];
    let count = own["use_external_data_format"]["model_q4f16.onnx"].as_u64().unwrap();
    assert_eq!(
        (&own["kv_cache_dtype"]["q4f16"], &config["model_type"]),
        (&json!("float16"), &json!("gpt_oss"))
    );
    let mut names: Vec<String> = fs::read_dir(home.path().join("web/onnx"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let data = (0..count).map(|at| match at {
        0 => "model_q4f16.onnx_data".to_owned(),
        _ => format!("model_q4f16.onnx_data_{at}"),
    });
    let mut expected: Vec<String> = data.chain(["model_q4f16.onnx".to_owned()]).collect();
    expected.sort();
    assert!(count > 1);
    assert_eq!(names, expected);
    for name in &names {
        let bytes = fs::metadata(home.path().join("web/onnx").join(name)).unwrap().len();
        assert!(!name.contains("_data") || bytes <= 300_000, "{name}: {bytes}");
    }
    assert!(home.path().join("web/tokenizer.json").exists());
    assert_eq!(summary["transformers_js"]["dtype"], "q4f16");
    // A checkpoint with such a config is one like any other.
    fs::copy(home.path().join("web/config.json"), tiny.join("config.json")).unwrap();
    export(&["--checkpoint", text(&tiny), "--output", text(&home.path().join("again.onnx"))]);
}

/// In Node on a CPU, two rows at once, past the sliding window.
#[test]
fn transformers_js_generates_what_the_reference_does() {
    let home = tempfile::tempdir().unwrap();
    let (tiny, model) = (fixture("tiny-hf"), home.path().join("web/onnx/model.onnx"));
    export(&["--checkpoint", text(&tiny), "--output", text(&model), "--transformers-js"]);
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
fn what_would_not_be_found_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let tiny = home.path().join("tiny");
    copy_folder(&fixture("tiny-hf"), &tiny);
    let before = contents(home.path());
    for (output, options, sentence) in [
        ("tiny/onnx/model.onnx", &WEB[..], "which is the checkpoint's own: take another folder"),
        ("web/model.onnx", &WEB, "wants the model in a folder called onnx"),
        ("onnx/mine.onnx", &WEB, "looks for `model.onnx` or `model_DTYPE.onnx`"),
        ("onnx/model.onnx", &["--target", "ort"], "use --ep webgpu, or --target onnx"),
        ("onnx/model.onnx", &["--max-shard-size", "3GB"], "takes files of at most 2.00 GB"),
        ("onnx/model.onnx", &["--compute", "bf16"], "has no tensors in bf16"),
        ("onnx/model.onnx", &["--seq-len", "8"], "gives texts of any length"),
    ] {
        let output = home.path().join(output);
        let base = ["--checkpoint", text(&tiny), "--output", text(&output), "--transformers-js"];
        let found = failure(&[&base[..], options].concat());
        assert!(found.contains(sentence), "{found}\nlacks: {sentence}");
        assert!(contents(home.path()) == before, "{found}");
    }
}

/// The checkpoint's own config is not changed, whichever way the folder is named.
#[test]
fn a_checkpoint_is_no_repository_to_write_into() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    copy_folder(&fixture("tiny"), &root.join("original"));
    fs::copy(fixture("tiny-hf/config.json"), root.join("config.json")).unwrap();
    let staged = home.path().join("tiny/w.safetensors");
    copy_folder(&fixture("tiny-hf"), &home.path().join("tiny"));
    export(&[
        "--checkpoint",
        text(&fixture("tiny-hf")),
        "--save-weights",
        text(&staged),
        "--skip-onnx",
    ]);
    let before = contents(home.path());
    for (origin, path, output) in [
        ("--checkpoint", root.join("original"), "root/onnx/model.onnx"),
        ("--weights", staged.clone(), "tiny/onnx/model.onnx"),
    ] {
        let output = home.path().join(output);
        let found = failure(&[origin, text(&path), "--output", text(&output), "--transformers-js"]);
        assert!(found.contains("which is the checkpoint's own"), "{found}");
        assert!(contents(home.path()) == before);
    }
    // Another model's config is none of this one's.
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    let config = fs::read_to_string(fixture("tiny-hf/config.json")).unwrap();
    assert!(config.contains("\"head_dim\": 32"));
    fs::write(other.join("config.json"), config.replace("\"head_dim\": 32", "\"head_dim\": 64"))
        .unwrap();
    let model = other.join("onnx/model.onnx");
    let tiny = fixture("tiny-hf");
    let base = ["--checkpoint", text(&tiny), "--output", text(&model)];
    let found = failure(&[&base[..], &["--transformers-js"]].concat());
    assert!(found.ends_with("its `head_dim` is 64, and the weights have 32"), "{found}");
    // A folder may be the one where one is.
    fs::remove_file(other.join("config.json")).unwrap();
    fs::create_dir(other.join("onnx")).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"))
        .args([
            "--checkpoint",
            text(&fixture("tiny-hf")),
            "--output",
            "model.onnx",
            "--transformers-js",
            "--quiet",
        ])
        .args(["--layers", "2"])
        .current_dir(other.join("onnx"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written: Value =
        serde_json::from_slice(&fs::read(other.join("config.json")).unwrap()).unwrap();
    assert_eq!(written["num_hidden_layers"], 2);
}

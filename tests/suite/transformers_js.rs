//! Folders for transformers.js.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    assert_contains, binary, contents, copy_folder, export, export_args, failure, fixture,
    folder_with_checkpoint, printed, stage_args, staged_args,
};

const WEBGPU: [&str; 6] = ["--target", "ort", "--ep", "webgpu", "--experts", "int4"];

/// The arguments of an export for transformers.js.
fn package<'a>(checkpoint: &'a Path, model: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    export_args(checkpoint, model, &[&["--transformers-js"], options].concat())
}

fn read_config(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn writes_folder_with_data_config_and_tokenizer() {
    let home = folder_with_checkpoint("tiny-hf");
    let (tiny, root) = (home.path().join("checkpoint"), home.path().join("web"));
    fs::write(tiny.join("tokenizer.json"), "{}").unwrap();
    let model = root.join("onnx/model_q4f16.onnx");
    let before = contents(&tiny);
    let small = ["--max-shard-size", "300kB"];
    let summary = export(&package(&tiny, &model, &[&WEBGPU[..], &small].concat()));
    assert!(contents(&tiny) == before);
    let found = &summary["transformers_js"];
    assert_eq!((&found["dtype"], &found["device"]), (&json!("q4f16"), &json!("webgpu")));
    assert_eq!(found["copied"], json!([root.join("tokenizer.json")]));

    let config = read_config(&root.join("config.json"));
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
    // The config is still that of a checkpoint.
    fs::copy(root.join("config.json"), tiny.join("config.json")).unwrap();
    export(&export_args(&tiny, &home.path().join("again.onnx"), &[]));
}

#[test]
fn refuses_what_transformers_js_cannot_use() {
    let home = folder_with_checkpoint("tiny-hf");
    let tiny = home.path().join("checkpoint");
    let before = contents(home.path());
    for (output, options, sentence) in [
        ("checkpoint/onnx/model.onnx", &WEBGPU[..], "config.json` belongs to a checkpoint"),
        ("web/model.onnx", &WEBGPU, "web/model.onnx`; pass --output "),
        ("onnx/mine.onnx", &WEBGPU, "looks for `model.onnx` or `model_DTYPE.onnx`"),
        ("web/mine.onnx", &WEBGPU, "looks for `model.onnx` or `model_DTYPE.onnx`"),
        ("onnx/model.onnx", &["--target", "ort"], "`cpu`; pass --ep webgpu or --target onnx"),
        ("onnx/model.onnx", &["--max-shard-size", "3GB"], "; pass --max-shard-size 2GB"),
        ("onnx/model.onnx", &["--compute", "bf16"], "; pass --compute f16 or --compute f32"),
        ("onnx/model.onnx", &["--seq-len", "8"], "the sequence length cannot be fixed"),
        (
            "onnx/model.onnx",
            &["--external-data", "in-place"],
            "transformers.js reads copies of the weights, and with external data in place nothing is copied; pass --external-data copy",
        ),
    ] {
        let found = failure(&package(&tiny, &home.path().join(output), options));
        assert!(found.contains(sentence), "{found}\nlacks: {sentence}");
        assert!(contents(home.path()) == before, "{found}");
    }
    let model = home.path().join("onnx/model_q4f16.onnx");
    let staging = ["--for", "transformers-js", "--save-weights", "w.safetensors"];
    let expected = "transformers.js reads copies of the weights, and the same export cannot stage them: stage the weights first, then export from the staged file";
    assert_eq!(failure(&export_args(&tiny, &model, &staging)), expected);
}

#[test]
fn refuses_to_replace_config_of_checkpoint() {
    let home = folder_with_checkpoint("tiny-hf");
    let [root, tiny] = ["root", "checkpoint"].map(|name| home.path().join(name));
    let (original, staged) = (root.join("original"), tiny.join("w.safetensors"));
    copy_folder(&fixture("tiny"), &original);
    fs::copy(fixture("tiny-hf/config.json"), root.join("config.json")).unwrap();
    export(&stage_args(&tiny, &staged, &[]));
    let before = contents(home.path());
    let [in_root, in_tiny] = [&root, &tiny].map(|folder| folder.join("onnx/model.onnx"));
    for arguments in
        [package(&original, &in_root, &[]), staged_args(&staged, &in_tiny, &["--transformers-js"])]
    {
        assert_contains(&failure(&arguments), "config.json` belongs to a checkpoint");
        assert!(contents(home.path()) == before);
    }
}

#[test]
fn writes_config_above_relative_path() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("onnx")).unwrap();
    let tiny = fixture("tiny-hf");
    let mut command = binary(&package(&tiny, Path::new("model.onnx"), &["--layers", "2"]));
    printed(command.current_dir(home.path().join("onnx")));
    let config = read_config(&home.path().join("config.json"));
    assert_eq!(config["num_hidden_layers"], 2);
    assert_eq!(config["layer_types"].as_array().unwrap().len(), 2);
}

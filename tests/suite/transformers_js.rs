//! Folders for transformers.js.

use std::fs;
use std::path::{Path, PathBuf};

use crate::layout_fixtures::{Tensors, config, home, in_layout};
use crate::support::{
    Home, assert_contains, assert_ends, binary, cases, contents, copy_folder, export, export_args,
    failure, fixture, paths, portable, printed, read_json, staged_args, text, words,
};
use safetensors::Dtype;
use serde_json::json;

#[test]
fn writes_folder_with_data_config_and_tokenizer() {
    let home = Home::with("tiny-hf");
    let (tiny, root) = (home.checkpoint(), home.join("web"));
    fs::write(tiny.join("tokenizer.json"), r#"{"model": {"vocab": {"a": 0}}}"#).unwrap();
    let before = contents(&tiny);
    let options =
        "--target ort --ep webgpu --experts int4 --transformers-js --max-shard-size 300kB";
    let (model, summary) = home.export("web/onnx/model_q4f16", &words(options));
    assert!(contents(&tiny) == before);
    let found = &summary["transformers_js"];
    assert_eq!((&found["dtype"], &found["device"]), (&json!("q4f16"), &json!("webgpu")));
    assert_eq!(found["copied"], json!([root.join("tokenizer.json")]));
    let stored = export(&["inspect", text(&model)])["totals"].as_array().unwrap().clone();
    assert!(stored.iter().all(|it| it["dtype"] != "BF16"), "{stored:?}");
    // Products in F16 round as the conversion does.
    assert_eq!(summary["dense"]["format"], "f16");
    let wide = "--target ort --ep webgpu --experts int4 --transformers-js --compute f32";
    let (_, summary) = home.export("wide/onnx/model_q4", &words(wide));
    let dense = &summary["dense"];
    assert_eq!((&dense["format"], &dense["rounded"]), (&json!("f32"), &json!(0)));

    let config = read_json(&root.join("config.json"));
    let settings = &config["transformers.js_config"];
    let count = settings["use_external_data_format"]["model_q4f16.onnx"].as_u64().unwrap();
    assert!(count > 1 && config["model_type"] == "gpt_oss");
    assert_eq!(settings["kv_cache_dtype"]["q4f16"], "float16");
    let mut expected = vec![model];
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
    home.export("again", &[]);
}

#[test]
fn bf16_is_mentioned_only_where_it_was_replaced() {
    let mut tensors = in_layout("hf");
    let summary = |tensors: &Tensors| {
        home(&config(), tensors).printed_summary("onnx/model", &["--transformers-js"])
    };
    assert_contains(&summary(&tensors), "browsers have no BF16");
    for (dtype, _, data) in tensors.values_mut().filter(|(dtype, ..)| *dtype == Dtype::BF16) {
        *dtype = Dtype::F32;
        *data = data.chunks(2).flat_map(|high| [0, 0, high[0], high[1]]).collect();
    }
    let found = summary(&tensors);
    assert!(!found.contains("BF16"), "{found}");
}

#[test]
fn refuses_what_transformers_js_cannot_use() {
    let home = Home::with("tiny-hf");
    let table = "checkpoint/onnx/model | --target ort --ep webgpu --experts int4 | config.json` belongs to a checkpoint
        web/model | --target ort --ep webgpu --experts int4 | web/model.onnx`; pass --output HOME/web/onnx/model.onnx
        web/mine | --target ort --ep webgpu --experts int4 | looks for `model.onnx` or `model_DTYPE.onnx`
        onnx/mine | --target ort --ep webgpu --experts int4 | found `mine.onnx`; pass --output HOME/onnx/model_q4f16.onnx
        onnx/model | --target ort | `cpu`; pass --ep webgpu or --target onnx
        onnx/model | --max-shard-size 3GB | ; pass --max-shard-size 2GB
        onnx/model | --compute bf16 | ; pass --compute f16 or --compute f32
        onnx/model | --seq-len 8 | the sequence length cannot be fixed
        onnx/model | --external-data in-place | transformers.js reads copies of the weights, and with external data in place nothing is copied; pass --external-data copy";
    for [output, options, sentence] in cases(table) {
        let options = [&["--transformers-js"], &words(options)[..]].concat();
        let found = home.refusal(output, &options).replace(text(&home), "HOME");
        assert_contains(&found, sentence);
    }
    let staging = ["--for", "transformers-js", "--save-weights", "w.safetensors"];
    let expected = "transformers.js reads copies of the weights, and the same export cannot stage them: stage the weights first, then export from the staged file";
    assert_eq!(home.refusal("onnx/model_q4f16", &staging), expected);
}

#[test]
fn refuses_to_replace_config_of_checkpoint() {
    let home = Home::with("tiny-hf");
    let (original, root) = (home.join("root/original"), home.join("root"));
    copy_folder(&fixture("tiny"), &original);
    fs::copy(fixture("tiny-hf/config.json"), root.join("config.json")).unwrap();
    let (staged, _) = home.stage("checkpoint/w", &[]);
    let before = contents(&home);
    let [in_root, in_tiny] = [root, home.checkpoint()].map(|it| it.join("onnx/model.onnx"));
    let option = ["--transformers-js"];
    for arguments in
        [export_args(&original, &in_root, &option), staged_args(&staged, &in_tiny, &option)]
    {
        assert_contains(&failure(&arguments), "config.json` belongs to a checkpoint");
        assert!(contents(&home) == before);
    }
}

#[test]
fn writes_config_above_relative_path() {
    let (home, tiny) = (Home::new(), fixture("tiny-hf"));
    fs::create_dir(home.join("onnx")).unwrap();
    let options = ["--transformers-js", "--layers", "2"];
    let mut command = binary(&export_args(&tiny, Path::new("model.onnx"), &options));
    printed(command.current_dir(home.join("onnx")));
    let config = read_json(&home.join("config.json"));
    assert_eq!(config["num_hidden_layers"], 2);
    assert_eq!(config["layer_types"].as_array().unwrap().len(), 2);
}

#[test]
fn keeps_entries_of_other_models() {
    let home = Home::with("tiny-hf");
    let (folder, path) = (home.join("web/onnx"), home.join("web/config.json"));
    fs::create_dir_all(&folder).unwrap();
    // The config, and the number of the model's data files.
    let export = |name: &str, compute: &str, size: &str| {
        let options = ["--transformers-js", "--compute", compute, "--max-shard-size", size];
        let data = format!("{}_data", text(&home.export(&format!("web/onnx/{name}"), &options).0));
        let is_data = |path: &&PathBuf| portable(text(path)).starts_with(&portable(&data));
        let files = paths(&folder).iter().filter(is_data).count();
        (read_json(&path), files)
    };
    fs::write(&path, r#"{"model_type": "x", "transformers.js_config": {"dtype": "q4"}}"#).unwrap();
    let (_, once) = export("model_q4f16", "f16", "130kB");
    let (found, twice) = export("model", "f32", "300kB");
    let expected = json!({"model_type": "x", "num_hidden_layers": 3, "transformers.js_config": {
        "dtype": "q4",
        "use_external_data_format": {"model_q4f16.onnx": once, "model.onnx": twice},
        "kv_cache_dtype": {"q4f16": "float16", "fp32": "float32"},
    }});
    assert!(found == expected && once > twice, "{found}");

    let all = json!({"model_type": "x", "transformers.js_config": {"use_external_data_format": 3}});
    fs::write(&path, all.to_string()).unwrap();
    let (found, count) = export("model_quantized", "f32", "130kB");
    let files = &found["transformers.js_config"]["use_external_data_format"];
    assert_eq!([&files["model_quantized.onnx"], &files["model_fp16.onnx"]], [count, 3]);
}

#[test]
fn refuses_config_of_another_model() {
    let home = Home::with("tiny-hf");
    fs::create_dir(home.join("web")).unwrap();
    for (keys, reason) in [
        (r#""a": 1, "a": 1"#, "duplicate key \"a\" at line 1 column 35"),
        (r#""transformers.js_config": 1"#, "`transformers.js_config` is not a JSON object"),
        (r#""head_dim": 64"#, "its `head_dim` is 64, and the weights have 32"),
    ] {
        let config = format!(r#"{{"model_type": "x", {keys}}}"#);
        fs::write(home.join("web/config.json"), config).unwrap();
        let sentence = home.refusal("web/onnx/model", &["--transformers-js"]);
        assert_ends(&sentence, &format!("of this model: {reason}"));
    }
}

//! Packages for onnxruntime-genai.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::sizes::sparse;
use crate::support::{
    contents, copy_folder, export, failure, fixture, folder_with_tiny, python, reference, run, text,
};

/// Special tokens that the references never generate.
fn generation() -> String {
    json!({"bos_token_id": 316, "eos_token_id": [317, 318], "pad_token_id": 319}).to_string()
}

/// A folder with the checkpoint `tiny` and its tokenizer.
pub fn with_tokenizer() -> tempfile::TempDir {
    let home = folder_with_tiny();
    let folder = home.path().join("tiny");
    fs::write(folder.join("generation_config.json"), generation()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let class = json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages[0].content }}"});
    fs::write(folder.join("tokenizer_config.json"), class.to_string()).unwrap();
    home
}

/// One token for each byte, as byte-level BPE spells them, and one merge.
fn tokenizer() -> Value {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let spelled = (0..256u32).map(|byte| {
        let spelling = if printable(&byte) { byte } else { others.next().unwrap() };
        (char::from_u32(spelling).unwrap().to_string(), byte)
    });
    let mut vocabulary: BTreeMap<String, u32> = spelled.collect();
    vocabulary.insert("ab".to_owned(), 256);
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "added_tokens": [special(316, "<|begin|>"), special(317, "<|end|>"), special(319, "<|pad|>")],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": ["a b"]},
    })
}

/// The arguments of an export for onnxruntime-genai.
fn package<'a>(checkpoint: &'a Path, model: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["--checkpoint", text(checkpoint), "--output", text(model), "--genai"], options].concat()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn generates_as_reference_does() {
    let mut homes = Vec::new();
    for options in [&["--target", "ort"][..], &["--target", "onnx"], &["--functions"]] {
        let home = with_tokenizer();
        let checkpoint = home.path().join("tiny");
        let summary = export(&package(&checkpoint, &checkpoint.join("model.onnx"), options));
        assert_eq!(summary["weights"]["bytes_written"], 0);
        let genai = &summary["genai"];
        assert_eq!(genai["copied"], json!([]), "the tokenizer is in the folder");
        assert_eq!(genai["missing"], json!(["special_tokens_map.json", "chat_template.jinja"]));
        assert_eq!(summary["model"]["outputs"][0]["shape"], json!(["B", 1, 320]));
        homes.push(home);
    }
    let request = json!({
        "folders": homes.iter().map(|home| home.path().join("tiny")).collect::<Vec<_>>(),
        "greedy": fixture("reference/greedy-2x28.ids.npy"),
        "steps": 16,
        "references": [reference("1x300")],
    });
    let errors: Vec<f64> = serde_json::from_value(python("generate.py", &[], &request)).unwrap();
    assert!(errors.len() == 3 && errors.iter().all(|error| *error <= 1e-5), "{errors:?}");
}

/// In batches of one row, onnxruntime-genai processes 512 tokens at once.
#[test]
fn splits_long_prompts() {
    for target in ["ort", "onnx"] {
        let home = with_tokenizer();
        let checkpoint = home.path().join("tiny");
        let options = ["--target", target, "--batch-size", "1"];
        export(&package(&checkpoint, &checkpoint.join("model.onnx"), &options));
        let request = json!({"folders": [checkpoint], "references": [reference("1x4500")]});
        let error = &python("generate.py", &[], &request)[0];
        assert!(error.as_f64().unwrap() <= 1e-4, "{target}: {error}");
    }
}

#[test]
fn copies_tokenizer_byte_for_byte() {
    let home = with_tokenizer();
    let (checkpoint, out) = (home.path().join("tiny"), home.path().join("out"));
    let model = out.join("model.onnx");
    let arguments = package(&checkpoint, &model, &["--target", "ort"]);
    export(&arguments);
    let first = contents(&out);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let [source, copy] = [&checkpoint, &out].map(|folder| fs::read(folder.join(name)).unwrap());
        assert_eq!(source, copy, "{name}");
    }
    assert_eq!(export(&arguments)["genai"]["there"].as_array().unwrap().len(), 3);
    assert_eq!(contents(&out), first);

    fs::write(out.join("tokenizer.json"), "{}").unwrap();
    let before = contents(home.path());
    let sentence = failure(&arguments);
    assert!(sentence.contains("out/tokenizer.json` differs from `"), "{sentence}");
    assert_eq!(contents(home.path()), before);
}

/// The model's folder is searched last.
#[test]
fn finds_tokenizer_beside_staged_weights() {
    let home = with_tokenizer();
    let (checkpoint, stage) = (home.path().join("tiny"), home.path().join("stage/w.safetensors"));
    export(&["--checkpoint", text(&checkpoint), "--save-weights", text(&stage), "--skip-onnx"]);
    let generation_config = home.path().join("stage/generation_config.json");
    let tokens = json!({"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 2});
    fs::write(&generation_config, tokens.to_string()).unwrap();
    let model = home.path().join("out/model.onnx");
    let arguments = ["--weights", text(&stage), "--output", text(&model), "--genai"];
    assert_eq!(export(&arguments)["genai"]["eos_token_ids"], json!([7]));
    fs::rename(&generation_config, home.path().join("moved")).unwrap();
    let genai = &export(&arguments)["genai"];
    assert_eq!(genai["eos_token_ids"], json!([7]), "from the copy");
    assert_eq!(genai["there"], json!(["generation_config.json"]));

    for (name, end) in [
        ("genai_config.json", "` is a folder, expected a file to write"),
        ("tokenizer.json", "` is neither a file nor a link to one"),
    ] {
        let path = home.path().join("out").join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        assert!(failure(&arguments).ends_with(&format!("{name}{end}")));
        fs::remove_dir(&path).unwrap();
    }
}

/// As in OpenAI's repositories.
#[test]
fn finds_tokenizer_above_original() {
    let home = with_tokenizer();
    let (root, original) = (home.path().join("tiny"), home.path().join("tiny/original"));
    copy_folder(&fixture("tiny"), &original);
    fs::remove_file(root.join("model.safetensors")).unwrap();
    for (model, copied, file) in [
        (home.path().join("out/model.onnx"), 3, None),
        (root.join("model.onnx"), 0, Some("original/model.safetensors")),
    ] {
        let summary = export(&package(&original, &model, &["--target", "ort"]));
        assert_eq!(summary["genai"]["copied"].as_array().unwrap().len(), copied);
        assert!(file.is_none_or(|file| summary["weights"]["files"] == json!([file])));
    }
}

#[test]
fn takes_special_tokens_from_config() {
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("out/model.onnx"));
    copy_folder(&fixture("tiny-hf"), &checkpoint);
    let mut config = read_json(&checkpoint.join("config.json"));
    config["bos_token_id"] = 1.into();
    fs::write(checkpoint.join("config.json"), config.to_string()).unwrap();
    let genai = &export(&package(&checkpoint, &model, &[]))["genai"];
    assert_eq!((&genai["eos_token_ids"], &genai["eos_assumed"]), (&json!([2]), &json!(false)));
}

#[test]
fn prints_missing_tokenizer_files() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("model.onnx"));
    fs::write(checkpoint.join("generation_config.json"), generation()).unwrap();
    let summary = String::from_utf8(run(&package(&checkpoint, &model, &[])).stdout).unwrap();
    for line in [
        "genai_config.json\n  max_length 131072 (a cache of 201 MB)\n  eos 317, 318\n",
        "  copied generation_config.json\n",
        "  missing tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja\n",
        "  without the tokenizer's files beside the model, onnxruntime-genai takes tokens, not text\n",
        "try      onnxruntime_genai.Model(\"",
    ] {
        assert!(summary.contains(line), "{summary}\nlacks: {line}");
    }
}

/// Section by section as onnxruntime-genai documents it, with the released
/// models' tokens and a cache of 24 · 2 · 8 · 64 · 4 bytes a token.
#[test]
fn describes_20b() {
    let home = tempfile::tempdir().unwrap();
    sparse(home.path(), 24, 32, 1);
    let model = home.path().join("gpt-oss.onnx");
    let config = || read_json(&home.path().join("genai_config.json"));
    export(&package(home.path(), &model, &["--target", "ort"]));
    let found = config();
    for (key, value) in [
        ("type", json!("gptoss")),
        ("eos_token_id", json!([200_002, 199_999, 200_012])),
        ("bos_token_id", json!(199_998)),
        ("pad_token_id", json!(199_999)),
        ("vocab_size", json!(201_088)),
        ("context_length", json!(131_072)),
    ] {
        assert_eq!(found["model"][key], value, "{key}");
    }
    for (key, value) in [
        ("filename", json!("gpt-oss.onnx")),
        ("num_hidden_layers", json!(24)),
        ("hidden_size", json!(2880)),
        ("num_attention_heads", json!(64)),
        ("num_key_value_heads", json!(8)),
        ("head_size", json!(64)),
        ("sliding_window", json!(null)),
    ] {
        assert_eq!(found["model"]["decoder"][key], value, "{key}");
    }
    assert_eq!(found["search"], json!({"max_length": 8192, "past_present_share_buffer": true}));

    let options = ["--max-length", "131072", "--batch-size", "1"];
    export(&package(home.path(), &model, &options));
    let search =
        json!({"max_length": 131_072, "past_present_share_buffer": false, "chunk_size": 512});
    assert_eq!(config()["search"], search, "standard operators share no buffer");
    let sentence = failure(&package(home.path(), &model, &["--max-length", "131073"]));
    assert_eq!(sentence, "the maximum length is 131073 tokens, and the model's context is 131072");
}

#[test]
fn saturates_cache_of_endless_context() {
    let home = with_tokenizer();
    let checkpoint = home.path().join("tiny");
    let path = checkpoint.join("config.json");
    let mut endless = read_json(&path);
    endless["rope_scaling_factor"] = json!(1.0);
    endless["initial_context_length"] = json!(1e300);
    fs::write(path, endless.to_string()).unwrap();
    let options = ["--max-length", "18446744073709551615"];
    let summary = export(&package(&checkpoint, &checkpoint.join("model.onnx"), &options));
    assert_eq!(summary["genai"]["cache_bytes"], u64::MAX);
}

#[test]
fn keeps_config_of_another_model() {
    let home = with_tokenizer();
    let checkpoint = home.path().join("tiny");
    let [model, other] = ["model.onnx", "other.onnx"].map(|name| checkpoint.join(name));
    let replaced = |model: &Path, options: &[&str]| {
        export(&package(&checkpoint, model, options))["genai"]["replaced"] == true
    };
    assert!(!replaced(&model, &[]));
    assert!(!replaced(&model, &[]), "it is the same");
    assert!(replaced(&model, &["--max-length", "99"]));
    let before = contents(home.path());
    let sentence = failure(&package(&checkpoint, &other, &[]));
    assert!(sentence.contains("describes another model, `model.onnx`, and"), "{sentence}");
    assert_eq!(contents(home.path()), before);
    fs::remove_file(model).unwrap();
    assert!(replaced(&other, &[]));
}

#[test]
fn takes_sampling_parameters_from_generation_config() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("tiny/model.onnx"));
    let file = checkpoint.join("generation_config.json");
    let keys = json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "do_sample": true,
                      "top_p": 0.9, "temperature": null, "transformers_version": "5"});
    fs::write(&file, keys.to_string()).unwrap();
    export(&package(&checkpoint, &model, &["--max-length", "77", "--target", "ort"]));
    let config = read_json(&checkpoint.join("genai_config.json"));
    let search = json!({"do_sample": true, "top_p": 0.9, "max_length": 77, "past_present_share_buffer": true});
    assert_eq!((&config["search"], &config["model"]["eos_token_id"]), (&search, &json!([2])));

    let before = contents(home.path());
    let sentence = failure(&package(&checkpoint, &model, &["--seq-len", "4"]));
    assert!(sentence.ends_with("the sequence length cannot be fixed"), "{sentence}");
    fs::write(&file, r#"{"eos_token_id": 320}"#).unwrap();
    let sentence = failure(&package(&checkpoint, &model, &[]));
    assert!(sentence.ends_with("key `eos_token_id` must be a token of the vocabulary, found 320"));
    fs::write(&file, keys.to_string()).unwrap();
    assert_eq!(contents(home.path()), before);
}

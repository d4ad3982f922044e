//! Packages for onnxruntime-genai.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::sizes::sparse;
use crate::support::{
    binary, contents, copy_folder, export, export_args, failure, fixture, folder_with_tiny,
    printed, stage_args, staged_args,
};

/// Special tokens that the references never generate.
fn generation() -> String {
    json!({"bos_token_id": 316, "eos_token_id": [317, 318], "pad_token_id": 319}).to_string()
}

/// A folder with the checkpoint `tiny` and its tokenizer.
pub fn with_tokenizer() -> TempDir {
    let home = folder_with_tiny();
    let folder = home.path().join("tiny");
    fs::write(folder.join("generation_config.json"), generation()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let class = json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages[0].content }}"});
    fs::write(folder.join("tokenizer_config.json"), class.to_string()).unwrap();
    home
}

/// A token for each byte in the spelling of byte-level BPE, and one merge.
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

/// Arguments that export a checkpoint for onnxruntime-genai.
pub fn package_args<'a>(
    checkpoint: &'a Path,
    model: &'a Path,
    options: &[&'a str],
) -> Vec<&'a str> {
    export_args(checkpoint, model, &[&["--genai"], options].concat())
}

/// Exports a checkpoint for onnxruntime-genai: the part of the summary about it.
fn package(checkpoint: &Path, model: &Path, options: &[&str]) -> Value {
    export(&package_args(checkpoint, model, options))["genai"].clone()
}

/// The sentence that refuses to, which changes nothing in a folder.
fn refusal(home: &Path, checkpoint: &Path, model: &Path, options: &[&str]) -> String {
    let before = contents(home);
    let sentence = failure(&package_args(checkpoint, model, options));
    assert!(contents(home) == before);
    sentence
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn package_in_checkpoint_folder_copies_nothing() {
    let home = with_tokenizer();
    let checkpoint = home.path().join("tiny");
    let model = checkpoint.join("model.onnx");
    for options in [&["--target", "ort"][..], &["--target", "onnx"], &["--functions"]] {
        let summary = export(&package_args(&checkpoint, &model, options));
        assert_eq!(summary["weights"]["bytes_written"], 0);
        let genai = &summary["genai"];
        assert_eq!(genai["copied"], json!([]), "the tokenizer is in the folder");
        assert_eq!(genai["missing"], json!(["special_tokens_map.json", "chat_template.jinja"]));
        assert_eq!(summary["model"]["outputs"][0]["shape"], json!(["B", 1, 320]));
    }
}

#[test]
fn copies_tokenizer_byte_for_byte() {
    let home = with_tokenizer();
    let (checkpoint, out) = (home.path().join("tiny"), home.path().join("out"));
    let (model, options) = (out.join("model.onnx"), ["--target", "ort"]);
    package(&checkpoint, &model, &options);
    let first = contents(&out);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let [source, copy] = [&checkpoint, &out].map(|folder| fs::read(folder.join(name)).unwrap());
        assert_eq!(source, copy, "{name}");
    }
    let genai = package(&checkpoint, &model, &options);
    assert_eq!(genai["there"].as_array().unwrap().len(), 3);
    assert_eq!(contents(&out), first);

    fs::write(out.join("tokenizer.json"), "{}").unwrap();
    let sentence = refusal(home.path(), &checkpoint, &model, &options);
    assert!(sentence.contains("out/tokenizer.json` differs from `"), "{sentence}");
}

/// The model's folder is searched last.
#[test]
fn finds_tokenizer_beside_staged_weights() {
    let home = with_tokenizer();
    let [checkpoint, stage, out] =
        ["tiny", "stage/w.safetensors", "out"].map(|name| home.path().join(name));
    export(&stage_args(&checkpoint, &stage, &[]));
    let generation_config = stage.with_file_name("generation_config.json");
    let tokens = json!({"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 2});
    fs::write(&generation_config, tokens.to_string()).unwrap();
    let model = out.join("model.onnx");
    let arguments = staged_args(&stage, &model, &["--genai"]);
    assert_eq!(export(&arguments)["genai"]["eos_token_ids"], json!([7]));
    fs::rename(&generation_config, home.path().join("moved")).unwrap();
    let genai = &export(&arguments)["genai"];
    assert_eq!(genai["eos_token_ids"], json!([7]), "from the copy");
    assert_eq!(genai["there"], json!(["generation_config.json"]));

    for (name, end) in [
        ("genai_config.json", "` is a folder, expected a file to write"),
        ("tokenizer.json", "` is neither a file nor a link to one: remove it"),
    ] {
        let path = out.join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        assert!(failure(&arguments).ends_with(&format!("{name}{end}")));
        fs::remove_dir(&path).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn refuses_broken_link_in_place_of_tokenizer() {
    let home = with_tokenizer();
    let (checkpoint, out) = (home.path().join("tiny"), home.path().join("out"));
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink("nowhere", out.join("tokenizer.json")).unwrap();
    let sentence = failure(&package_args(&checkpoint, &out.join("model.onnx"), &[]));
    assert!(
        sentence.ends_with("out/tokenizer.json` is neither a file nor a link to one: remove it"),
        "{sentence}"
    );
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
        let summary = export(&package_args(&original, &model, &["--target", "ort"]));
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
    let genai = package(&checkpoint, &model, &[]);
    assert_eq!((&genai["eos_token_ids"], &genai["eos_assumed"]), (&json!([2]), &json!(false)));
}

#[test]
fn prints_missing_tokenizer_files() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("model.onnx"));
    fs::write(checkpoint.join("generation_config.json"), generation()).unwrap();
    let summary = printed(&mut binary(&package_args(&checkpoint, &model, &[])));
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

/// By onnxruntime-genai's documentation, the released models' tokens, and a cache of
/// 24 · 2 · 8 · 64 · 4 bytes for each token.
#[test]
fn describes_20b() {
    let home = tempfile::tempdir().unwrap();
    sparse(home.path(), 24, 32, 1);
    let model = home.path().join("gpt-oss.onnx");
    let config = |options: &[&str]| {
        package(home.path(), &model, options);
        read_json(&home.path().join("genai_config.json"))
    };
    let found = config(&["--target", "ort"]);
    for (pointer, value) in [
        ("/model/type", json!("gptoss")),
        ("/model/eos_token_id", json!([200_002, 199_999, 200_012])),
        ("/model/bos_token_id", json!(199_998)),
        ("/model/pad_token_id", json!(199_999)),
        ("/model/vocab_size", json!(201_088)),
        ("/model/context_length", json!(131_072)),
        ("/model/decoder/filename", json!("gpt-oss.onnx")),
        ("/model/decoder/num_hidden_layers", json!(24)),
        ("/model/decoder/hidden_size", json!(2880)),
        ("/model/decoder/num_attention_heads", json!(64)),
        ("/model/decoder/num_key_value_heads", json!(8)),
        ("/model/decoder/head_size", json!(64)),
        ("/search", json!({"max_length": 8192, "past_present_share_buffer": true})),
    ] {
        assert_eq!(found.pointer(pointer), Some(&value), "{pointer}");
    }
    assert!(found["model"]["decoder"]["sliding_window"].is_null());

    // Standard operators share no buffer.
    let search =
        json!({"max_length": 131_072, "past_present_share_buffer": false, "chunk_size": 512});
    assert_eq!(config(&["--max-length", "131072", "--batch-size", "1"])["search"], search);
    let sentence = failure(&package_args(home.path(), &model, &["--max-length", "131073"]));
    assert_eq!(
        sentence,
        "the maximum length is 131073 tokens, and the model's context is 131072; pass --max-length 131072"
    );
    let sentence = failure(&export_args(home.path(), &model, &["--max-length", "99"]));
    assert_eq!(
        sentence,
        "a maximum length applies to the files for onnxruntime-genai alone; pass --genai"
    );
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
    let genai = package(&checkpoint, &checkpoint.join("model.onnx"), &options);
    assert_eq!(genai["cache_bytes"], u64::MAX);
}

#[test]
fn keeps_config_of_another_model() {
    let home = with_tokenizer();
    let checkpoint = home.path().join("tiny");
    let [model, other] = ["model.onnx", "other.onnx"].map(|name| checkpoint.join(name));
    let replaced =
        |model: &Path, options: &[&str]| package(&checkpoint, model, options)["replaced"] == true;
    assert!(!replaced(&model, &[]));
    assert!(!replaced(&model, &[]), "it is the same");
    assert!(replaced(&model, &["--max-length", "99"]));
    let sentence = refusal(home.path(), &checkpoint, &other, &[]);
    assert!(sentence.contains("describes another model, `model.onnx`, and"), "{sentence}");
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
    package(&checkpoint, &model, &["--max-length", "77", "--target", "ort"]);
    let config = read_json(&checkpoint.join("genai_config.json"));
    let search = json!({"do_sample": true, "top_p": 0.9, "max_length": 77, "past_present_share_buffer": true});
    assert_eq!((&config["search"], &config["model"]["eos_token_id"]), (&search, &json!([2])));

    let sentence = refusal(home.path(), &checkpoint, &model, &["--seq-len", "4"]);
    assert!(sentence.ends_with("the sequence length cannot be fixed"), "{sentence}");
    fs::write(&file, r#"{"eos_token_id": 320}"#).unwrap();
    let sentence = refusal(home.path(), &checkpoint, &model, &[]);
    assert!(sentence.ends_with("key `eos_token_id` must be a token of the vocabulary, found 320"));
}

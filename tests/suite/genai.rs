//! The folder that onnxruntime-genai opens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::sizes::sparse;
use crate::support::{
    contents, copy_folder, export, failure, fixture, folder_with_tiny, python, reference, run, text,
};

/// Tokens that the references never generate.
fn generation() -> String {
    json!({"bos_token_id": 316, "eos_token_id": [317, 318], "pad_token_id": 319}).to_string()
}

/// A checkpoint with all that text needs.
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

#[test]
fn it_generates_what_the_reference_does() {
    let mut folders = Vec::new();
    for options in [&["--target", "ort"][..], &["--target", "onnx"], &["--functions"]] {
        let home = with_tokenizer();
        let (checkpoint, model) = (home.path().join("tiny"), home.path().join("tiny/model.onnx"));
        let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--genai"];
        let summary = export(&[&base[..], options].concat());
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_eq!(summary["genai"]["copied"], json!([]), "all lies in place");
        assert_eq!(
            summary["genai"]["missing"],
            json!(["special_tokens_map.json", "chat_template.jinja"])
        );
        assert_eq!(summary["model"]["outputs"][0]["shape"], json!(["B", 1, 320]));
        folders.push((home, checkpoint));
    }
    let request = json!({
        "folders": folders.iter().map(|(_, folder)| folder).collect::<Vec<_>>(),
        "greedy": fixture("reference/greedy-2x28.ids.npy"),
        "steps": 16,
        "references": [reference("1x300")],
    });
    let worst: Vec<f64> = serde_json::from_value(python("generate.py", &[], &request)).unwrap();
    assert!(worst.len() == 3 && worst.iter().all(|error| *error <= 1e-5), "{worst:?}");
}

/// One row at a time, and so in chunks of 512 tokens.
#[test]
fn long_prompts_come_in_chunks() {
    for target in ["ort", "onnx"] {
        let home = with_tokenizer();
        let (checkpoint, model) = (home.path().join("tiny"), home.path().join("tiny/model.onnx"));
        let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--genai"];
        export(&[&base[..], &["--target", target, "--batch-size", "1"]].concat());
        let request = json!({"folders": [checkpoint], "references": [reference("1x4500")]});
        let worst: Vec<f64> = serde_json::from_value(python("generate.py", &[], &request)).unwrap();
        assert!(worst[0] <= 1e-4, "{target}: {worst:?}");
    }
}

#[test]
fn the_tokenizer_is_copied_byte_for_byte() {
    let home = with_tokenizer();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("out/model.onnx"));
    let arguments =
        ["--checkpoint", text(&checkpoint), "--output", text(&model), "--target", "ort", "--genai"];
    export(&arguments);
    let first = contents(&home.path().join("out"));
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let (from, to) = (checkpoint.join(name), home.path().join("out").join(name));
        assert_eq!(fs::read(from).unwrap(), fs::read(to).unwrap(), "{name}");
    }
    let again = export(&arguments);
    assert_eq!(again["genai"]["there"].as_array().unwrap().len(), 3);
    assert_eq!(contents(&home.path().join("out")), first);

    fs::write(home.path().join("out/tokenizer.json"), "{}").unwrap();
    let before = contents(home.path());
    let sentence = failure(&arguments);
    assert!(sentence.contains("tokenizer.json` exists and differs from"), "{sentence}");
    assert_eq!(contents(home.path()), before);
}

/// A stage has its tokenizer beside it, and else the model's folder has it.
#[test]
fn a_stage_has_its_tokenizer_beside_it() {
    let home = with_tokenizer();
    let (checkpoint, stage) = (home.path().join("tiny"), home.path().join("stage/w.safetensors"));
    export(&["--checkpoint", text(&checkpoint), "--save-weights", text(&stage), "--skip-onnx"]);
    let beside = home.path().join("stage/generation_config.json");
    fs::write(
        &beside,
        json!({"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 2}).to_string(),
    )
    .unwrap();
    let model = home.path().join("out/model.onnx");
    let arguments = ["--weights", text(&stage), "--output", text(&model), "--genai"];
    let summary = export(&arguments);
    assert_eq!(summary["genai"]["eos_token_ids"], json!([7]));
    fs::rename(&beside, home.path().join("moved")).unwrap();
    let summary = export(&arguments);
    assert_eq!(summary["genai"]["eos_token_ids"], json!([7]), "the copy says so");
    assert_eq!(summary["genai"]["there"], json!(["generation_config.json"]));

    let target = home.path().join("out/genai_config.json");
    fs::remove_file(&target).unwrap();
    fs::create_dir(&target).unwrap();
    assert!(failure(&arguments).ends_with("genai_config.json` is a folder, not a file to write"));
    fs::remove_dir(&target).unwrap();
    fs::create_dir(home.path().join("out/tokenizer.json")).unwrap();
    assert!(failure(&arguments).contains("tokenizer.json` is no file that can be read"));
}

/// The released repositories have the tokenizer above `original`.
#[test]
fn the_tokenizer_above_original_is_found() {
    let home = with_tokenizer();
    let (above, original) = (home.path().join("tiny"), home.path().join("tiny/original"));
    copy_folder(&fixture("tiny"), &original);
    fs::remove_file(above.join("model.safetensors")).unwrap();
    let model = home.path().join("out/model.onnx");
    let base = ["--checkpoint", text(&original), "--target", "ort", "--genai", "--output"];
    let summary = export(&[&base[..], &[text(&model)]].concat());
    assert_eq!(summary["genai"]["copied"].as_array().unwrap().len(), 3);
    // Beside them nothing is to be copied.
    let model = above.join("model.onnx");
    let summary = export(&[&base[..], &[text(&model)]].concat());
    assert_eq!(summary["genai"]["copied"], json!([]));
    assert_eq!(summary["weights"]["files"], json!(["original/model.safetensors"]));
}

/// Where nothing else says which tokens end a text, the model's config does.
#[test]
fn the_config_knows_how_a_text_ends() {
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("out/model.onnx"));
    copy_folder(&fixture("tiny-hf"), &checkpoint);
    let mut config: Value =
        serde_json::from_slice(&fs::read(checkpoint.join("config.json")).unwrap()).unwrap();
    for (key, token) in [("eos_token_id", 2), ("bos_token_id", 1), ("pad_token_id", 0)] {
        config[key] = token.into();
    }
    fs::write(checkpoint.join("config.json"), config.to_string()).unwrap();
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--genai"];
    let summary = export(&base);
    assert_eq!(summary["genai"]["eos_token_ids"], json!([2]));
    assert_eq!(summary["genai"]["eos_assumed"], false);
}

#[test]
fn what_is_missing_is_said() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("model.onnx"));
    fs::write(checkpoint.join("generation_config.json"), generation()).unwrap();
    let output = run(&["--checkpoint", text(&checkpoint), "--output", text(&model), "--genai"]);
    let summary = String::from_utf8(output.stdout).unwrap();
    for line in [
        "genai_config.json\n  max_length 131072 (a cache of 201 MB)\n  eos 317, 318\n",
        "  copied generation_config.json",
        "  missing tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja",
        "without the tokenizer's files beside the model onnxruntime-genai takes tokens, not text",
        "try      onnxruntime_genai.Model(\"",
    ] {
        assert!(summary.contains(line), "{summary}\nlacks: {line}");
    }
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("genai_config.json")).unwrap()).unwrap()
}

/// Section by section as onnxruntime-genai documents it, with the released
/// models' tokens and a cache of 24 · 2 · 8 · 64 · 4 bytes a token.
#[test]
fn the_20b_by_its_sizes() {
    let home = tempfile::tempdir().unwrap();
    sparse(home.path(), 24, 32, 1);
    let model = home.path().join("gpt-oss.onnx");
    let base = ["--checkpoint", text(home.path()), "--output", text(&model), "--genai"];
    export(&[&base[..], &["--target", "ort"]].concat());
    let found = config(home.path());
    let (model, decoder) = (&found["model"], &found["model"]["decoder"]);
    assert_eq!(model["type"], "gptoss");
    assert_eq!(model["eos_token_id"], json!([200_002, 199_999, 200_012]));
    assert_eq!(
        (&model["bos_token_id"], &model["pad_token_id"]),
        (&json!(199_998), &json!(199_999))
    );
    assert_eq!(
        (&model["vocab_size"], &model["context_length"]),
        (&json!(201_088), &json!(131_072))
    );
    assert_eq!(decoder["filename"], "gpt-oss.onnx");
    let sizes = [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_size",
    ];
    assert_eq!(sizes.map(|size| decoder[size].as_u64().unwrap()), [24, 2880, 64, 8, 64]);
    assert_eq!(found["search"], json!({"max_length": 8192, "past_present_share_buffer": true}));
    assert!(decoder.get("sliding_window").is_none());

    export(&[&base[..], &["--max-length", "131072", "--batch-size", "1"]].concat());
    let search =
        json!({"max_length": 131_072, "past_present_share_buffer": false, "chunk_size": 512});
    assert_eq!(config(home.path())["search"], search, "standard operators share no buffer");
    let sentence = failure(&[&base[..], &["--max-length", "131073"]].concat());
    assert_eq!(sentence, "--max-length 131073 is more than the model's context of 131072 tokens");
}

/// A context beyond all numbers of bytes is no reason to panic.
#[test]
fn a_context_without_end_is_a_number_still() {
    let home = with_tokenizer();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("tiny/model.onnx"));
    let path = checkpoint.join("config.json");
    let mut endless: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    endless["rope_scaling_factor"] = json!(1.0);
    endless["initial_context_length"] = json!(1e300);
    fs::write(path, endless.to_string()).unwrap();
    let longest = u64::MAX.to_string();
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--genai"];
    let summary = export(&[&base[..], &["--max-length", &longest]].concat());
    assert_eq!(summary["genai"]["cache_bytes"], u64::MAX);
}

/// onnxruntime-genai opens one model a folder, by one file.
#[test]
fn a_config_of_another_model_stays() {
    let home = with_tokenizer();
    let checkpoint = home.path().join("tiny");
    let (model, other) = (checkpoint.join("model.onnx"), checkpoint.join("other.onnx"));
    let base = ["--checkpoint", text(&checkpoint), "--genai", "--output"];
    let first = [&base[..], &[text(&model)]].concat();
    let other = [&base[..], &[text(&other)]].concat();
    assert_eq!(export(&first)["genai"]["replaced"], false);
    assert_eq!(export(&first)["genai"]["replaced"], false, "it says the same");
    assert_eq!(export(&[&first[..], &["--max-length", "99"]].concat())["genai"]["replaced"], true);
    let before = contents(home.path());
    let sentence = failure(&other);
    assert!(sentence.contains("describes another model, model.onnx, and"), "{sentence}");
    assert_eq!(contents(home.path()), before);
    fs::remove_file(checkpoint.join("model.onnx")).unwrap();
    assert_eq!(export(&other)["genai"]["replaced"], true);
}

#[test]
fn the_search_is_the_checkpoints_own() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("tiny/model.onnx"));
    let file = checkpoint.join("generation_config.json");
    let says = json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "do_sample": true,
                      "top_p": 0.9, "temperature": null, "transformers_version": "5"});
    fs::write(&file, says.to_string()).unwrap();
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--genai"];
    export(&[&base[..], &["--max-length", "77", "--target", "ort"]].concat());
    assert_eq!(
        config(&checkpoint)["search"],
        json!({"do_sample": true, "top_p": 0.9, "max_length": 77, "past_present_share_buffer": true})
    );
    assert_eq!(config(&checkpoint)["model"]["eos_token_id"], json!([2]));

    let before = contents(home.path());
    fs::write(&file, "{\"eos_token_id\": 320}").unwrap();
    let sentence = failure(&base);
    assert!(sentence.ends_with("key `eos_token_id` must be a token of the vocabulary, found 320"));
    fs::remove_file(&file).unwrap();
    assert!(failure(&base).contains("is beyond a vocabulary of 320"));
    let sentence = failure(&[&base[..], &["--seq-len", "4"]].concat());
    assert!(sentence.ends_with("so --genai does not go with --seq-len"), "{sentence}");
    fs::write(&file, says.to_string()).unwrap();
    assert_eq!(contents(home.path()), before);
}

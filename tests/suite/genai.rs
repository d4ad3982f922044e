//! Packages for onnxruntime-genai.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::layout_fixtures::{Tensor, edit_config, tiny, write_index};
use crate::sizes::{sparse, write_sparse};
use crate::support::{
    Home, assert_contains, assert_ends, cases, contents, copy_folder, edit_json, export,
    export_args, failure, fixture, read_json, run, staged_args, words,
};

/// Special tokens that the references never generate.
pub fn generation() -> String {
    json!({"bos_token_id": 316, "eos_token_id": [317, 318], "pad_token_id": 319}).to_string()
}

pub fn with_tokenizer() -> Home {
    let home = Home::with("tiny");
    let class = json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages[0].content }}"});
    for (name, text) in [
        ("generation_config.json", generation()),
        ("tokenizer.json", tokenizer().to_string()),
        ("tokenizer_config.json", class.to_string()),
    ] {
        fs::write(home.checkpoint().join(name), text).unwrap();
    }
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

pub fn package(home: &Home, model: &str, options: &[&str]) -> Value {
    home.export(model, &[&["--genai"], options].concat()).1
}

#[test]
fn package_in_checkpoint_folder_copies_nothing() {
    let home = with_tokenizer();
    for options in [&["--target", "ort"][..], &["--target", "onnx"], &["--functions"]] {
        let summary = package(&home, "checkpoint/model", options);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        let genai = &summary["genai"];
        assert_eq!(genai["copied"], json!([]), "the tokenizer is in the folder");
        // The template is in tokenizer_config.json.
        assert_eq!(genai["missing"], json!(["special_tokens_map.json"]));
        assert_eq!(genai["only_there"], Value::Null, "they are the checkpoint's");
        assert_eq!(summary["model"]["outputs"][0]["shape"], json!(["B", 1, 320]));
    }
}

#[test]
fn copies_tokenizer_byte_for_byte() {
    let home = with_tokenizer();
    let (checkpoint, out) = (home.checkpoint(), home.join("out"));
    package(&home, "out/model", &[]);
    let first = contents(&out);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let [source, copy] = [&checkpoint, &out].map(|folder| fs::read(folder.join(name)).unwrap());
        assert_eq!(source, copy, "{name}");
    }
    let summary = package(&home, "out/model", &[]);
    assert_eq!(summary["genai"]["there"].as_array().unwrap().len(), 3);
    assert!(summary["genai"].get("only_there").is_none());
    assert_eq!(contents(&out), first);

    fs::write(out.join("tokenizer.json"), "{}").unwrap();
    let sentence = home.refusal("out/model", &["--genai"]);
    assert_contains(&sentence, "out/tokenizer.json` differs from `");
}

/// onnxruntime-genai would run the new model by the config of the former one.
#[test]
fn configs_of_former_models_are_told() {
    let home = with_tokenizer();
    package(&home, "out/model", &[]);
    let (_, summary) = home.export("out/other", &[]);
    assert_eq!(summary.get("outdated"), None, "the config has another name");
    let (_, summary) = home.export("out/model", &[]);
    assert_eq!(summary["outdated"], json!([home.join("out").join("genai_config.json")]));
    let output = run(&export_args(&home.checkpoint(), &home.join("out/model.onnx"), &[]));
    let warning = "out/genai_config.json` was written for the model that this one replaces: delete it, or export with the files for onnxruntime-genai\n";
    assert_ends(&String::from_utf8(output.stderr).unwrap(), warning);
}

/// The model's folder is searched last.
#[test]
fn finds_tokenizer_beside_staged_weights() {
    let home = with_tokenizer();
    let (stage, out) = (home.stage("stage/w", &[]).0, home.join("out"));
    let generation_config = stage.with_file_name("generation_config.json");
    let tokens = json!({"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 2});
    fs::write(&generation_config, tokens.to_string()).unwrap();
    let package = || home.export_staged(&stage, "out/model", &["--genai"]).1["genai"].clone();
    assert_eq!(package()["eos_token_ids"], json!([7]));
    fs::rename(&generation_config, home.join("moved")).unwrap();
    let genai = package();
    assert_eq!(genai["eos_token_ids"], json!([7]), "from the copy");
    assert_eq!(genai["there"], json!(["generation_config.json"]));
    assert_eq!(genai["only_there"], genai["there"]);

    let refuses = |end: &str| {
        assert_ends(&failure(&staged_args(&stage, &out.join("model.onnx"), &["--genai"])), end);
    };
    let [config, tokenizer] = ["genai_config.json", "tokenizer.json"].map(|name| out.join(name));
    fs::create_dir(&tokenizer).unwrap();
    refuses("out/tokenizer.json` is neither a file nor a link to one: remove it");
    fs::remove_dir(&tokenizer).unwrap();
    #[cfg(unix)]
    {
        let source = home.join("checkpoint/tokenizer.json");
        fs::copy(source, stage.with_file_name("tokenizer.json")).unwrap();
        std::os::unix::fs::symlink("nowhere", &tokenizer).unwrap();
        refuses("out/tokenizer.json` is neither a file nor a link to one: remove it");
        fs::remove_file(&tokenizer).unwrap();
    }
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    refuses("genai_config.json` is a folder, expected a file to write");
}

/// As in OpenAI's repositories.
#[test]
fn finds_tokenizer_above_original() {
    let home = with_tokenizer();
    let (root, original) = (home.checkpoint(), home.join("checkpoint/original"));
    copy_folder(&fixture("tiny"), &original);
    fs::remove_file(root.join("model.safetensors")).unwrap();
    for (model, copied, file) in [
        (home.join("out/model.onnx"), 3, None),
        (root.join("model.onnx"), 0, Some("original/model.safetensors")),
    ] {
        let summary = export(&export_args(&original, &model, &["--target", "ort", "--genai"]));
        assert_eq!(summary["genai"]["copied"].as_array().unwrap().len(), copied);
        assert!(file.is_none_or(|file| summary["weights"]["files"] == json!([file])));
    }
}

#[test]
fn takes_special_tokens_from_config() {
    let home = Home::with("tiny-hf");
    let path = home.join("checkpoint/config.json");
    edit_json(&path, |config| config["bos_token_id"] = 1.into());
    let genai = &package(&home, "out/model", &[])["genai"];
    assert_eq!((&genai["eos_token_ids"], &genai["eos_assumed"]), (&json!([2]), &json!(false)));
}

#[test]
fn prints_missing_tokenizer_files() {
    let home = Home::with("tiny");
    fs::write(home.join("checkpoint/generation_config.json"), generation()).unwrap();
    let summary = home.printed_summary("model", &["--genai"]);
    for line in [
        "genai_config.json\n  max_length 131072 (a cache of 201 MB)\n  eos 317, 318\n",
        "  copied generation_config.json\n",
        "  missing tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja\n",
        "  without the tokenizer's files, onnxruntime-genai takes tokens, not text\n",
        "try      onnxruntime_genai.Model(\"",
    ] {
        assert_contains(&summary, line);
    }
}

/// By onnxruntime-genai's documentation, and the released models' tokens.
#[test]
fn describes_20b() {
    let home = Home::new();
    let (checkpoint, model) = (home.checkpoint(), home.join("checkpoint/gpt-oss.onnx"));
    sparse(&checkpoint, 24, 32, 1);
    package(&home, "checkpoint/gpt-oss", &["--target", "ort"]);
    let found = read_json(&checkpoint.join("genai_config.json"));
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
        ("/search", json!({"max_length": 16_384, "past_present_share_buffer": true})),
        (
            "/model/decoder/sliding_window",
            json!({
                "window_size": 128, "cache_slack": 16, "layers": (0..12).map(|n| 2 * n).collect::<Vec<_>>(),
                "slide_key_value_cache": false, "slide_inputs": false,
            }),
        ),
    ] {
        assert_eq!(found.pointer(pointer), Some(&value), "{pointer}");
    }

    let table = "--genai --max-length 131073 | the maximum length is 131073 tokens, and the model's context is 131072; pass --max-length 131072
        --max-length 99 | a maximum length applies to the files for onnxruntime-genai alone; pass --genai";
    for [options, sentence] in cases(table) {
        assert_eq!(failure(&export_args(&checkpoint, &model, &words(options))), sentence);
    }
}

#[test]
fn saturates_cache_of_endless_context() {
    let home = with_tokenizer();
    edit_json(&home.join("checkpoint/config.json"), |config| {
        config["rope_scaling_factor"] = json!(1.0);
        config["initial_context_length"] = json!(1e300);
    });
    let options = ["--max-length", "18446744073709551615"];
    let summary = package(&home, "checkpoint/model", &options);
    assert_eq!(summary["genai"]["cache_bytes"], u64::MAX);
}

#[test]
fn takes_sampling_parameters_from_generation_config() {
    let (home, model) = (Home::with("tiny"), "checkpoint/model");
    let file = home.join("checkpoint/generation_config.json");
    let keys = json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "do_sample": true,
                      "top_p": 0.9, "temperature": null, "transformers_version": "5"});
    fs::write(&file, keys.to_string()).unwrap();
    package(&home, model, &["--max-length", "77", "--target", "ort"]);
    let config = read_json(&home.join("checkpoint/genai_config.json"));
    let search = json!({"do_sample": true, "top_p": 0.9, "max_length": 77, "past_present_share_buffer": true});
    assert_eq!((&config["search"], &config["model"]["eos_token_id"]), (&search, &json!([2])));

    let sentence = home.refusal(model, &["--genai", "--seq-len", "4"]);
    assert_ends(&sentence, "the sequence length cannot be fixed");
    fs::write(&file, r#"{"eos_token_id": 320}"#).unwrap();
    let sentence = home.refusal(model, &["--genai"]);
    assert_contains(
        &sentence,
        "no file sets `eos_token_id` to a token of the vocabulary of 320 tokens",
    );
}

/// Tokens outside the vocabulary never occur, and parameters have defaults.
#[test]
fn leaves_out_what_onnxruntime_genai_cannot_use() {
    let home = Home::with("tiny");
    let checkpoint = home.checkpoint();
    let file = checkpoint.join("generation_config.json");
    let table = r#""do_sample": false, "temperature": 0.0 | {"do_sample": false} | temperature 0.0 (not a positive number)
        "do_sample": true, "temperature": 0.0 | {"do_sample": true} | temperature 0.0 (not a positive number)
        "do_sample": 1, "top_p": 0 | {"top_p": 0} | do_sample 1 (not true or false)
        "top_k": -1, "top_p": 3.0 | {} | top_k -1 (not a whole number from 0), top_p 3.0 (not a number from 0 to 1)
        "temperature": "0.7", "top_k": 5 | {"top_k": 5} | temperature "0.7" (not a positive number)
        "top_k": 0, "temperature": null, "repetition_penalty": 0 | {"top_k": 0} | repetition_penalty 0 (not a positive number)
        "eos_token_id": [2, 320, "x"] | {} | eos_token_id 320 (not a token of the vocabulary), eos_token_id "x" (not a token of the vocabulary)
        "max_length": 20, "min_p": 0.1, "eos_token_id": [2, -1] | {} | eos_token_id -1 (not a token of the vocabulary)"#;
    for [keys, search, left_out] in cases(table) {
        let keys: Value = format!("{{{keys}}}").parse().unwrap();
        let mut config = json!({"bos_token_id": [1], "eos_token_id": 2, "pad_token_id": 3});
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        fs::write(&file, config.to_string()).unwrap();
        let summary = home.printed_summary("checkpoint/model", &["--genai"]);
        let note = format!("  left out, because onnxruntime-genai cannot use it: {left_out}\n");
        assert_contains(&summary, &note);
        let mut found = read_json(&checkpoint.join("genai_config.json"));
        for key in ["max_length", "past_present_share_buffer"] {
            found["search"].as_object_mut().unwrap().remove(key);
        }
        assert_eq!(found["search"], search.parse::<Value>().unwrap(), "{keys}");
        let tokens =
            ["bos", "eos", "pad"].map(|it| found["model"][format!("{it}_token_id")].clone());
        assert_eq!(tokens, [json!(1), json!([2]), json!(3)]);
    }
}

/// The tiny model's shapes but for the released models' vocabulary, over holes.
fn released_vocabulary() -> Home {
    let home = Home::with("tiny");
    edit_config(&home.checkpoint(), "\"vocab_size\": 320", "\"vocab_size\": 201088");
    let larger = |(name, (dtype, mut shape, _)): (String, Tensor)| {
        shape[0] = if name.contains("embedding") { 201_088 } else { shape[0] };
        (name, dtype, shape, Vec::new())
    };
    let weights = home.join("checkpoint/model.safetensors");
    write_sparse(&weights, tiny().into_iter().map(larger).collect());
    home
}

/// As in transformers. Sampling parameters come from generation_config.json alone.
#[test]
fn falls_back_on_configs_then_on_released_tokens() {
    const RELEASED: &[u64] = &[200_002, 199_999, 200_012];
    const PUBLISHED: &str = r#"{"bos_token_id": 199998, "eos_token_id": [200002, 199999, 200012],
        "pad_token_id": 199999, "transformers_version": "4.55.0.dev0"}"#;
    const OWN: &str =
        r#"{"vocab_size": 201088, "eos_token_id": 2, "pad_token_id": 0, "top_k": "x"}"#;
    const EMPTY: &str = r#"{"vocab_size": 201088}"#;
    let home = released_vocabulary();
    // Weights that need no config: it is beside them, above them or nowhere.
    let (weights, _) = home.stage("root/original/w", &[]);
    let names = ["original/generation_config.json", "original/config.json", "config.json"];
    for (texts, eos, pad, assumed) in [
        ([PUBLISHED, "", ""], RELEASED, 199_999, false),
        (["", "", ""], RELEASED, 199_999, true),
        ([r#"{"eos_token_id": 7, "pad_token_id": null}"#, "", ""], &[7], 199_999, false),
        ([r#"{"eos_token_id": [7, 8]}"#, OWN, ""], &[7, 8], 0, false),
        (["", r#"{"vocab_size": 320, "eos_token_id": 3}"#, OWN], &[2], 0, false),
        (["", "{", OWN], &[2], 0, false),
        (["", EMPTY, OWN], &[2], 0, false),
        (["", EMPTY, ""], RELEASED, 199_999, true),
        (["", r#"{"vocab_size": 201088, "eos_token_id": 200002}"#, ""], RELEASED, 199_999, true),
        (["", r#"{"vocab_size": 201088, "eos_token_id": [200002]}"#, ""], RELEASED, 199_999, true),
    ] {
        for (path, text) in names.map(|name| home.join("root").join(name)).iter().zip(texts) {
            let _ = fs::remove_file(path);
            (!text.is_empty()).then(|| fs::write(path, text).unwrap());
        }
        let options = ["--genai", "--max-length", "9"];
        let genai = &home.export_staged(&weights, "root/original/model", &options).1["genai"];
        let config = read_json(&home.join("root/original/genai_config.json"));
        let tokens = ["eos", "bos", "pad"].map(|it| &config["model"][format!("{it}_token_id")]);
        let search = json!({"max_length": 9, "past_present_share_buffer": false});
        let found = json!([tokens, genai["eos_token_ids"], genai["eos_assumed"], config["search"]]);
        assert_eq!(found, json!([[eos, 199_998, pad], eos, assumed, search]), "{texts:?}");
    }
}

#[test]
fn refuses_invalid_generation_config() {
    let (released, tiny) = (&released_vocabulary(), &Home::with("tiny"));
    // Without a file where its text is empty.
    for (home, file, sentence) in [
        (
            released,
            "[]",
            "generation_config.json` is invalid: it must be an object of JSON, found a list",
        ),
        (released, r#"{"a": 1, "a": 1}"#, "duplicate key \"a\""),
        (
            tiny,
            "",
            "no file sets `eos_token_id` to a token of the vocabulary of 320 tokens, and the released models' 200002 is not in it: put a gen",
        ),
        (tiny, r#"{"eos_token_id": [320]}"#, "no file sets `eos_token_id` to a token"),
        (tiny, r#"{"eos_token_id": []}"#, "no file sets `eos_token_id` to a token"),
        (tiny, r#"{"eos_token_id": 5}"#, "no file sets `bos_token_id` to a token"),
        (tiny, r#"{"eos_token_id": 5, "bos_token_id": [1, 2]}"#, "no file sets `bos_token_id`"),
        (tiny, r#"{"eos_token_id": 5, "bos_token_id": 1, "pad_token_id": -1}"#, "`pad_token_id`"),
        (tiny, r#"{"eos_token_id": 5}"#, "is not in it: set `bos_token_id` in `"),
    ] {
        let path = home.join("checkpoint/generation_config.json");
        (!file.is_empty()).then(|| fs::write(path, file).unwrap());
        assert_contains(&home.refusal("checkpoint/model", &["--genai"]), sentence);
    }
}

#[test]
fn byte_order_marks_change_nothing() {
    let home = with_tokenizer();
    let shard = |name| (name, "model.safetensors");
    write_index(&home.checkpoint(), tiny().into_keys().map(shard).collect::<BTreeMap<_, _>>());
    package(&home, "a/model", &[]);
    let made = |name: &str| fs::read(home.join(name)).unwrap();
    for name in ["config.json", "model.safetensors.index.json", "generation_config.json"] {
        let path = home.checkpoint().join(name);
        fs::write(&path, [b"\xef\xbb\xbf", &fs::read(&path).unwrap()[..]].concat()).unwrap();
        package(&home, &format!("{name}/model"), &[]);
        for file in ["model.onnx", "genai_config.json"] {
            assert!(
                made(&format!("{name}/{file}")) == made(&format!("a/{file}")),
                "{name}: {file}"
            );
        }
    }
}

//! Drafts of tokens in onnxruntime-genai: the likeliest tokens are those without drafts, and a text
//! goes on after them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::environment::python;
use crate::genai::with_tokenizer;
use crate::support::{Home, edit_json, fixture, npy, read_json};

const SPECULATIVE: [(&str, &[&str]); 3] = [
    ("preset", &["--for", "genai", "--speculative"]),
    ("option", &["--genai", "--speculative", "--max-length", "1024"]),
    ("bf16", &["--genai", "--speculative", "--experts", "bf16"]),
];

/// New tokens of a prompt, how many were drafted, and how many of these were right.
type Continued = (Vec<i64>, u64, u64);

fn exported(home: &Home, name: &str, options: &[&str]) -> PathBuf {
    home.export(&format!("{name}/model"), options).0.with_file_name("")
}

/// Continues prompts, and then these texts with another prompt.
fn continued(folder: &Path, prompts: &[Vec<i64>], rewinds: bool) -> Vec<Continued> {
    let request = json!({
        "folder": folder, "prompts": prompts, "steps": 48, "second": [5, 42, 17], "rewinds": rewinds,
    });
    let found: Vec<Value> = serde_json::from_value(python("continued.py", &[], &request)).unwrap();
    let count = |it: &Value, name: &str| it[name].as_u64().unwrap();
    let tokens = |it: &Value| serde_json::from_value(it["tokens"].clone()).unwrap();
    found.iter().map(|it| (tokens(it), count(it, "proposed"), count(it, "accepted"))).collect()
}

/// Continues prompts with and without drafts; how many were right.
fn assert_same_tokens(home: &Home, prompts: &[Vec<i64>], expected: &[Vec<i64>]) -> u64 {
    let plain = continued(&exported(home, "plain", &["--for", "genai"]), prompts, false);
    let folders =
        SPECULATIVE.map(|(name, options)| continued(&exported(home, name, options), prompts, true));
    for found in &folders {
        for (at, ((tokens, ..), (same, drafted, _))) in found.iter().zip(&plain).enumerate() {
            assert_eq!((tokens, *drafted), (same, 0), "prompt {at}");
            assert!(expected.get(at).is_none_or(|it| tokens.starts_with(it)), "prompt {at}");
        }
        let drafted: u64 = found.iter().map(|it| it.1).sum();
        assert!(drafted > 0, "nothing is drafted");
    }
    folders.iter().flatten().map(|it| it.2).sum()
}

fn tokens(path: &Path) -> Vec<Vec<i64>> {
    let rows = npy(path, i64::from_le_bytes);
    rows.outer_iter().map(|row| row.iter().copied().collect()).collect()
}

/// The prompts, or their continuations, that the trained fixture comes with.
fn known(key: &str) -> Vec<Vec<i64>> {
    let known = read_json(&fixture("trained/expected.json"));
    let cases = known["greedy"].as_array().unwrap().iter();
    cases.map(|it| serde_json::from_value(it[key].clone()).unwrap()).collect()
}

/// Text continues what it has said before.
#[test]
fn drafts_of_text_are_often_right() {
    let held_out = tokens(&fixture("reference/logits-trained.ids.npy")).concat();
    let mut prompts = known("prompt_ids");
    prompts.extend([held_out[..300].to_vec(), held_out[..120].repeat(2)]);
    let accepted = assert_same_tokens(&Home::with("trained"), &prompts, &known("ids"));
    assert!(accepted > 30, "{accepted} drafts were right");
}

/// A token that ends a text is not part of it: what is generated before it is, whatever comes next.
#[test]
fn texts_go_on_after_their_end() {
    let home = Home::with("trained");
    let known = read_json(&fixture("trained/expected.json"));
    let cases = known["greedy"].as_array().unwrap().iter();
    let folders = [
        (exported(&home, "window", &["--for", "genai"]), false),
        (exported(&home, "full", &["--for", "genai", "--sliding-cache", "full"]), true),
        (exported(&home, "drafts", &["--for", "genai", "--speculative"]), true),
    ];
    for case in cases {
        let [prompt, text]: [Vec<i64>; 2] =
            ["prompt_ids", "ids"].map(|key| serde_json::from_value(case[key].clone()).unwrap());
        let end = text[20];
        let until = text.iter().position(|it| *it == end).unwrap();
        for (folder, rewinds) in &folders {
            edit_json(&folder.join("genai_config.json"), |config| {
                config["model"]["eos_token_id"] = json!([end]);
            });
            let found = continued(folder, std::slice::from_ref(&prompt), *rewinds);
            assert_eq!(found[0].0, text[..until], "{folder:?}");
        }
    }
}

/// The weights of the other fixture are random, so drafts are wrong.
#[test]
fn wrong_drafts_are_dropped() {
    let texts = tokens(&fixture("reference/greedy-2x28.ids.npy"));
    let [begun, rest]: [Vec<Vec<i64>>; 2] =
        [0..12, 12..28].map(|part| texts.iter().map(|it| it[part.clone()].to_vec()).collect());
    let repeated = texts.iter().map(|it| it.repeat(3));
    let prompts: Vec<Vec<i64>> = begun.into_iter().chain(repeated).collect();
    assert_same_tokens(&with_tokenizer(), &prompts, &rest);
}

/// Formats, caches and drafts in any combination: the same tokens in onnxruntime and in
/// onnxruntime-genai, which are those of transformers.
#[test]
fn every_exact_combination_continues_texts_alike() {
    let home = Home::with("trained");
    let mut folders = Vec::new();
    for experts in [&[][..], &["--experts", "int4x2"], &["--experts", "nvfp4"]] {
        for dense in [&[][..], &["--dense", "int8x2"]] {
            for way in [&[][..], &["--sliding-cache", "full"], &["--speculative"]] {
                let name = format!("{}", folders.len());
                let options = [&["--for", "genai"], experts, dense, way].concat();
                folders.push((exported(&home, &name, &options), !way.is_empty()));
            }
        }
    }
    let models: Vec<PathBuf> = folders.iter().map(|it| it.0.join("model.onnx")).collect();
    for (prompt, ids) in known("prompt_ids").iter().zip(known("ids")) {
        let request = json!({"models": models, "prompt": prompt, "tokens": 48});
        let found: Vec<Vec<i64>> =
            serde_json::from_value(python("greedy.py", &[], &request)).unwrap();
        assert!(found.iter().all(|it| *it == ids), "{prompt:?}: {found:?}");
    }
    for (folder, rewinds) in &folders {
        let found = continued(folder, &known("prompt_ids"), *rewinds);
        for ((tokens, ..), ids) in found.iter().zip(&known("ids")) {
            assert!(tokens.starts_with(ids), "{folder:?}");
        }
    }
}

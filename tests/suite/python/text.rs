//! `verify --text` and `evaluate`: how well models predict a text that training did not see.
//! Expected values are of transformers, or computed in NumPy.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};

use super::environment::{onnxruntime, python};
use super::verify::{passes, refused};
use crate::layout_fixtures::edit_tensors;
use crate::support::{
    Home, assert_contains, binary, cases, copy_folder, fixture, paths, read_json, sentence,
    summary, text, words,
};

fn held_out() -> PathBuf {
    fixture("trained/held-out.txt")
}

/// The evaluation of models, or of `--formats`, on the text.
fn evaluated(checkpoint: &Path, options: &[&str]) -> Value {
    let held_out = held_out();
    let base = ["evaluate", "--checkpoint", text(checkpoint), "--text", text(&held_out)];
    let library = ["--onnxruntime", text(onnxruntime()), "--json"];
    summary(&mut binary(&[&base, &library[..], options].concat()))
}

fn number(object: &Value, path: &str) -> f64 {
    let value = path.split('.').fold(object, |object, key| &object[key]);
    value.as_f64().unwrap_or_else(|| panic!("{object} lacks {path}"))
}

fn divergences(evaluation: &Value) -> Vec<f64> {
    let models = evaluation["models"].as_array().unwrap();
    models.iter().map(|it| number(it, "kl_divergence.mean.value")).collect()
}

#[test]
fn perplexities_are_those_of_transformers() {
    let (home, text_file) = (Home::with("trained"), held_out());
    let expected = &read_json(&fixture("trained/expected.json"))["perplexity_by_window"];
    for (at, options) in [
        &[][..],
        &["--kv-cache"],
        &["--target", "ort"],
        // Token by token.
        &["--for", "onnxruntime"],
        &["--batch-size", "1", "--seq-len", "512"],
    ]
    .into_iter()
    .enumerate()
    {
        let (model, _) = home.export(&at.to_string(), options);
        for window in ["128", "512", "2048"] {
            if window == "2048" && options.contains(&"--seq-len") {
                continue;
            }
            let of_text = ["--text", text(&text_file), "--tokens", window];
            let report = passes(&model, &home.checkpoint(), &of_text);
            let (quality, expected) = (&report["quality"], &expected[window]);
            for whose in ["perplexity", "reference_perplexity"] {
                let off =
                    number(quality, &format!("{whose}.value")) / number(expected, "perplexity");
                assert!((off - 1.0).abs() < 1e-4, "{options:?} {window} {whose}: {quality}");
            }
            assert_eq!(quality["predicted"], expected["tokens"], "{options:?} {window}");
            assert!(number(quality, "kl_divergence.max") < 1e-9, "{options:?} {quality}");
            assert!(number(quality, "same_top.value") > 0.999, "{options:?} {quality}");
        }
    }
}

/// The more is rounded the worse, and no export stays behind.
#[test]
fn evaluates_formats_in_a_temporary_folder() {
    let (home, temporary) = (Home::with("trained"), Home::new());
    let report = home.join("report.html");
    let uses = home.join("uses.json");
    let held_out = held_out();
    let (checkpoint, formats) = (home.checkpoint(), "mxfp4, mxfp4+int8, int4,int4+int4");
    let mut command = binary(&[
        "evaluate",
        "--checkpoint",
        text(&checkpoint),
        "--text",
        text(&held_out),
        "--formats",
        formats,
        "--onnxruntime",
        text(onnxruntime()),
        "--report",
        text(&report),
        "--expert-use",
        text(&uses),
        "--json",
    ]);
    let evaluation = summary(command.env("TMPDIR", &*temporary));
    // onnxruntime leaves a file of its own.
    let left = paths(&temporary).into_iter().filter(|path| text(path).contains("gpt-oss-export"));
    assert_eq!(left.count(), 0);
    let losses = divergences(&evaluation);
    assert!(losses[0] < 1e-10 && losses.is_sorted() && losses[1] > 1e-7, "{losses:?}");
    for model in evaluation["models"].as_array().unwrap() {
        for path in ["bytes", "load_seconds", "prompt_speed", "decode_speed"] {
            assert!(number(model, path) > 0.0, "{path}: {model}");
        }
        assert_eq!(model["kl_by_position"].as_array().unwrap().len(), 511);
        assert_eq!(model["error_by_layer"].as_array().unwrap().len(), 5);
    }
    assert_eq!(evaluation["models"][0]["is_best"], true);
    // Each token chooses two of eight experts in each of four layers.
    let uses = read_json(&uses);
    assert_eq!((&uses["tokens"], &uses["experts_per_token"]), (&json!(4096), &json!(2)));
    let layers: Vec<Vec<u64>> = serde_json::from_value(uses["layers"].clone()).unwrap();
    assert_eq!(layers.iter().map(Vec::len).collect::<Vec<_>>(), [8; 4]);
    assert!(layers.iter().all(|layer| layer.iter().sum::<u64>() == 8192));
    super::page::assert_readable(&report, 4);
}

#[test]
fn figures_are_those_of_numpy() {
    let home = Home::with("trained");
    let models = ["exact", "int4"].map(|name| {
        let options = if name == "int4" { &["--experts", "int4"][..] } else { &[] };
        home.export(name, options).0
    });
    let both = models.each_ref().map(|it| text(it));
    let found = evaluated(&home.checkpoint(), &[&both[..], &["--tokens", "128"]].concat());
    let ids = fixture("trained/held-out.ids.npy");
    let request = json!({"models": models, "ids": ids, "window": 128});
    let expected = python("text_quality.py", &[], &request);
    let is_close = |path: &str, expected: &Value| {
        let (found, expected) = (number(&found["models"][1], path), expected.as_f64().unwrap());
        assert!((found / expected - 1.0).abs() < 2e-4, "{path}: {found} {expected}");
    };
    for (path, value) in expected.as_object().unwrap() {
        if path == "max" {
            is_close("kl_divergence.max", value);
            continue;
        }
        is_close(&format!("{path}.value"), &value[0]);
        if !value[1].is_null() {
            is_close(&format!("{path}.error"), &value[1]);
        }
    }
}

/// A model that was made from other weights is told, and is far from the checkpoint.
#[test]
fn a_fault_shows() {
    let home = Home::with("trained");
    let other = home.join("other");
    copy_folder(&home.checkpoint(), &other);
    edit_tensors(&other, |tensors| {
        let router = &mut tensors.get_mut("model.layers.1.mlp.router.weight").unwrap().2;
        router.rotate_left(2 * 192);
    });
    let arguments = ["--checkpoint", text(&other), "--output"];
    let faulty = home.join("faulty.onnx");
    summary(&mut binary(&[&arguments[..], &[text(&faulty), "--json"]].concat()));
    let (exact, _) = home.export("exact", &[]);
    let found = evaluated(&home.checkpoint(), &[text(&exact), text(&faulty), "--tokens", "128"]);
    let losses = divergences(&found);
    assert!(losses[0] < 1e-10 && losses[1] > 1e-2, "{losses:?}");
    assert_eq!(found["models"][1]["identity"]["is"], "different");
    // It departs in the second layer.
    let by_layer: Vec<f64> =
        serde_json::from_value(found["models"][1]["error_by_layer"].clone()).unwrap();
    assert!(by_layer[1] < 1e-5 && by_layer[2] > 1e-3, "{by_layer:?}");
}

/// A model whose data is no longer that of the export is not measured.
#[test]
fn refuses_models_whose_data_changed() {
    let home = Home::with("trained");
    let (model, _) = home.export("checkpoint/model", &[]);
    let original = home.join("original");
    copy_folder(&home.checkpoint(), &original);
    edit_tensors(&home.checkpoint(), |tensors| {
        tensors.insert("model.layers.9.extra".into(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    let held_out = fixture("trained/held-out.txt");
    let text_options = ["--text", text(&held_out), "--checkpoint", text(&original)];
    let mut command = binary(&[&["evaluate", text(&model)], &text_options[..]].concat());
    let refusal = sentence(command.env("ORT_DYLIB_PATH", onnxruntime()));
    assert_contains(&refusal, "it was changed since the export: restore it, or export again");
}

/// One sentence each: what is wrong with a text or a tokenizer.
#[test]
fn refuses_texts_and_tokenizers() {
    let home = Home::with("trained");
    let (model, _) = home.export("model", &[]);
    for (name, bytes) in [
        ("latin1.txt", &b"caf\xe9 au lait"[..]),
        ("empty.txt", b""),
        ("blank.txt", b" \n\n"),
        ("short.txt", b"And God said"),
        ("body.jsonl", b"{\"body\": \"And God said\", \"id\": 1}\n{\"text\": \"Let there be\"}\n"),
        ("content.jsonl", b"{\"content\": \"And God said\"}\n{\"content\": \"Let there be\"}\n"),
        ("alpaca.json", b"[{\"text\": \"And God said\"}]\n"),
        ("number.jsonl", b"{\"text\": 1}\n"),
        ("plain.jsonl", b"And God said\n"),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": \n"),
    ] {
        fs::write(home.join(name), bytes).unwrap();
    }
    let table = "latin1.txt | latin1.txt` is not UTF-8, first in byte 3: save it as UTF-8, or take another text
        empty.txt | empty.txt` is empty, expected a text
        blank.txt | blank.txt` is empty, expected a text
        missing.txt | there is no file `
        alpaca.json | alpaca.json` is structured data, and its markup would be predicted too: save its texts as plain text (.txt), or as a .jsonl file with an object of JSON in each line
        short.txt | short.txt` has 3 tokens, and a window has 512: take a longer text or shorter windows; pass --tokens 3
        short.txt --tokens 131073 | a window of 131,073 tokens was requested, and one has 2 to 131,072, the model's context
        short.txt --text-field body | no `.jsonl` file
        . | is a folder, expected a text: name a file
        body.jsonl | lacks a text in the field `text` in 1 line; line 1 has no such field, and its texts are in `body`: give all texts one field
        content.jsonl | line 1 has no such field, and its texts are in `content`: name the field; pass --text-field content
        body.jsonl --text-field id | in 2 lines; line 1
        number.jsonl | line 1 has something else there, and it has no text in other fields
        plain.jsonl | plain.jsonl:1` is not an object of JSON (expected value at line 1 column 1): correct the line, or name the file `.txt` if it is plain text
        broken.jsonl | broken.jsonl:2` is not an object of JSON (EOF";
    for [options, expected] in cases(table) {
        let mut options = words(options);
        let file = home.join(options[0]);
        options[0] = text(&file);
        let error = refused(&model, &home.checkpoint(), &[&["--text"], &options[..]].concat());
        assert_contains(&error, expected);
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let (tokenizer, held_out) = (home.checkpoint().join("tokenizer.json"), held_out());
    let of_text = ["--text", text(&held_out)];
    let (last, _) = home.export("last", &["--last-logits"]);
    let slow = "so a window of 512 tokens would take as many passes over all before it: export it with a cache, or with the logits of all tokens";
    assert_contains(&refused(&last, &home.checkpoint(), &of_text), slow);
    let whole = fs::read_to_string(&tokenizer).unwrap();
    let mut larger = read_json(&tokenizer);
    larger["model"]["vocab"]["another"] = json!(2000);
    let larger = larger.to_string();
    for (content, expected) in [
        (Some(&larger[..]), "has ids up to 2,000, and the model's end at 1,023"),
        (Some(&whole[..whole.len() / 2]), "tokenizer.json` is not valid JSON"),
        (Some("{\"model\": {\"type\": \"BPE\"}}"), "tokenizer.json` is no tokenizer: "),
        (
            None,
            "has no `tokenizer.json`, which a text needs: put the checkpoint's there, or name the folder that has it; pass --tokenizer DIR",
        ),
    ] {
        match content {
            Some(content) => fs::write(&tokenizer, content).unwrap(),
            None => fs::remove_file(&tokenizer).unwrap(),
        }
        let error = refused(&model, &home.checkpoint(), &of_text);
        assert_contains(&error, expected);
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let elsewhere = fixture("trained");
    let of_elsewhere = ["--tokenizer", text(&elsewhere)];
    passes(&model, &home.checkpoint(), &[of_text, of_elsewhere].concat());
    evaluated(&home.checkpoint(), &[text(&model), of_elsewhere[0], of_elsewhere[1]]);
    let none = [&of_text[..], &["--tokenizer", "nowhere"]].concat();
    let error = refused(&model, &home.checkpoint(), &none);
    assert_contains(&error, "`nowhere` is no folder: name the one that has tokenizer.json");
}

/// Records follow each other, as one text does.
#[test]
fn lines_of_json_are_texts() {
    let home = Home::with("trained");
    let (model, _) = home.export("model", &[]);
    let whole = fs::read_to_string(held_out()).unwrap();
    // At line feeds, which no token has in its middle.
    let lines = whole.split_inclusive('\n').map(|line| json!({"content": line}).to_string() + "\n");
    let file = home.join("text.jsonl");
    fs::write(&file, lines.collect::<String>()).unwrap();
    let field = ["--text", text(&file), "--text-field", "content", "--tokens", "128"];
    let report = passes(&model, &home.checkpoint(), &field);
    let expected = number(
        &read_json(&fixture("trained/expected.json")),
        "perplexity_by_window.128.perplexity",
    );
    let found = number(&report["quality"], "reference_perplexity.value");
    assert!((found / expected - 1.0).abs() < 0.02, "{found}");
}

#[test]
fn models_that_compute_different_things_are_not_compared() {
    let home = Home::with("trained");
    let (whole, _) = home.export("whole", &[]);
    let (part, _) = home.export("part", &["--layers", "2"]);
    let (checkpoint, held_out) = (home.checkpoint(), held_out());
    let base = ["evaluate", "--checkpoint", text(&checkpoint), "--text", text(&held_out)];
    let models = [text(&whole), text(&part), "--onnxruntime", text(onnxruntime())];
    let error = sentence(&mut binary(&[&base[..], &models].concat()));
    assert_contains(&error, "compute different things, as they have other layers or adapters");
}

/// The exports of formats have the adapter that an export by hand has.
#[test]
fn formats_are_evaluated_with_adapters() {
    let home = Home::with("tiny-hf");
    let (checkpoint, adapter) = (home.checkpoint(), fixture("lora/attention"));
    let words: serde_json::Map<String, Value> =
        (0..320).map(|token| (format!("w{token}"), json!(token))).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    fs::write(checkpoint.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokens: Vec<_> = (0..256).map(|at| format!("w{}", at * at * 7 % 320)).collect();
    fs::write(home.join("text"), tokens.join(" ")).unwrap();
    let with = ["--adapter", text(&adapter)];
    let (model, _) = home.export("m", &[&with[..], &["--experts", "int4"]].concat());
    let evaluated = |what: &[&str]| {
        let base = ["evaluate", "--checkpoint", text(&checkpoint), "--tokens", "64", "--json"];
        let (from, library) = (home.join("text"), onnxruntime());
        let given = ["--text", text(&from), "--onnxruntime", text(library)];
        divergences(&summary(&mut binary(&[&base[..], &given, &with, what].concat())))
    };
    let [found, expected] =
        [&["--formats", "int4"][..], &[text(&model)]].map(|it| evaluated(it)[0]);
    // One model computes in steps.
    assert!(expected > 1e-4 && (found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
}

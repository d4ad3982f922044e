//! Generation in onnxruntime: greedy continuations by transformers, logits of OpenAI's
//! implementation and of PEFT, and what is seen of a text while it is made.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::environment::{interpreter, onnxruntime};
use crate::adapters::{add, bases};
use crate::support::{
    Home, assert_contains, binary, edit_json, fixture, model_path, npy, printed, read_json,
    sentence, summary, text, words,
};

/// The command with the tests' onnxruntime.
fn generate(model: &Path, options: &[&str]) -> Command {
    let runtime = ["--onnxruntime", text(onnxruntime())];
    binary(&[&["generate", text(model)], &runtime[..], options].concat())
}

fn generated(model: &Path, options: &[&str]) -> Value {
    summary(&mut generate(model, &[options, &["--json"]].concat()))
}

/// Continuations by transformers: their smallest margins between two tokens are above float32's
/// noise, and all but the third's above float16's.
fn expected() -> Vec<Value> {
    read_json(&fixture("trained/expected.json"))["greedy"].as_array().unwrap().clone()
}

#[test]
fn every_form_of_a_model_continues_texts_as_transformers() {
    let home = Home::with("trained");
    for (options, notes) in [
        ("", 1),
        ("--functions", 1),
        ("--last-logits", 1),
        ("--seq-len 60", 1),
        ("--seq-len 60 --last-logits --batch-size 2", 2),
        ("--kv-cache", 0),
        ("--kv-cache --sliding-cache full", 0),
        ("--kv-cache --last-logits --functions", 0),
        ("--kv-cache --batch-size 2", 1),
        ("--kv-cache --seq-len 3", 1),
        ("--kv-cache --seq-len 1 --batch-size 1", 0),
        ("--kv-cache --compute f16", 0),
        ("--kv-cache --adapter-as swappable --adapter-modules all", 0),
        ("--target ort", 0),
        ("--target ort --sliding-cache full", 0),
        ("--target ort --last-logits", 0),
        ("--target ort --batch-size 3", 1),
        ("--target ort --seq-len 4", 1),
        ("--target ort --seq-len 4 --sliding-cache full --batch-size 2", 2),
        ("--target ort --compute f16", 0),
        ("--target ort --compute f16 --sliding-cache full", 0),
        ("--target ort --experts int4x2", 0),
        ("--target ort --adapter-as swappable", 0),
        ("--for genai", 0),
        ("--for genai --speculative", 0),
        ("--stages 2", 2),
        ("--stages 2 --kv-cache --functions", 1),
        ("--stages 4 --kv-cache --seq-len 3", 2),
        ("--stages 3 --target ort", 1),
        ("--stages 4 --target ort --last-logits --sliding-cache full", 1),
        ("--stages 2 --target ort --compute f16 --adapter-as swappable", 1),
    ] {
        let name = options.replace(' ', "");
        let name = if options.contains("genai") { format!("{name}/model") } else { name };
        let (model, _) = home.export(&name, &words(options));
        let model = model_path(&model, &words(options));
        for continuation in expected() {
            let [prompt, ids, all] = ["prompt", "ids", "text"].map(|key| &continuation[key]);
            let is_close = continuation["smallest_margin"].as_f64().unwrap() < 0.01;
            if options.contains("f16") && is_close {
                continue;
            }
            let prompt = prompt.as_str().unwrap();
            let options = ["--prompt", prompt, "--max-new-tokens", "48"];
            let found = generated(&model, &options);
            assert_eq!(found["ids"], *ids, "{model:?} {prompt}");
            assert_eq!(found["prompt_ids"], continuation["prompt_ids"]);
            let text = found["text"].as_str().unwrap();
            assert_eq!(format!("{prompt}{text}"), all.as_str().unwrap());
            assert_eq!(found["ended_by"], "max_new_tokens");
            assert_eq!(found["notes"].as_array().map_or(0, Vec::len), notes, "{found}");
        }
    }
}

/// The token after a prompt, against the logits of a reference whose last rows are those of its last
/// places.
fn assert_next(model: &Path, ids: &[i64], logits: &[f32], vocab: usize, options: &[&str]) {
    let rows = logits.len() / vocab;
    for row in [rows - 1, rows / 2, 0] {
        let of_row = &logits[row * vocab..][..vocab];
        let largest = (0..vocab).max_by(|a, b| of_row[*a].total_cmp(&of_row[*b]));
        let prompt = &ids[..=ids.len() - rows + row];
        let prompt: Vec<String> = prompt.iter().map(ToString::to_string).collect();
        let prompt = prompt.join(",");
        let found =
            generated(model, &[&["--ids", &*prompt, "--max-new-tokens", "1"], options].concat());
        assert_eq!(
            found["ids"],
            json!([largest.unwrap()]),
            "{} {options:?}, row {row}",
            model.display()
        );
    }
}

/// In chunks, for which these are long enough.
#[test]
fn long_prompts_have_the_logits_of_the_reference() {
    let read = |name: &str| {
        let ids = npy(&fixture(&format!("reference/logits-{name}.ids.npy")), i64::from_le_bytes);
        let logits = npy(&fixture(&format!("reference/logits-{name}.npy")), f32::from_le_bytes);
        (ids.into_raw_vec_and_offset().0, logits.into_raw_vec_and_offset().0)
    };
    for (checkpoint, vocab, case) in [("tiny", 320, "1x4500"), ("trained", 1024, "trained")] {
        let home = Home::with(checkpoint);
        let (ids, logits) = read(case);
        for options in [
            "--target ort",
            "--kv-cache",
            "--target ort --sliding-cache full",
            "--target ort --seq-len 100",
        ] {
            let (model, _) = home.export(&options.replace(' ', ""), &words(options));
            assert_next(&model, &ids, &logits, vocab, &[]);
        }
    }
}

#[test]
fn adapters_are_added_at_run_time() {
    for home in bases("attention").into_iter().take(1) {
        add(&home, "attention", "attention");
        for target in ["onnx", "ort"] {
            let options = ["--kv-cache", "--target", target, "--adapter-as", "swappable"];
            let (adapter, file) =
                (home.join("attention"), home.join(format!("{target}.onnx_adapter")));
            let (model, _) =
                home.export(target, &[&options[..], &["--adapter", text(&adapter)]].concat());
            printed(&mut binary(&[
                "adapter",
                text(&adapter),
                "--for",
                text(&model),
                "-o",
                text(&file),
            ]));
            let ids = npy(&fixture("lora/ids-2x40.npy"), i64::from_le_bytes);
            let ids = &ids.as_slice().unwrap()[..40];
            let logits = npy(&fixture("lora/attention.2x40.npy"), f32::from_le_bytes);
            let logits = logits.as_slice().unwrap();
            assert_next(&model, ids, &logits[..logits.len() / 2], 320, &["--adapter", text(&file)]);
            let twice = ["--ids", "1", "--adapter", text(&file), "--adapter", text(&file)];
            let error = sentence(&mut generate(&model, &twice));
            assert_contains(&error, "an adapter before it has `");
            let minimal = fixture("lora/minimal.onnx_adapter");
            let other = ["--ids", "1", "--adapter", text(&minimal)];
            let error = sentence(&mut generate(&model, &other));
            assert_contains(
                &error,
                "the model has no input `a.A`; write the adapter for this model",
            );
            let weighted = ["--ids", "1", "--adapter", "style.onnx_adapter=0.5"];
            assert_contains(
                &sentence(&mut generate(&model, &weighted)),
                "there is no file `style.onnx_adapter=0.5`: name one that the command `adapter` wrote, which contains the adapter's weight",
            );
            let folder = ["--ids", "1", "--adapter", text(&adapter)];
            assert_contains(
                &sentence(&mut generate(&model, &folder)),
                "is not an adapter file for ONNX Runtime: convert the LoRA adapter for this model with the command `adapter`",
            );
        }
    }
}

/// Packages are folders; their configs name the tokens that end a text.
#[test]
fn texts_end_where_configs_say() {
    let home = Home::with("trained");
    let first = &expected()[0];
    let [first_id, second_id, third_id] = [0, 1, 2].map(|at| first["ids"][at].clone());
    let options = ["--prompt", first["prompt"].as_str().unwrap(), "--max-new-tokens", "9"];
    let ended = |model: &Path| {
        let found = generated(model, &options);
        let ids = found["ids"].as_array().unwrap().clone();
        assert_eq!(found["ended_by"] == "token", ids.len() < 9, "{found}");
        assert!(ids.len() == 9 || found["text"].as_str().unwrap().matches(' ').count() < ids.len());
        ids
    };
    let generation = home.join("checkpoint/generation_config.json");
    edit_json(&generation, |config| config["eos_token_id"] = second_id.clone());
    home.export("genai/model", &["--for", "genai"]);
    home.export("web/onnx/model", &["--transformers-js"]);
    let (plain, _) = home.export("plain", &[]);
    for model in [&home.join("genai"), &home.join("web"), &plain] {
        assert_eq!(ended(model), [first_id.clone(), second_id.clone()], "{model:?}");
    }
    edit_json(&home.join("genai/genai_config.json"), |config| {
        config["model"]["eos_token_id"] = json!([third_id, 2]);
    });
    assert_eq!(ended(&home.join("genai")).len(), 3);
    fs::remove_file(&generation).unwrap();
    edit_json(&home.join("checkpoint/config.json"), |config| {
        config["eos_token_id"] = first_id.clone();
    });
    assert_eq!(ended(&plain), [first_id]);
    edit_json(&home.join("checkpoint/config.json"), |config| config["eos_token_id"] = json!(null));
    assert_eq!(ended(&plain).len(), 9);
    let note = "no file beside the model names the tokens that end a text";
    assert_contains(&generated(&plain, &options)["notes"].to_string(), note);
}

/// A chat, and the final message of an answer that the prompt begins.
#[test]
fn chats_are_tokenized_by_their_template_and_show_their_final_message() {
    let home = Home::with("trained");
    let (model, _) = home.export("m", &["--target", "ort"]);
    let date = printed(Command::new("date").arg("+%Y-%m-%d"));
    let chat = format!(
        "<|start|>system<|message|>Current date: {}<|end|><|start|>user<|message|>Who was <Moses>?<|end|><|start|>assistant",
        date.trim_end()
    );
    let few = ["--max-new-tokens", "12"];
    let by_template = generated(&model, &[&["--chat", "Who was <Moses>?"], &few[..]].concat());
    let written = generated(&model, &[&["--prompt", &*chat], &few[..]].concat());
    assert_eq!(by_template["prompt_ids"], written["prompt_ids"]);
    assert_eq!(by_template["ids"], written["ids"]);
    for (begun, is_shown) in [
        ("<|channel|>final<|message|>And God", true),
        ("<|channel|>final <|constrain|>json<|message|>And God", true),
        ("<|channel|>analysis<|message|>And God", false),
        ("<|channel|>final<|message|>And<|end|>God", false),
        ("And God", false),
    ] {
        let prompt = ["--prompt", begun];
        let all = generated(&model, &[&prompt, &few[..]].concat());
        let found = generated(&model, &[&prompt, &few[..], &["--final"]].concat());
        let text = if is_shown { all["text"].clone() } else { json!("") };
        assert_eq!((&found["text"], &found["ids"]), (&text, &all["ids"]), "{begun}");
        let options = [&prompt[..], &few, &["--final", "--quiet"]].concat();
        let error = generate(&model, &options).output().unwrap().stderr;
        let warning = String::from_utf8(error).unwrap();
        assert_eq!(warning.starts_with("warning: no final message in "), !is_shown, "{warning}");
    }
}

#[test]
fn samples_are_repeatable_and_prompts_come_from_standard_input() {
    let home = Home::with("trained");
    let (model, _) = home.export("m", &["--target", "ort"]);
    let prompt = ["--prompt", "In the beginning", "--max-new-tokens", "20"];
    let sampled =
        |options: &str| generated(&model, &[&prompt[..], &words(options)].concat())["ids"].clone();
    let greedy = sampled("");
    assert_eq!(sampled("--temperature 0"), greedy);
    assert_eq!(sampled("--temperature 2 --top-k 1"), greedy);
    assert_eq!(sampled("--temperature 2 --top-p 0"), greedy);
    let warm = sampled("--temperature 1 --seed 5");
    assert_eq!(sampled("--temperature 1 --seed 5"), warm);
    assert!(sampled("--temperature 1 --seed 6") != warm && warm != greedy);

    let mut child = generate(&model, &["--max-new-tokens", "20", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"In the beginning\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let whole = expected()[1]["text"].as_str().unwrap().to_owned();
    let shown = String::from_utf8(output.stdout).unwrap();
    let shown = shown.strip_suffix('\n').unwrap();
    assert!(whole.starts_with(&format!("In the beginning{shown}")) && shown.len() > 20, "{shown}");
    // Ids in, ids out.
    let ids: Vec<String> =
        expected()[1]["prompt_ids"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let ids = ids.join(",");
    let shown =
        printed(&mut generate(&model, &["--ids", &ids, "--max-new-tokens", "3", "--quiet"]));
    assert_eq!(
        format!("[{}]", shown.trim_end()),
        json!(expected()[1]["ids"].as_array().unwrap()[..3]).to_string()
    );
}

/// Text comes before the process has ended, and the first interruption ends it in order.
#[cfg(unix)]
#[test]
fn text_is_shown_as_it_is_made_until_it_is_interrupted() {
    let home = Home::with("trained");
    let (model, _) = home.export("m", &["--target", "ort"]);
    for options in [&[][..], &["--json"]] {
        let endless = ["--prompt", "In the beginning", "--max-new-tokens", "100000"];
        let sampled = ["--temperature", "1"];
        let mut child = generate(&model, &[&endless[..], &sampled, options].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut first = [0; 12];
        if options.is_empty() {
            output.read_exact(&mut first).unwrap();
            assert!(child.try_wait().unwrap().is_none());
        } else {
            std::thread::sleep(std::time::Duration::from_secs(2));
        }
        printed(Command::new("kill").args(["-INT", &child.id().to_string()]));
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        let result = child.wait_with_output().unwrap();
        let error = String::from_utf8(result.stderr).unwrap();
        assert_eq!(result.status.code(), Some(1), "{error}");
        assert_contains(&error, "error: interrupted");
        if options.is_empty() {
            assert!(rest.ends_with('\n'));
            assert_contains(&error, "tokens/s, interrupted");
        } else {
            let found: Value = serde_json::from_str(&rest).unwrap();
            assert_eq!(found["ended_by"], "interruption");
        }
    }
}

/// A reader such as `head` ends the text, and has got all that it wants.
#[cfg(unix)]
#[test]
fn a_reader_may_go_away() {
    let home = Home::with("trained");
    let (model, _) = home.export("m", &["--target", "ort"]);
    let endless = ["--prompt", "In the beginning", "--max-new-tokens", "100000", "--quiet"];
    let mut command = generate(&model, &[&endless[..], &["--temperature", "1"]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 12]).unwrap();
    let result = child.wait_with_output().unwrap();
    assert!(result.status.success() && result.stderr.is_empty(), "{result:?}");
}

/// In a terminal there are no traces of progress within the text.
#[cfg(unix)]
#[test]
fn terminals_get_the_text_and_the_numbers() {
    const PROGRAM: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
    let home = Home::with("trained");
    let (model, _) = home.export("m", &["--target", "ort"]);
    let mut command = Command::new(interpreter());
    let inner = generate(&model, &["--prompt", "In the beginning", "--max-new-tokens", "48"]);
    command.args(["-c", PROGRAM]).arg(inner.get_program()).args(inner.get_args());
    let shown = printed(command.stdin(Stdio::null()));
    let whole = expected()[1]["text"].as_str().unwrap().to_owned();
    let continuation = whole.strip_prefix("In the beginning").unwrap().replace('\n', "\r\n");
    assert_contains(&shown, &continuation);
    assert_contains(&shown, "ended at the number that was asked for");
}

//! The programs and the notebook of `examples/python`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::environment::{beside_examples, examples_interpreter, onnxruntime, search_path};
use crate::support::{
    Home, assert_contains, binary, cases, copy_folder, edit_json, fixture, printed, read_json,
    root, summary, text, words,
};

const MESSAGES: [&str; 3] = ["Who was Moses?", "And then?", "Go on"];

/// Runs a program with lines on its standard input.
fn run(name: &str, arguments: &[&str], lines: &str) -> Output {
    let mut program = Command::new(examples_interpreter());
    program.arg(root().join("examples/python").join(name)).args(arguments);
    let pipes = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    // A program that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap()
}

/// How a conversation has an earlier reply.
struct History {
    /// In the chat template.
    template: &'static str,
    /// `{}` stands for the reply.
    text: &'static str,
    trims: bool,
}

/// As in harmony, with a channel that the model has not written.
const FINAL: History = History {
    template: r#"message("assistant", m.content | trim, "final")"#,
    text: "<|start|>assistant<|channel|>final<|message|>{}<|end|>",
    trims: true,
};

/// As the model has written it: a prompt begins with the whole text before it.
const WRITTEN: History = History {
    template: r#""<|start|>assistant" ~ m.content ~ "<|end|>""#,
    text: "<|start|>assistant{}<|end|>",
    trims: false,
};

/// The trained checkpoint, whose template has this history, and whose replies end at these tokens: 2, and
/// 22, a full stop.
fn home(history: &History, ends: &[u32]) -> Home {
    let home = Home::with("trained");
    let template = home.checkpoint().join("chat_template.jinja");
    let source = std::fs::read_to_string(&template).unwrap();
    assert_contains(&source, FINAL.template);
    std::fs::write(&template, source.replace(FINAL.template, history.template)).unwrap();
    let config = home.checkpoint().join("generation_config.json");
    edit_json(&config, |config| config["eos_token_id"] = json!(ends));
    home
}

/// The turns of a chat with these messages, each token computed from the whole conversation.
fn conversation(
    model: &Path,
    checkpoint: &Path,
    history: &History,
    ends: &[u32],
    limit: usize,
) -> Vec<Value> {
    let request = json!({
        "model": model,
        "tokenizer": checkpoint.join("tokenizer.json"),
        "messages": MESSAGES,
        "history": history.text,
        "trims": history.trims,
        "tokens": limit,
        "ends": ends,
    });
    serde_json::from_value(beside_examples("conversation.py", &request)).unwrap()
}

/// Each reply is that of a computation of the whole conversation, and prompts take from the caches what
/// they may.
fn assert_chats(program: &str, table: &str) {
    for [options, history, ends, limit, keeps] in cases(table) {
        let history = if history == "final" { &FINAL } else { &WRITTEN };
        let ends: Vec<u32> = serde_json::from_str(ends).unwrap();
        let home = home(history, &ends);
        let (exact, _) = home.export("exact", &[]);
        let (model, _) = home.export("chat/model", &words(options));
        let checkpoint = home.checkpoint();
        let turns = conversation(&exact, &checkpoint, history, &ends, limit.parse().unwrap());
        let limited = ["--max-new-tokens", limit];
        let arguments = match program {
            "chat.py" => [&[text(&model), "--tokenizer", text(&checkpoint)], &limited[..]].concat(),
            _ => [&[text(model.parent().unwrap())], &limited[..]].concat(),
        };
        let output = run(program, &arguments, &MESSAGES.map(|it| format!("{it}\n")).concat());
        let [shown, said] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        let replies: Vec<&str> = turns.iter().map(|turn| turn["text"].as_str().unwrap()).collect();
        assert_eq!(shown, replies.join("\n") + "\n", "{program} {options}: {said}");
        assert_kept(&said, &turns, keeps == "keeps");

        let first = ["generate", text(&exact), "--tokenizer", text(&checkpoint), "--json"];
        let asked = ["--chat", MESSAGES[0], "--onnxruntime", text(onnxruntime())];
        let found = summary(&mut binary(&[&first, &asked[..], &limited].concat()));
        assert_eq!(found["prompt_ids"], turns[0]["prompt"]);
        // It gives the token that ended the text, too.
        let ids = turns[0]["ids"].as_array().unwrap();
        assert_eq!(found["ids"].as_array().unwrap()[..ids.len()], ids[..]);
    }
}

/// Asserts what a chat says of its prompts: how long they are, and whether each but the first took at
/// least the prompt before it from the caches, or nothing.
#[track_caller]
fn assert_kept(said: &str, turns: &[Value], keeps: bool) {
    let lengths: Vec<usize> =
        turns.iter().map(|turn| turn["prompt"].as_array().unwrap().len()).collect();
    // onnxruntime may warn besides.
    let lines = said.lines().filter(|line| line.starts_with("[prompt ")).map(|line| {
        let numbers = line.split(' ').filter_map(|word| word.parse().ok());
        <[usize; 2]>::try_from(numbers.collect::<Vec<_>>()).unwrap_or_else(|_| panic!("{said}"))
    });
    let (found, kept): (Vec<_>, Vec<_>) = lines.map(|[length, kept]| (length, kept)).unzip();
    assert_eq!((found, kept[0]), (lengths.clone(), 0), "{said}");
    for (kept, before) in kept[1..].iter().zip(&lengths) {
        assert!(if keeps { kept >= before } else { *kept == 0 }, "{said}");
    }
}

#[test]
fn chats_in_onnxruntime_reply_as_whole_conversations() {
    assert_chats(
        "chat.py",
        "--for onnxruntime | final | [2] | 12 | keeps
        --for onnxruntime | final | [2] | 17 | keeps
        --for onnxruntime | final | [2] | 18 | drops
        --for onnxruntime | final | [2, 22] | 12 | keeps
        --for onnxruntime | written | [2] | 60 | keeps
        --for onnxruntime | written | [22] | 60 | keeps
        --for onnxruntime --sliding-cache full | final | [2] | 60 | keeps
        --for onnxruntime --compute f16 | final | [2] | 12 | keeps
        --for onnxruntime --dense int8x2 --experts int4x2 | written | [2] | 30 | keeps
        --kv-cache | final | [2] | 17 | keeps
        --kv-cache | final | [2] | 18 | drops
        --kv-cache --sliding-cache full --compute f16 | written | [2] | 30 | keeps",
    );
}

#[test]
fn chats_in_onnxruntime_genai_reply_as_whole_conversations() {
    assert_chats(
        "chat_genai.py",
        "--for genai | final | [2] | 60 | drops
        --for genai | written | [2] | 60 | keeps
        --for genai | written | [22] | 60 | keeps
        --for genai --sliding-cache full | final | [2] | 60 | keeps
        --for genai --sliding-cache full | final | [22] | 60 | keeps
        --for genai --speculative | final | [2] | 60 | keeps
        --for genai --target onnx | written | [2] | 30 | keeps
        --for genai --target onnx | final | [2] | 30 | keeps",
    );
}

/// The rows of the table that `evaluate.py` prints: perplexity, divergence, and share of equal likeliest
/// tokens in percent.
fn evaluated(models: &[PathBuf], window: &str) -> Vec<[f64; 3]> {
    let checkpoint = fixture("trained");
    let held_out = checkpoint.join("held-out.txt");
    let options = ["--text", text(&held_out), "--tokenizer", text(&checkpoint), "--tokens", window];
    let models: Vec<&str> = models.iter().map(|model| text(model)).collect();
    let output = run("evaluate.py", &[&models[..], &options].concat(), "");
    let table = String::from_utf8(output.stdout).unwrap();
    let number = |cell: &str| cell.trim().trim_end_matches('%').parse().ok();
    let row = |line: &str| line.split('|').filter_map(number).collect::<Vec<f64>>().try_into().ok();
    let rows: Vec<_> = table.lines().filter_map(row).collect();
    assert_eq!(rows.len(), models.len(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    rows
}

/// Of the text that training did not see, by transformers.
#[test]
fn evaluate_measures_perplexity_and_divergence() {
    let home = Home::with("trained");
    let options = ["", "--target ort", "--kv-cache --compute f16", "--experts int4"];
    let models = options.map(|it| home.export(&it.replace(' ', ""), &words(it)).0);
    let models = [&models[..1], &models].concat();
    for (window, expected) in
        read_json(&fixture("trained/expected.json"))["perplexity_by_window"].as_object().unwrap()
    {
        let expected = expected["perplexity"].as_f64().unwrap();
        let [first, same, ort, half, int4] = evaluated(&models, window).try_into().unwrap();
        for [perplexity, ..] in [first, same, ort] {
            assert!((perplexity - expected).abs() < 1e-4, "{window}: {perplexity}, not {expected}");
        }
        assert_eq!((first, first[1..].to_vec()), (same, vec![0.0, 100.0]));
        assert!(ort[1].abs() < 1e-10 && ort[2] > 99.9, "{ort:?}");
        assert!((1e-9..1e-4).contains(&half[1]) && half[2] > 99.0, "{half:?}");
        assert!((5e-4..5e-3).contains(&int4[1]) && (90.0..99.9).contains(&int4[2]), "{int4:?}");
    }
}

#[test]
fn programs_say_what_they_cannot_use() {
    let home = Home::with("trained");
    let [exact, last] = [("exact", &[][..]), ("last", &["--target", "ort", "--last-logits"])]
        .map(|(name, options)| home.export(name, options).0);
    let [checkpoint, bare] = ["checkpoint", "bare"].map(|name| home.join(name));
    let held_out = checkpoint.join("held-out.txt");
    copy_folder(&checkpoint, &bare);
    for name in ["generation_config.json", "config.json"] {
        std::fs::remove_file(bare.join(name)).unwrap();
    }
    let [exact, last, checkpoint, bare, held_out] =
        [&exact, &last, &checkpoint, &bare, &held_out].map(|path| text(path));
    let [chat, evaluate] = ["chat.py", "evaluate.py"];
    let measured = ["--text", held_out, "--tokenizer", checkpoint];
    for (program, arguments, sentence) in [
        (
            chat,
            vec![exact, "--tokenizer", checkpoint],
            format!("`{exact}` has no caches: export it for onnxruntime."),
        ),
        (
            chat,
            vec![last, "--tokenizer", bare],
            format!("`{bare}` has no config that names an `eos_token_id`, which ends replies."),
        ),
        (
            evaluate,
            [&[last], &measured[..]].concat(),
            format!(
                "`{last}` gives the logits of the last token only: export it with those of all."
            ),
        ),
        (
            evaluate,
            [&[exact, "--tokens", "5000"], &measured[..]].concat(),
            "a window has from 2 to the 4251 tokens of the text, not 5000".to_owned(),
        ),
    ] {
        let output = run(program, &arguments, "Who?\n");
        assert!(!output.status.success() && output.stdout.is_empty());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!error.contains("Traceback") && error.trim_end().ends_with(&sentence), "{error}");
    }
}

const RUN_CELLS: &str = r#"
import json
names = {}
for cell in json.load(open("tutorial.ipynb", encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
"#;

/// Its cells in order, without Jupyter, say what transformers and the programs do.
#[test]
fn notebook_runs() {
    let path = root().join("examples/python/tutorial.ipynb");
    let notebook = read_json(&path);
    for cell in notebook["cells"].as_array().unwrap().iter().filter(|it| it["cell_type"] == "code")
    {
        assert_eq!((&cell["outputs"], &cell["execution_count"]), (&json!([]), &json!(null)));
    }
    let home = Home::with("trained");
    copy_folder(path.parent().unwrap(), &home.join("examples/python"));
    copy_folder(&fixture("trained"), &home.join("tests/fixtures/trained"));
    let mut python = Command::new(examples_interpreter());
    python.args(["-c", RUN_CELLS]).env("PATH", search_path());
    let shown = printed(python.current_dir(home.join("examples/python")));

    let [exact, int4] = [&[][..], &["--experts", "int4"]]
        .map(|options| home.export(&format!("model{}", options.concat()), options).0);
    let turns = conversation(&exact, &home.checkpoint(), &FINAL, &[2], 12);
    let expected = read_json(&fixture("trained/expected.json"));
    let perplexity = expected["perplexity_by_window"]["512"]["perplexity"].as_f64().unwrap();
    let [_, [_, divergence, _]] = evaluated(&[exact, int4], "512").try_into().unwrap();
    for part in [
        "experts     mxfp4",
        "verdict  the model computes what the checkpoint says",
        turns[0]["text"].as_str().unwrap(),
        turns[1]["text"].as_str().unwrap(),
        &format!("perplexity of the reference {perplexity:.2} ± "),
        &format!(" {divergence:.5} ± "),
    ] {
        assert_contains(&shown, part);
    }
}

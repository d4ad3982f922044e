//! The chat page of `examples/web` in headless Chromium.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::environment::{interpreter, javascript, node_modules, python};
use super::page::has_browser;
use crate::support::{Home, assert_contains, copy_folder, root};

/// Serves a folder on loopback, until it is dropped.
struct Server {
    process: Child,
    port: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(interpreter())
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let port = said.split("port ").nth(1).and_then(|it| it.split(' ').next());
        let port = port.unwrap_or_else(|| panic!("{said}")).to_owned();
        Self { process, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with the page, npm's packages and the trained checkpoint.
fn home() -> Home {
    let home = Home::with("trained");
    copy_folder(&root().join("examples/web"), &home);
    std::os::unix::fs::symlink(node_modules(), home.join("node_modules")).unwrap();
    home
}

const PROCESSOR: &str = r#"["--disable-gpu"]"#;

/// A GPU that is a program.
const GPU: &str =
    r#"["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]"#;

const MESSAGES: [&str; 3] = ["And God said, Let there be", "Who is it?", "Go on"];

/// Of each message but the last at most so many tokens; the last is stopped.
const LIMIT: usize = 24;

/// Tokens are those of onnxruntime in Python for the prompt that the chat template makes of the
/// conversation.
#[test]
fn replies_as_onnxruntime_does() {
    if !has_browser() {
        return;
    }
    let home = home();
    let server = Server::start(&home);
    let by_wasm = "web runs on the CPU by WASM, which is slow: WebGPU finds no GPU";
    let by_webgpu = "web runs on the GPU by WebGPU";
    let standard = &["--transformers-js"][..];
    let integers = &["--for", "transformers-js"][..];
    for (model, options, browser, messages, status) in [
        ("model", standard, PROCESSOR, &MESSAGES[..], by_wasm),
        ("model_q4f16", integers, PROCESSOR, &MESSAGES, by_wasm),
        ("model", standard, GPU, &MESSAGES[..1], by_webgpu),
    ] {
        let _ = fs::remove_dir_all(home.join("web"));
        let (model, _) = home.export(&format!("web/onnx/{model}"), options);
        let address = format!("http://127.0.0.1:{}/?model=web&packages=node_modules", server.port);
        let (program, asked) = (include_str!("../../javascript/chat.mjs"), json!(messages));
        let arguments = [&address, browser, &asked.to_string(), &LIMIT.to_string()];
        let found: Value = serde_json::from_str(&javascript(program, &arguments, &home)).unwrap();
        assert_eq!(found["status"], status);
        assert_eq!((&found["problems"], &found["widths"]), (&json!([]), &json!([360, 1400])));
        assert_contains(found["measures"].as_str().unwrap(), "tokens/s");
        assert_conversation(&found, messages, &model);
    }
}

#[test]
fn says_what_is_missing() {
    if !has_browser() {
        return;
    }
    let home = home();
    let server = Server::start(&home);
    let here = format!("http://127.0.0.1:{}", server.port);
    home.export("silent/onnx/model", &["--transformers-js"]);
    fs::remove_file(home.join("silent/tokenizer.json")).unwrap();
    for (query, sentence) in [
        (
            "model=absent&packages=node_modules",
            format!("It failed: {here}/absent/config.json does not exist (status 404): ?model=FOLDER names the folder above onnx"),
        ),
        (
            "model=silent&packages=node_modules",
            format!("It failed: {here}/silent/tokenizer.json does not exist (status 404): copy that of the checkpoint there"),
        ),
        (
            "model=checkpoint&packages=node_modules",
            format!("It failed: {here}/checkpoint/config.json is not of an export for transformers.js"),
        ),
        (
            "packages=absent",
            format!("transformers.js did not load from {here}/absent/: ?packages=FOLDER names a node_modules on this server"),
        ),
        (
            "packages=https://example.org",
            "transformers.js did not load from https://example.org/: ?packages=FOLDER names a node_modules on this server".to_owned(),
        ),
    ] {
        assert_eq!(chat(&server, query, PROCESSOR, &[])["status"], sentence);
    }
}

/// What the page shows and generates at an address with this query.
fn chat(server: &Server, query: &str, browser: &str, messages: &[&str]) -> Value {
    let address = format!("http://127.0.0.1:{}/?{query}", server.port);
    let (program, asked) = (include_str!("../../javascript/chat.mjs"), json!(messages));
    let arguments = [&address, browser, &asked.to_string(), &LIMIT.to_string()];
    let printed = javascript(program, &arguments, Path::new("."));
    serde_json::from_str(&printed).unwrap()
}

/// Asserts that a conversation has the prompts of the chat template, and replies of this model.
fn assert_conversation(found: &Value, messages: &[&str], model: &Path) {
    let mut conversation = String::new();
    let generated = found["generated"].as_array().unwrap();
    assert_eq!(generated.len(), messages.len());
    for (at, (turn, message)) in generated.iter().zip(messages).enumerate() {
        conversation += &format!("<|start|>user<|message|>{message}<|end|>");
        let (system, rest) = turn["asked"].as_str().unwrap().split_once("<|end|>").unwrap();
        assert_contains(system, "<|start|>system<|message|>Current date: ");
        assert_eq!(rest, format!("{conversation}<|start|>assistant"));

        let count = turn["tokens"].as_array().unwrap().len();
        let request = json!({"models": [model], "prompt": turn["prompt"], "tokens": count});
        assert_eq!(python("greedy.py", &[], &request)[0], turn["tokens"], "{message}");
        let is_last = at + 1 == messages.len();
        assert!(if is_last { count < 200 } else { count == LIMIT }, "{count} tokens");

        let answered = turn["answered"].as_str().unwrap();
        assert_eq!([&found["shown"][2 * at], &found["shown"][2 * at + 1]], [message, answered]);
        let reply = answered.trim();
        conversation += &format!("<|start|>assistant<|channel|>final<|message|>{reply}<|end|>");
    }
}

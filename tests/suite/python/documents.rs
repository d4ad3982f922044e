//! What documents show runs as it is written.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::environment::{interpreter, javascript, onnxruntime};
use crate::derived::in_folder;
use crate::documents::documents;
use crate::genai::with_tokenizer;
use crate::support::{copy_folder, fixture, folder_with_tiny, printed};

/// Commands and programs run in a folder as their document assumes it, with the built binary
/// for `cargo run --release --`.
#[test]
fn commands_run_as_written() {
    let mut ran = BTreeMap::new();
    for (name, text) in documents() {
        let home = place_for(&name);
        for block in text.split("```").skip(1).step_by(2) {
            let (language, code) = block.split_once('\n').unwrap();
            let count = match language {
                "sh" => run_commands(code, home.path()),
                "yaml" => run_commands(&steps(code), home.path()),
                "python" => {
                    let mut program = Command::new(interpreter());
                    printed(program.args(["-c", code]).current_dir(home.path()));
                    1
                }
                "js" => {
                    javascript(code, &[], &home.path().join("out/js"));
                    1
                }
                // What needs the released weights, or takes an hour.
                "text" => 0,
                _ => panic!("{name} has code in {language:?}"),
            };
            *ran.entry(format!("{name} {language}")).or_insert(0) += count;
        }
    }
    let ran = ran.iter().filter(|(_, count)| **count > 0);
    let lines: Vec<String> = ran.map(|(what, count)| format!("{what}: {count}")).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// A folder with the files that a document assumes: fixtures, and a checkpoint of the reader.
fn place_for(document: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    for name in ["tiny", "tiny-hf"] {
        copy_folder(&fixture(name), &home.path().join("tests/fixtures").join(name));
    }
    let (from, name, to) = match document {
        "docs/checkpoints.md" => (in_folder("bf16"), "checkpoint", "out/checkpoint"),
        "docs/serving.md" => (with_tokenizer(), "tiny", "out/checkpoint"),
        "docs/ci.md" => (folder_with_tiny(), "tiny", "checkpoint"),
        _ => return home,
    };
    copy_folder(&from.path().join(name), &home.path().join(to));
    home
}

/// The commands of a workflow, but for those that install something.
fn steps(workflow: &str) -> String {
    let runs = workflow.lines().filter_map(|line| line.trim().strip_prefix("- run: "));
    runs.filter(|line| !line.starts_with("pip ")).map(|line| format!("{line}\n")).collect()
}

/// Runs all lines but cargo's own commands, and returns their number.
fn run_commands(code: &str, folder: &Path) -> usize {
    let code = code.replace("\\\n", " ").replace("cargo run --release --", "gpt-oss-export");
    let is_command = |line: &&str| !line.is_empty() && !line.starts_with("cargo ");
    let lines: Vec<&str> = code.lines().filter(is_command).collect();
    for line in &lines {
        let built = concat!(env!("CARGO_BIN_EXE_gpt-oss-export"), " ");
        let arguments = line.strip_prefix("gpt-oss-export ");
        let line = arguments.map_or((*line).to_owned(), |arguments| built.to_owned() + arguments);
        let mut shell = Command::new("sh");
        shell.args(["-ec", &line]).env("ORT_DYLIB_PATH", onnxruntime());
        printed(shell.current_dir(folder));
    }
    lines.len()
}

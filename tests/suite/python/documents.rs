//! What documents show runs as it is written, and so do the printed example, the script of the
//! benchmarks and the wheel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::environment::{interpreter, javascript, onnxruntime, python_of, search_path};
use crate::documents::documents;
use crate::genai::with_tokenizer;
use crate::layout_fixtures::in_folder;
use crate::support::{Home, binary, copy_folder, export_args, fixture, printed, root, text};

/// Commands and programs run in a folder as their document assumes it, with the built binary. The
/// blocks of Python in a document are one program, which runs after all commands.
#[test]
fn commands_run_as_written() {
    let mut ran = BTreeMap::new();
    // The overview is the README.
    for (name, text) in documents().into_iter().filter(|(name, _)| name != "docs/overview.md") {
        let (home, mut program) = (place_for(&name), String::new());
        for block in text.split("```").skip(1).step_by(2) {
            let (language, code) = block.split_once('\n').unwrap();
            let count = match language {
                "sh" => run_commands(code, &home),
                "yaml" => run_commands(&steps(code), &home),
                "python" => {
                    program += code;
                    1
                }
                "js" => {
                    javascript(code, &[], &home.join("out/js"));
                    1
                }
                // What needs the released weights, or takes an hour.
                "text" => 0,
                _ => panic!("{name} has code in {language:?}"),
            };
            *ran.entry(format!("{name} {language}")).or_insert(0) += count;
        }
        if !program.is_empty() {
            let mut python = Command::new(interpreter());
            printed(python.args(["-c", &program]).current_dir(&*home));
        }
    }
    let ran = ran.iter().filter(|(_, count)| **count > 0);
    let lines: Vec<String> = ran.map(|(what, count)| format!("{what}: {count}")).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// A folder with the files that a document assumes: fixtures, and a checkpoint of the reader.
fn place_for(document: &str) -> Home {
    let home = Home::new();
    for name in ["tiny", "tiny-hf", "trained"] {
        copy_folder(&fixture(name), &home.join("tests/fixtures").join(name));
    }
    let (from, to) = match document {
        "docs/fine-tunes.md" => {
            copy_folder(&in_folder("bf16").checkpoint(), &home.join("out/merged"));
            for (from, to) in [("lora/experts", "adapter"), ("lora/attention", "style")] {
                copy_folder(&fixture(from), &home.join("out").join(to));
            }
            (with_tokenizer(), "out/base")
        }
        "docs/genai.md" => (with_tokenizer(), "out/checkpoint"),
        "docs/ci.md" => (Home::with("trained"), "checkpoint"),
        "examples/python/README.md" => {
            copy_folder(&root().join("examples/python"), &home.join("examples/python"));
            return home;
        }
        _ => return home,
    };
    copy_folder(&from.checkpoint(), &home.join(to));
    home
}

/// The commands of a workflow, but for those that install something.
fn steps(workflow: &str) -> String {
    let runs = workflow.lines().filter_map(|line| line.trim().strip_prefix("- run: "));
    runs.filter(|line| !line.starts_with("pip ")).collect::<Vec<_>>().join("\n")
}

/// Runs all lines but cargo's own commands, and returns their number.
fn run_commands(code: &str, folder: &Path) -> usize {
    let code = code.replace("\\\n", " ");
    let is_command = |line: &&str| !line.is_empty() && !line.starts_with("cargo ");
    let lines: Vec<&str> = code.lines().filter(is_command).collect();
    for line in &lines {
        let mut shell = Command::new("sh");
        shell.args(["-ec", line]).env("PATH", search_path());
        shell.env("ORT_DYLIB_PATH", onnxruntime());
        printed(shell.current_dir(folder));
    }
    lines.len()
}

#[test]
fn printed_example_runs_the_model() {
    let home = Home::new();
    let model = home.join("it's \"a\" model é.onnx");
    for options in [
        &[][..],
        &["--batch-size", "2", "--seq-len", "5"],
        &["--batch-size", "3", "--kv-cache"],
        &["--last-logits"],
        &["--target", "ort"],
    ] {
        let summary = printed(&mut binary(&export_args(&fixture("tiny"), &model, options)));
        let example = summary.lines().last().unwrap().strip_prefix("try      ").unwrap();
        let program = format!("import numpy, onnxruntime; {example}");
        printed(Command::new(interpreter()).args(["-c", &program]));
    }
}

/// `benches/compare` on a tiny model and without other exporters.
#[cfg(target_os = "linux")]
#[test]
fn compare_script_measures_all_exports_and_writes_tables() {
    let home = Home::new();
    let (work, page) = (home.join("work"), home.join("page"));
    fs::create_dir(&page).unwrap();
    fs::copy(root().join("docs/benchmarks.md"), page.join("benchmarks.md")).unwrap();
    let mut script = Command::new(interpreter());
    script.arg(root().join("benches/compare"));
    script.args(["--quick", "--binary", env!("CARGO_BIN_EXE_gpt-oss-export")]);
    printed(script.args(["--work", text(&work), "--page", text(&page)]));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "models are left in {work:?}");

    let read = |name: &str| fs::read_to_string(page.join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("benchmarks.json")).unwrap();
    let text = read("benchmarks.md");
    let within = |value: &Value, bound: f64| value.as_f64().unwrap() <= bound;
    assert!(within(&results["verify"]["max"], results["verify"]["bound"].as_f64().unwrap()));
    let entries = results["ours"].as_array().unwrap();
    assert!(entries.len() >= 5, "{results}");
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        assert!(text.contains(&format!("| {name} |")), "the tables lack {name}");
        assert!(entry["seconds"].as_f64().unwrap() > 0.0 && entry["size"].as_u64() > Some(0));
        let exact = !name.contains("int");
        if let Some(run) = entry.get("run") {
            assert!(run["load"].as_f64().is_some(), "{name} does not run: {run}");
            assert!(!exact || within(&entry["error"]["max"], 1e-5), "{name}: {}", entry["error"]);
        }
    }
    assert!(text.contains("| model | step | error |\n| --- | --- | --- |\n<!-- end -->"), "{text}");
}

#[test]
fn wheel_puts_program_on_path() {
    let home = Home::new();
    let (wheels, environment) = (home.join("wheels"), home.join("empty"));
    let mut build = Command::new(interpreter());
    build.args(["-m", "maturin", "build", "--locked", "--profile", "dev", "--out"]).arg(&wheels);
    // Variables that `cargo test` sets for this package would make others build anew.
    for (name, _) in std::env::vars() {
        if name == "OUT_DIR" || name.starts_with("CARGO_") && name != "CARGO_HOME" {
            build.env_remove(name);
        }
    }
    // A target folder of its own, since a build would replace the binary that other tests run;
    // unoptimized, which takes the least time.
    build.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("wheel"));
    build.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    printed(build.current_dir(root()));
    printed(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    let wheel = fs::read_dir(&wheels).unwrap().next().unwrap().unwrap().path();
    let mut install = Command::new(python_of(&environment));
    printed(install.args(["-m", "pip", "install", "--quiet", "--no-index"]).arg(wheel));
    let program = python_of(&environment).with_file_name("gpt-oss-export");
    let version = printed(Command::new(&program).arg("--version"));
    let expected = concat!("gpt-oss-export ", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(expected), "{version}");
    let model = home.join("out/model.onnx");
    printed(Command::new(program).args(export_args(&fixture("tiny"), &model, &[])));
    assert!(model.exists());
}

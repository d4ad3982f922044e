//! What README and docs say is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use gpt_oss_export::graph::{Attribute, Body, Style};
use gpt_oss_export::model::{GraphOptions, Target, decoder};
use gpt_oss_export::tensor::DType;
use gpt_oss_export::tensor::ints::Bits;
use gpt_oss_export::weights::{MatrixFormat, Role};

use crate::support::{fixture, interpreter, javascript, onnxruntime};

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Names and operators of all nodes, with those of equal parts made one.
fn nodes(body: &Body, found: &mut BTreeSet<(String, String)>) {
    for node in &body.nodes {
        // One entry stands for all layers, and one for all shapes.
        let other_layer = node.name.starts_with("layers.") && !node.name.starts_with("layers.0");
        let shape = node.op == "Concat" && node.name.starts_with("shape.");
        if !other_layer && !shape {
            found.insert((listed_name(&node.name), node.op.clone()));
        }
        for (_, attribute) in &node.attributes {
            if let Attribute::Body(nested) = attribute {
                nodes(nested, found);
            }
        }
    }
}

/// Those of a model.
fn all_nodes(
    checkpoint: &Checkpoint,
    options: GraphOptions,
    found: &mut BTreeSet<(String, String)>,
) {
    let model = decoder(&checkpoint.config, &checkpoint.weights, options).unwrap();
    for graph in model.functions.iter().map(|function| &function.graph).chain([&model.main]) {
        nodes(&graph.body, found);
    }
}

/// A node's name as the document has it: seen from its block.
fn listed_name(name: &str) -> String {
    let mut name = name.to_owned();
    for block in ["layers.0.attn.", "layers.0.mlp.", "norm."] {
        name = name.strip_prefix(block).map_or(name.clone(), str::to_owned);
    }
    for part in ["experts.gate_up.", "experts.down."] {
        name = name.replace(part, "experts.W.");
    }
    name
}

#[test]
fn the_graph_document_lists_every_node_and_no_other() {
    let plain = GraphOptions { style: Style::Functions, ..GraphOptions::default() };
    let cached = GraphOptions { kv_cache: true, last_logits: true, ..plain };
    let ort = GraphOptions { target: Target::Ort, ..GraphOptions::default() };
    let last = GraphOptions { last_logits: true, ..ort };
    let [bf16, fp8] = ["bf16", "fp8"].map(crate::derived::in_folder);
    let mut emitted = BTreeSet::new();
    for (folder, options) in [
        (fixture("tiny"), plain),
        (fixture("tiny"), cached),
        (fixture("tiny"), ort),
        (fixture("tiny"), last),
        (bf16.path().join("checkpoint"), plain),
        (fp8.path().join("checkpoint"), plain),
    ] {
        let checkpoint = Checkpoint::open(&folder, &IgnoredNames::default()).unwrap();
        all_nodes(&checkpoint, options, &mut emitted);
    }
    let mut of_integers = BTreeSet::new();
    let [four, eight] = [Bits::Four, Bits::Eight].map(MatrixFormat::Int);
    let numbers = MatrixFormat::Float(DType::F32);
    for (experts, dense, options) in [
        (four, four, plain),
        (eight, eight, plain),
        (four, eight, ort),
        (numbers, eight, GraphOptions { keep_activations: true, ..ort }),
    ] {
        let mut checkpoint = Checkpoint::open(&fixture("tiny"), &IgnoredNames::default()).unwrap();
        checkpoint.convert(Role::Experts, experts, false).unwrap();
        checkpoint.convert(Role::Dense, dense, false).unwrap();
        all_nodes(&checkpoint, options, &mut of_integers);
    }
    let mut listed = BTreeSet::new();
    for line in document("docs/graph.md").lines() {
        let [_, names, operators, ..] = line.split('|').map(str::trim).collect::<Vec<_>>()[..]
        else {
            continue;
        };
        let names = names.split(", ").filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'));
        let operators: Vec<&str> = operators.split(", ").collect();
        for (name, operator) in
            names.zip(operators.iter().chain(std::iter::repeat(operators.last().unwrap())))
        {
            if !["input", "output"].contains(operator) {
                listed.insert((name.to_owned(), (*operator).to_owned()));
            }
        }
    }
    // Matrices of integers have one list.
    emitted.extend(of_integers.into_iter().map(|(name, operator)| {
        let matrices = ["qkv", "out", "lm_head", "experts.W"];
        let rest = matrices.iter().find_map(|matrix| name.strip_prefix(matrix));
        let general = (format!("M{}", rest.unwrap_or(&name)), operator.clone());
        if listed.contains(&general) { general } else { (name, operator) }
    }));
    let missing: Vec<_> = emitted.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&emitted).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "not listed: {missing:?}\nnot emitted: {invented:?}"
    );
}

#[test]
fn every_module_is_in_the_architecture_document() {
    let text = document("docs/architecture.md");
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            module == "lib" || text.contains(&format!("`{module}`")),
            "docs/architecture.md lacks `{module}`"
        );
    }
}

/// Every document that people read, below the root.
fn documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = fs::read_dir(root.join("docs")).unwrap();
    let names = listed.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    let mut found: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    found.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned));
    found
}

/// Runs commands and programs in a copy of their place: the built binary stands
/// in for `cargo run --release --`, and `cargo test` is what runs this.
#[test]
fn what_the_documents_show_runs_as_written() {
    let mut ran = BTreeMap::new();
    for name in documents() {
        let home = place_for(&name);
        for block in document(&name).split("```").skip(1).step_by(2) {
            let (language, code) = block.split_once('\n').unwrap();
            let count = match language {
                "sh" => run_commands(code, home.path()),
                "yaml" => run_commands(&steps(code), home.path()),
                "python" => {
                    let mut program = Command::new(interpreter());
                    succeeds(program.args(["-c", code]).current_dir(home.path()), code);
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

/// What a document says is there: the fixtures, and a checkpoint of the reader's own.
fn place_for(document: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let fixtures = home.path().join("tests/fixtures");
    for name in ["tiny", "tiny-hf"] {
        crate::support::copy_folder(&fixture(name), &fixtures.join(name));
    }
    let (from, to) = match document {
        "docs/checkpoints.md" => (crate::derived::in_folder("bf16"), "out/checkpoint"),
        "docs/serving.md" => (crate::genai::with_tokenizer(), "out/checkpoint"),
        "docs/ci.md" => (crate::support::folder_with_tiny(), "checkpoint"),
        _ => return home,
    };
    let folder = ["checkpoint", "tiny"].map(|name| from.path().join(name));
    let folder = folder.iter().find(|folder| folder.exists()).unwrap();
    crate::support::copy_folder(folder, &home.path().join(to));
    home
}

/// The commands of a workflow, but for what installs.
fn steps(workflow: &str) -> String {
    let runs = workflow.lines().filter_map(|line| line.trim().strip_prefix("- run: "));
    runs.filter(|line| !line.starts_with("pip ")).map(|line| format!("{line}\n")).collect()
}

/// Runs the lines that are not cargo's own, and says how many they are.
fn run_commands(code: &str, folder: &Path) -> usize {
    let code = code.replace("\\\n", " ");
    let lines = code.lines().filter(|line| !line.is_empty()).filter_map(with_binary);
    let ran = lines.map(|line| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", &line]).env("ORT_DYLIB_PATH", onnxruntime());
        succeeds(shell.current_dir(folder), &line);
    });
    ran.count()
}

/// The command with the built binary in it; nothing for cargo's own commands.
fn with_binary(line: &str) -> Option<String> {
    let built = env!("CARGO_BIN_EXE_gpt-oss-export");
    let line = line.replacen("cargo run --release --", "gpt-oss-export", 1);
    match line.strip_prefix("gpt-oss-export ") {
        Some(arguments) => Some(format!("{built} {arguments}")),
        None => Some(line).filter(|line| !line.starts_with("cargo ")),
    }
}

fn succeeds(command: &mut Command, what: &str) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{what}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn links_between_documents_lead_somewhere() {
    for name in documents() {
        let folder: PathBuf =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(&name).parent().unwrap().to_owned();
        for link in document(&name)
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap().to_owned())
        {
            let path = link.split('#').next().unwrap();
            assert!(path.contains("://") || folder.join(path).exists(), "{name} links to {link}");
        }
    }
}

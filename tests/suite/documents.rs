//! Documents and the example agree with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gpt_oss_export::adapter::{ModuleGroup, add_slots, apply};
use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use gpt_oss_export::graph::{Attribute, Body, Node, Style};
use gpt_oss_export::model::{GraphOptions, ModelPart, SlidingCache, Target};
use gpt_oss_export::progress::Silent;
use gpt_oss_export::tensor::DType;
use gpt_oss_export::tensor::ints::Bits;
use gpt_oss_export::weights::{MatrixFormat, Role};

use crate::adapters::fitted;
use crate::layout_fixtures::in_folder;
use crate::support::{Home, fixture, graph, open};

#[allow(dead_code)] // its `main`
#[path = "../../examples/export.rs"]
mod example;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document that people read, below the root, with its text.
pub fn documents() -> Vec<(String, String)> {
    let listed = fs::read_dir(root().join("docs")).unwrap();
    let names = listed.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    let names = names.filter(|name| name.ends_with(".md"));
    let others = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let examples = ["examples/ray/README.md", "examples/triton/README.md"];
    let names = names.chain(others.into_iter().chain(examples).map(str::to_owned));
    names.map(|name| (name.clone(), document(&name))).collect()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Names and operators of nodes; layers, and nodes that compute shapes, are listed once.
type Nodes = BTreeSet<(String, String)>;

/// `listed` gives the name that a node has in the document, if it has one.
fn collect_nodes(body: &Body, listed: fn(&Node) -> Option<String>, found: &mut Nodes) {
    for node in &body.nodes {
        found.extend(listed(node).map(|name| (name, node.op.clone())));
        for (_, attribute) in &node.attributes {
            if let Attribute::Body(nested) = attribute {
                collect_nodes(nested, listed, found);
            }
        }
    }
}

/// A node's name relative to its block.
fn name_in_block(Node { name, op, .. }: &Node) -> Option<String> {
    let is_other_layer = name.starts_with("layers.") && !name.starts_with("layers.0");
    if is_other_layer || op == "Concat" && name.starts_with("shape.") {
        return None;
    }
    let mut name = name.clone();
    for block in ["layers.0.attn.", "layers.0.mlp.", "norm.", "window_8."] {
        name = name.strip_prefix(block).map_or(name.clone(), str::to_owned);
    }
    for part in ["experts.gate_up.", "experts.down."] {
        name = name.replace(part, "experts.W.");
    }
    Some(name)
}

/// The name of an adapter's node relative to its matrix `M`, or the embedding.
fn name_in_matrix(Node { name, .. }: &Node) -> Option<String> {
    let at = [".lora", ".new"].iter().find_map(|it| name.find(it))?;
    let matrix = if name.starts_with("embedding.") { "embedding" } else { "M" };
    Some(matrix.to_owned() + &name[at..].replace("lora_2", "lora"))
}

/// The name of a node that chooses how to compute experts, relative to its block.
fn name_in_choice(node: &Node) -> Option<String> {
    let is_choice = |name: &String| name.starts_with("experts.are_changed") || name == "experts";
    name_in_block(node)
        .filter(is_choice)
        .filter(|_| ["If", "Size", "Add", "Cast"].contains(&&*node.op))
}

fn emitted_nodes(
    checkpoint: &Checkpoint,
    options: GraphOptions,
    listed: fn(&Node) -> Option<String>,
) -> Nodes {
    let mut found = Nodes::new();
    let middle = ModelPart { stage: None, layers: 1..2, all_layers: 3 };
    for part in [ModelPart::whole(3), middle] {
        let model = graph(checkpoint, &part, options);
        for graph in model.functions.iter().map(|function| &function.graph).chain([&model.main]) {
            collect_nodes(&graph.body, listed, &mut found);
        }
    }
    found
}

fn listed_nodes() -> Nodes {
    let mut listed = Nodes::new();
    for line in document("docs/graph.md").lines() {
        let [_, names, operators, ..] = line.split('|').map(str::trim).collect::<Vec<_>>()[..]
        else {
            continue;
        };
        let names = names.split(", ").filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'));
        // The last operator is that of all further names.
        let last = operators.rsplit(", ").next().unwrap();
        let operators = operators.split(", ").chain(std::iter::repeat(last));
        let nodes = names.zip(operators).filter(|(_, op)| !["input", "output"].contains(op));
        listed.extend(nodes.map(|(name, op)| (name.to_owned(), op.to_owned())));
    }
    listed
}

#[test]
fn graph_document_lists_exactly_the_emitted_nodes() {
    let limited = GraphOptions { sliding_cache: SlidingCache::Window, ..GraphOptions::default() };
    let plain = GraphOptions { style: Style::Functions, ..limited };
    let cached = GraphOptions { kv_cache: true, last_logits: true, ..plain };
    let ort = GraphOptions { target: Target::Ort, ..limited };
    let mut emitted = Nodes::new();
    for options in [plain, cached, ort, GraphOptions { last_logits: true, ..ort }] {
        emitted.extend(emitted_nodes(&open(&fixture("tiny")), options, name_in_block));
    }
    for layout in ["bf16", "fp8"] {
        let home = in_folder(layout);
        emitted.extend(emitted_nodes(&open(&home.checkpoint()), plain, name_in_block));
    }
    for adapter in ["experts", "experts-peft-0.19.0", "tinker", "tokens", "embedding", "biases"] {
        let mut checkpoint = open(&fixture("tiny"));
        let folder = fixture("lora").join(adapter);
        let fitted = fitted(&folder, &checkpoint, &IgnoredNames::default(), None).unwrap();
        apply(&mut checkpoint, &[&fitted], &Silent).unwrap();
        emitted.extend(emitted_nodes(&checkpoint, GraphOptions::default(), name_in_matrix));
    }
    let mut checkpoint = open(&fixture("tiny"));
    add_slots(&mut checkpoint, &[ModuleGroup::All], [].into_iter()).unwrap();
    emitted.extend(emitted_nodes(&checkpoint, GraphOptions::default(), name_in_matrix));
    emitted.extend(emitted_nodes(&checkpoint, ort, name_in_choice));
    let listed = listed_nodes();
    let [four, eight] = [Bits::Four, Bits::Eight].map(MatrixFormat::Int);
    for (experts, dense, options) in [
        (four, four, plain),
        (eight, eight, plain),
        (four, eight, ort),
        (four, MatrixFormat::Int8x2, plain),
        (four, MatrixFormat::Int8x2, ort),
        (four, MatrixFormat::Int8x2, GraphOptions { keep_activations: true, ..ort }),
        (MatrixFormat::Int4x2, eight, plain),
        (MatrixFormat::Int4x2, eight, ort),
        (MatrixFormat::Nvfp4, eight, plain),
        (MatrixFormat::Nvfp4, eight, ort),
        (MatrixFormat::Float(DType::F32), eight, GraphOptions { keep_activations: true, ..ort }),
    ] {
        let mut checkpoint = open(&fixture("tiny"));
        checkpoint.convert(Role::Experts, experts, false).unwrap();
        checkpoint.convert(Role::Dense, dense, false).unwrap();
        // Integer matrices are listed once, as `M`.
        emitted.extend(emitted_nodes(&checkpoint, options, name_in_block).into_iter().map(
            |(name, op)| {
                let matrices = ["qkv", "out", "lm_head", "experts.W"];
                let rest = matrices.iter().find_map(|matrix| name.strip_prefix(matrix));
                let general = (format!("M{}", rest.unwrap_or(&name)), op.clone());
                if listed.contains(&general) { general } else { (name, op) }
            },
        ));
    }
    let missing: Vec<_> = emitted.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&emitted).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "not listed: {missing:?}\nnot emitted: {invented:?}"
    );
}

#[test]
fn links_between_documents_lead_to_files() {
    for (name, text) in documents() {
        let folder = root().join(&name).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap());
        for link in links.filter(|link| !link.contains("://")) {
            assert!(folder.join(link).exists(), "{name} links to {link}");
        }
    }
}

#[test]
fn example_exports() {
    let home = Home::new();
    let model = home.join("model.onnx");
    let summary = example::run(fixture("tiny"), model.clone()).unwrap().to_string();
    assert!(summary.contains("model.onnx") && model.exists(), "{summary}");
}

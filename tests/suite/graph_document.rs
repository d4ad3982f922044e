//! `docs/graph.md` is generated: its nodes from graphs, its formulas from the sources that wire them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use gpt_oss_export::adapter::{ModuleGroup, add_slots, apply};
use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use gpt_oss_export::graph::{Attribute, Body, FUNCTIONS, Graph, Model, Node, Style};
use gpt_oss_export::model::{GraphOptions, ModelPart, SlidingCache, Target};
use gpt_oss_export::progress::Silent;
use gpt_oss_export::tensor::DType;
use gpt_oss_export::tensor::ints::Bits;
use gpt_oss_export::weights::{MatrixFormat, Role};
use regex::Regex;

use crate::adapters::fitted;
use crate::documents::assert_generated;
use crate::layout_fixtures::in_folder;
use crate::sizes::sparse;
use crate::support::{Home, fixture, graph, open, root};

const HEAD: &str = "\
# The graph

Every node of an export, by part of the model. A test writes this page from the code.

- `--target onnx` uses ai.onnx alone (opset 23, IR 11). `--target ort` adds com.microsoft (IR 12 with
  experts in MXFP4). [Inputs and outputs](interface.md) are the same for both.
- Symbols: `B` rows, `T` tokens of a row in this step, `P` earlier tokens in the cache, `P_w` in the
  cache of a layer with window `w`, `n` tokens of one expert, `kv` key-value heads.
- Numbers in shapes are the 20B's: hidden size 2880, 64 heads of size 64, 8 key-value heads, 32
  experts of which 4 are chosen, window 128.
- In names, `N` is a number, `W` is `gate_up` (whose shapes are shown) or `down`, and `M` is any matrix,
  of which only dtypes are shown. A large matrix is multiplied in parts of its rows, `rows_N` or `part_N`.
- `mask.window_w` is `mask.endless` for layers without a window. In a swappable model the nodes of
  experts are below `experts.loop` and `experts.operator`.
- Not listed: `shape.*`, which compute shapes from the inputs; casts of weights (`weight.f32`,
  `bias.f32`, …), which onnxruntime folds at load; and with `--compute f16` or `bf16` the casts before and
  after matrix products and attention.
- With `--functions` the same nodes are in functions, without the path of the block in their names, and
  each function has a mask of its own.
";

/// A part of the page: the formula of `sources`, then the nodes of `graphs` below `paths`, or with the
/// name before a `$`, that no earlier part has.
struct Chapter<'g> {
    title: &'static str,
    /// Below `src/model`.
    sources: &'static [&'static str],
    paths: &'static [&'static str],
    graphs: Vec<&'g Nodes>,
    /// Whether all matrices are one, `M`.
    is_general: bool,
}

/// A node: its name with patterns for numbers, operator, and dtype and shape of its outputs.
#[derive(Clone, PartialEq)]
struct Listed {
    name: String,
    op: String,
    outputs: Vec<String>,
}

type Nodes = Vec<Listed>;

fn nodes_of(checkpoint: &Checkpoint, options: GraphOptions) -> Nodes {
    let mut found = Nodes::new();
    let middle = ModelPart { stage: None, layers: 1..2, all_layers: 3 };
    for part in [ModelPart::whole(3), middle] {
        let model = graph(checkpoint, &part, options);
        collect(&model, &model.main, &model.main.body, "", &mut found);
    }
    found
}

fn collect(model: &Model, graph: &Graph, body: &Body, path: &str, found: &mut Nodes) {
    for node in &body.nodes {
        let Node { name, op, outputs, .. } = node;
        let name = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let function = model.functions.iter().find(|it| node.domain == FUNCTIONS && it.name == *op);
        if let Some(function) = function {
            collect(model, &function.graph, &function.graph.body, &name, found);
        }
        for (_, attribute) in &node.attributes {
            if let Attribute::Body(nested) = attribute {
                collect(model, graph, nested, path, found);
            }
        }
        let weights = ["weight.f32", "bias.f32", "scale.f32", "sinks.f32"];
        let is_cast = op == "Cast" && weights.iter().any(|it| name.ends_with(it));
        if is_cast || name.split('.').any(|it| it == "shape") {
            continue;
        }
        let outputs = outputs.iter().map(|id| shape(&graph.values[*id].1.to_string()));
        found.push(Listed { name: pattern(&name), op: op.clone(), outputs: outputs.collect() });
    }
}

/// A name with letters for numbers, and one name for what is alike.
fn pattern(name: &str) -> String {
    let letters = [
        (r"layers\.\d+", "layers.N"),
        (r"rows_\d+", "rows_N"),
        (r"\.part_\d+", ""),
        (r"window_\d+", "window_w"),
        (r"^(layers\.N\.attn\.mask|mask\.endless)\.", "mask.window_w."),
        (r"(lora|new|numbers)_2\b", "$1"),
        (r"\.mlp\.experts\.(loop|operator)\.", ".mlp."),
        (r"experts\.(gate_up|down)\b", "experts.W"),
    ];
    replaced(name, &letters)
}

/// A dtype and shape with the symbols of the page.
fn shape(fact: &str) -> String {
    let symbols = [
        (r"P_\d+", "P_w"),
        (r"min\(P_w\+T,\d+\)", "min(P_w+T,C)"),
        (r"[\w.]+\.uses", "n"),
        (r"[\w.]+\.rank", "r"),
    ];
    replaced(fact, &symbols)
}

fn replaced(text: &str, patterns: &[(&str, &str)]) -> String {
    patterns.iter().fold(text.to_owned(), |text, (from, to)| {
        Regex::new(from).unwrap().replace_all(&text, *to).into_owned()
    })
}

/// The node of any matrix, of which shapes differ.
fn general(node: &Listed) -> Listed {
    let matrix = Regex::new(
        r"^(layers\.N\.(attn\.(qkv|q|k|v|out)|mlp\.(router|experts\.W))|lm_head|embedding)(\.rows_N)?(\.|$)",
    )
    .unwrap();
    let name = matrix.replace(&node.name, "M$6").into_owned();
    if name == node.name {
        return node.clone();
    }
    let dtype = |it: &String| it.split('[').next().unwrap().to_owned();
    Listed { name, op: node.op.clone(), outputs: node.outputs.iter().map(dtype).collect() }
}

impl Chapter<'_> {
    /// Its new nodes, which are added to those that are `listed`.
    fn nodes(&self, listed: &mut Nodes) -> Nodes {
        let mut new = Nodes::new();
        for node in self.graphs.iter().copied().flatten() {
            let is_here = |path: &&str| {
                if let Some(name) = path.strip_suffix('$') {
                    return node.name == name;
                }
                let rest = node.name.strip_prefix(*path);
                path.is_empty() || rest.is_some_and(|it| it.is_empty() || it.starts_with('.'))
            };
            if !self.paths.iter().any(is_here) || is_among(node, listed) {
                continue;
            }
            let node = if self.is_general { general(node) } else { node.clone() };
            if !is_among(&node, listed) {
                listed.push(node.clone());
                new.push(node);
            }
        }
        new
    }

    fn write(&self, nodes: &Nodes, text: &mut String) {
        let files: Vec<_> = self.sources.iter().map(|it| format!("`src/model/{it}`")).collect();
        writeln!(text, "\n## {}\n", self.title).unwrap();
        for source in self.sources {
            let source = fs::read_to_string(root().join("src/model").join(source)).unwrap();
            let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
            lines.for_each(|it| writeln!(text, "{}", it.strip_prefix(' ').unwrap_or(it)).unwrap());
            text.push('\n');
        }
        writeln!(text, "Wired in {}.\n", files.join(" and ")).unwrap();
        text.push_str("| node | operator | output |\n|---|---|---|\n");
        for same in nodes.chunk_by(|a, b| (&a.op, &a.outputs) == (&b.op, &b.outputs)) {
            let names: Vec<_> = same.iter().map(|it| format!("`{}`", it.name)).collect();
            let outputs = same[0].outputs.join("`, `");
            writeln!(text, "| {} | {} | `{outputs}` |", names.join(", "), same[0].op).unwrap();
        }
    }
}

fn is_among(node: &Listed, nodes: &Nodes) -> bool {
    nodes.iter().any(|it| (&it.name, &it.op) == (&node.name, &node.op))
}

fn converted(folder: &std::path::Path, experts: MatrixFormat, dense: MatrixFormat) -> Checkpoint {
    let mut checkpoint = open(folder);
    checkpoint.convert(Role::Experts, experts, false).unwrap();
    checkpoint.convert(Role::Dense, dense, false).unwrap();
    checkpoint
}

fn adapted(adapter: &str) -> Checkpoint {
    let mut checkpoint = open(&fixture("tiny"));
    let folder = fixture("lora").join(adapter);
    let fitted = fitted(&folder, &checkpoint, &IgnoredNames::default(), None).unwrap();
    apply(&mut checkpoint, &[&fitted], &Silent).unwrap();
    checkpoint
}

fn document() -> String {
    use MatrixFormat::{Float, Int, Int4x2, Int8x2, Mxfp4, Nvfp4};
    let home = Home::new();
    let real = home.checkpoint();
    sparse(&real, 3, 32, 1);

    let flat = GraphOptions { sliding_cache: SlidingCache::Window, ..GraphOptions::default() };
    let cached = GraphOptions { kv_cache: true, last_logits: true, ..flat };
    let functions = GraphOptions { style: Style::Functions, ..cached };
    let ort = GraphOptions { target: Target::Ort, ..flat };
    let ort_last = GraphOptions { last_logits: true, ..ort };
    let exact = GraphOptions { keep_activations: true, ..ort };

    let released = open(&real);
    let whole = nodes_of(&released, flat);
    let steps = [cached, functions].map(|it| nodes_of(&released, it)).concat();
    let by_ort = [ort, ort_last].map(|it| nodes_of(&released, it)).concat();
    let in_format = |experts, dense, options| nodes_of(&converted(&real, experts, dense), options);
    let bf16 = Float(DType::BF16);
    let floats = in_format(Float(DType::F32), bf16, flat);
    let nvfp4 = in_format(Nvfp4, bf16, flat);
    let qmoe = [Nvfp4, Int4x2, Float(DType::F32)].map(|it| in_format(it, bf16, ort)).concat();
    let [four, eight] = [Bits::Four, Bits::Eight].map(Int);
    let separate = nodes_of(&open(&fixture("tiny-hf")), flat);
    let integers = [
        in_format(eight, eight, flat),
        in_format(four, four, flat),
        in_format(Int4x2, Int8x2, flat),
        nodes_of(&open(&in_folder("fp8").checkpoint()), flat),
        nodes_of(&open(&in_folder("bf16").checkpoint()), flat),
        in_format(four, Int8x2, exact),
        in_format(Float(DType::F32), eight, exact),
    ]
    .concat();
    let by_bits = in_format(eight, eight, ort);
    let digits = in_format(Mxfp4, Int8x2, ort);
    let separate_digits = {
        let mut checkpoint = open(&fixture("tiny-hf"));
        checkpoint.convert(Role::Dense, Int8x2, false).unwrap();
        nodes_of(&checkpoint, ort)
    };
    let adapters = ["experts", "experts-peft-0.19.0", "tinker", "tokens", "embedding", "biases"];
    let adapters = adapters.map(|it| nodes_of(&adapted(it), GraphOptions::default())).concat();
    let mut checkpoint = open(&real);
    add_slots(&mut checkpoint, &[ModuleGroup::All], [].into_iter()).unwrap();
    let slots = [flat, ort].map(|it| nodes_of(&checkpoint, it)).concat();

    let everything =
        [&whole, &steps, &by_ort, &floats, &nvfp4, &qmoe, &separate, &integers, &by_bits, &digits];
    let everything = [&everything[..], &[&separate_digits, &adapters, &slots]].concat();

    let part = |title, sources, paths, graphs| Chapter {
        title,
        sources,
        paths,
        graphs,
        is_general: false,
    };
    let any = |title, sources, graphs| Chapter {
        is_general: true,
        ..part(title, sources, &[""], graphs)
    };
    let all = || vec![&whole, &steps, &by_ort];
    let ends = &["embedding", "lm_head", "logits", "last"];
    let norms = &["norm", "layers.N.attn.norm", "layers.N.mlp.norm"];
    let packed = &["packing", "unpacked", "hidden_states"];
    let window = &["window_w", "layers.N.attn.kept"];
    let rope = &["rope", "layers.N.attn.rope"];
    let layer = &[
        "layers.N$",
        "layers.N.attn$",
        "layers.N.attn.qkv$",
        "layers.N.attn.out$",
        "layers.N.attn.residual",
        "layers.N.mlp$",
        "layers.N.mlp.router",
    ];
    let mlp = &["layers.N.mlp"];
    let chapters = [
        part("The whole model", &["decoder.rs"], ends, all()),
        part("A layer", &["layer.rs"], layer, all()),
        part("Norms", &["norm.rs"], norms, all()),
        part("A step", &["sequence.rs"], &["tokens"], all()),
        part("Positions and masks", &["mask.rs"], &["positions", "mask"], all()),
        part("Rotary embedding", &["rope.rs"], rope, all()),
        part("Caches of sliding layers", &["window.rs"], window, all()),
        part("Packed rows", &["packing.rs", "part.rs"], packed, all()),
        part(
            "Attention in standard operators",
            &["portable/attention.rs"],
            &["layers.N.attn"],
            vec![&whole, &steps],
        ),
        part(
            "Attention by GroupQueryAttention",
            &["ort/attention.rs"],
            &["layers.N.attn"],
            vec![&by_ort],
        ),
        part("Experts in a Loop", &["portable/experts.rs"], mlp, vec![&floats]),
        part("Experts in 4-bit floats", &["portable/fp4.rs"], mlp, vec![&whole, &nvfp4]),
        part("Experts by QMoE and MoE", &["ort/experts.rs"], mlp, vec![&by_ort, &qmoe]),
        any("Dense layers", &["linear.rs"], vec![&separate]),
        any("Integers and FP8", &["portable/decode.rs"], vec![&integers]),
        any("Integers by MatMulNBits", &["ort/linear.rs"], vec![&by_bits]),
        any("Two digits of 8 bits", &["ort/digits.rs"], vec![&digits, &separate_digits]),
        any("Adapters", &["changes.rs"], vec![&adapters, &slots]),
    ];
    let (mut text, mut listed) = (HEAD.to_owned(), Nodes::new());
    for chapter in chapters {
        let nodes = chapter.nodes(&mut listed);
        assert!(!nodes.is_empty(), "{} has no nodes of its own", chapter.title);
        chapter.write(&nodes, &mut text);
    }
    let missing = everything.into_iter().flatten();
    let missing = missing.filter(|it| !is_among(it, &listed) && !is_among(&general(it), &listed));
    let missing: BTreeSet<_> = missing.map(|it| format!("{} ({})", it.name, it.op)).collect();
    assert!(missing.is_empty(), "nodes without a part of the page: {missing:#?}");
    text
}

#[test]
fn graph_document_is_that_of_the_code() {
    assert_generated("docs/graph.md", &document());
}

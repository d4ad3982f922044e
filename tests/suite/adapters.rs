//! What is read of LoRA adapters.

use std::fs;
use std::path::Path;

use gpt_oss_export::adapter::{self, Adapter, AdapterFile, FactorOrder};
use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use gpt_oss_export::error::{Error, Result, Setting};
use gpt_oss_export::weights::LowRank;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::inspect::{inspect, printed_report};
use crate::layout_fixtures::{Tensors, edit_file, in_folder, renamed};
use crate::support::{
    Home, assert_contains, cases, copy_folder, edit_json, export_args, failure, fixture, open, run,
    text, words,
};

pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Adapters, and those of which the logits are theirs too.
pub const ADAPTERS: [(&str, &[&str]); 13] = [
    ("attention", &[]),
    ("biases", &[]),
    ("embedding", &[]),
    ("experts", &["experts-peft-0.17.0", "experts-peft-0.19.0", "experts-transformers-4"]),
    ("one-parameter-each", &[]),
    ("patterns", &[]),
    ("router-head", &[]),
    ("split", &[]),
    ("square", &["square-peft-0.19.0"]),
    ("square-down", &["square-down-transformers-4"]),
    ("tinker-peft", &["tinker"]),
    ("tokens", &[]),
    ("whole-modules", &[]),
];

/// The order that nothing in these files tells.
pub fn order(adapter: &str) -> &'static [&'static str] {
    match adapter {
        "square-down" => &["--adapter-layout", "plain"],
        "square-down-transformers-4" => &["--adapter-layout", "swapped"],
        _ => &[],
    }
}

/// The same model in several layouts: with q, k and v apart and in one matrix, with experts in
/// MXFP4 and in numbers.
pub fn bases(adapter: &str) -> Vec<Home> {
    if adapter.starts_with("square") {
        return vec![Home::with("tiny-square")];
    }
    vec![Home::with("tiny"), Home::with("tiny-hf"), in_folder("bf16")]
}

/// Copies an adapter into a folder beside a checkpoint, and returns its path.
pub fn add(home: &Path, adapter: &str, folder: &str) -> String {
    copy_folder(&fixture("lora").join(adapter), &home.join(folder));
    text(&home.join(folder)).to_owned()
}

/// A copy of an adapter, and of its base in `checkpoint`.
pub fn copied(adapter: &str) -> Home {
    let home = Home::with(if adapter.starts_with("square") { "tiny-square" } else { "tiny-hf" });
    copy_folder(&fixture("lora").join(adapter), &home.join("adapter"));
    home
}

/// What an adapter changes in a checkpoint.
pub fn fitted(
    folder: &Path,
    base: &Checkpoint,
    ignored: &IgnoredNames,
    order: Option<FactorOrder>,
) -> Result<Adapter> {
    adapter::fit(&AdapterFile::open(folder, ignored)?, &base.config, order)
}

pub fn fit(home: &Path) -> Result<Adapter> {
    let (folder, base) = (home.join("adapter"), open(&home.join("checkpoint")));
    fitted(&folder, &base, &IgnoredNames::default(), None)
}

#[track_caller]
pub fn refusal(home: &Path) -> Error {
    fit(home).expect_err("it is refused")
}

pub fn edit_config(home: &Path, key: &str, value: Value) {
    edit_json(&home.join("adapter").join(CONFIG), |config| config[key] = value);
}

/// Keys that change nothing, with values that are not their defaults.
#[test]
fn accepts_keys_that_change_nothing() {
    let home = copied("attention");
    for (key, value) in [
        ("lora_dropout", json!(0.1)),
        ("inference_mode", json!(false)),
        ("exclude_modules", json!(["x"])),
        ("target_modules", json!("all-linear")),
        ("layers_to_transform", json!([0, 1])),
        ("layers_pattern", json!("layers")),
        ("runtime_config", json!({"ephemeral_gpu_offload": false})),
        ("eva_config", json!({"rho": 2.0})),
        ("velora_config", json!({"rank": 2})),
        ("task_type", json!("CAUSAL_LM")),
        ("auto_mapping", json!({"unsloth_fixed": true})),
        ("ensure_weight_tying", json!(true)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("orthogonal")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!(false)),
        ("alora_invocation_tokens", json!([])),
        ("use_bdlora", json!(false)),
        ("base_model_name_or_path", json!("unsloth/gpt-oss-20b-unsloth-bnb-4bit")),
    ] {
        edit_config(&home, key, value);
        fit(&home).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    // Tinker's config has two keys, and r is in the shapes.
    fs::write(home.join("adapter").join(CONFIG), r#"{"lora_alpha": 8}"#).unwrap();
    fit(&home).unwrap();
}

pub fn edit_tensors(home: &Path, edit: impl FnOnce(&mut Tensors)) {
    edit_file(&home.join("adapter").join(WEIGHTS), edit);
}

/// An adapter with a key and a tensor that are not read.
pub fn with_unknown_names() -> Home {
    let home = copied("attention");
    edit_config(&home, "lora_magic", json!(1));
    edit_tensors(&home, |tensors| {
        tensors.insert("score.weight".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    home
}

/// Names that other programs write for the same modules, and values of every kind.
#[test]
fn accepts_names_of_other_programs() {
    let expected = fit(&copied("attention")).unwrap().terms.len();
    for [from, to] in [
        ["base_model.model.", ""],
        ["base_model.model.model.", "base_model.model."],
        ["base_model.model.model.", ""],
        [".self_attn.", ".attn."],
    ] {
        let home = copied("attention");
        edit_tensors(&home, |tensors| {
            *tensors = renamed(tensors, |name| name.replace(from, to));
        });
        assert_eq!(fit(&home).unwrap().terms.len(), expected, "{from} {to}");
    }
    let table = "norm.weight | 96 | norm.scale
        layers.1.post_attention_layernorm.weight | 96 | layers.1.mlp.norm.scale
        layers.1.self_attn.sinks | 8 | layers.1.attn.sinks
        layers.1.self_attn.v_proj.base_layer.bias | 64 | layers.1.attn.v.bias
        layers.0.self_attn.v_proj.bias | 64 | layers.0.attn.v.bias
        layers.1.mlp.router.bias | 8 | layers.1.mlp.router.bias
        layers.2.mlp.experts.base_layer.base_layer.gate_up_proj_bias | 8 256 | layers.2.mlp.experts.gate_up.bias
        layers.0.mlp.experts.down_proj_bias | 8 96 | layers.0.mlp.experts.down.bias
        layers.0.self_attn.o_proj.weight | 96 256 | layers.0.attn.out";
    let home = copied("experts");
    edit_tensors(&home, |tensors| {
        for [name, shape, _] in cases(table) {
            let shape: Vec<usize> = words(shape).iter().map(|size| size.parse().unwrap()).collect();
            let data = vec![0; 2 * shape.iter().product::<usize>()];
            tensors.insert(format!("base_model.model.model.{name}"), (Dtype::BF16, shape, data));
        }
    });
    // The same matrix is replaced, and then changed.
    let adapter = fit(&home).unwrap();
    assert!(adapter.terms.iter().any(|term| term.matrix == "layers.0.attn.out"));
    for [name, _, replaced] in cases(table) {
        assert!(adapter.replacements.iter().any(|it| it.replaced == replaced), "{name}");
    }
}

fn scale(adapter: &Adapter, path: &str) -> f64 {
    let mut found = adapter.terms.iter().filter(|term| term.path == path);
    found.next().unwrap_or_else(|| panic!("{path}")).scale
}

#[test]
fn scales_by_the_first_pattern_that_matches() {
    let home = copied("patterns");
    let adapter = fit(&home).unwrap();
    for (path, alpha, rank) in [
        ("layers.0.attn.q", 6.0, 4.0),
        ("layers.0.attn.k", 6.0, 2.0),
        ("layers.0.attn.v", 9.0, 4.0),
        ("layers.2.attn.v", 6.0, 4.0),
        ("layers.2.attn.q", 6.0, 6.0),
        ("layers.2.attn.out", 3.0, 4.0),
        ("layers.1.mlp.experts.gate_up", 5.0, 4.0),
        ("layers.1.mlp.experts.down", 6.0, 3.0f64),
    ] {
        assert_eq!(scale(&adapter, path), alpha / rank.sqrt(), "{path}");
    }
    // Python's re.match(r"(.*\.)?(KEY)$", "model.layers.0.self_attn.q_proj"), alpha 8, rank 4.
    let table = r#"{"q_proj": 4} | 1
        {"proj": 4} | 2
        {"q_pro": 4} | 2
        {"self_attn.q_proj": 4} | 1
        {"attn.q_proj": 4} | 2
        {".*q_proj": 4} | 1
        {"k_proj|q_proj": 4} | 1
        {"layers\\.[0-1]\\..*": 4} | 1
        {"layers.\\d+.self_attn.[qk]_proj": 4} | 1
        {"layers\\.1\\..*": 4} | 2
        {"zzz": 1, "q_proj": 4, "model.layers.0.self_attn.q_proj": 12} | 1
        {"model.layers.0.self_attn.q_proj": 12, "q_proj": 4} | 3
        {"q_proj": 12, "model.layers.0.self_attn.q_proj": 4} | 3
        {"q_proj": -4} | -1
        {"q_proj.weight": 4} | 2"#;
    for [patterns, expected] in cases(table.replace("k_proj|q", "k_proj¦q").as_str()) {
        let home = copied("attention");
        let path = home.join("adapter").join(CONFIG);
        let config = fs::read_to_string(&path).unwrap();
        let patterns = patterns.replace('¦', "|");
        let edited =
            config.replace("\"alpha_pattern\": {}", &format!("\"alpha_pattern\": {patterns}"));
        fs::write(&path, edited).unwrap();
        let found = scale(&fit(&home).unwrap(), "layers.0.attn.q");
        assert_eq!(found, expected.parse::<f64>().unwrap(), "{patterns}");
    }
    // A weight as a target has the parameter's name.
    let home = copied("router-head");
    edit_config(&home, "alpha_pattern", json!({"router.weight": 2, "lm_head": 4}));
    let adapter = fit(&home).unwrap();
    assert_eq!(scale(&adapter, "layers.1.mlp.router"), 0.5);
    assert_eq!(scale(&adapter, "lm_head"), 1.0);
}

fn has_experts_last(term: &LowRank) -> [bool; 2] {
    [&term.a, &term.b].map(|factor| factor.weight.shape[2] == 8)
}

/// Where nothing tells the order of square factors, the user has to.
#[test]
fn asks_for_the_order_of_factors() {
    for (adapter, version, order) in [
        // The widths of gate_up decide, whatever the version.
        ("square", json!("0.21.2"), Some("plain")),
        ("square-peft-0.19.0", json!("0.19.0"), Some("swapped")),
        ("square-peft-0.19.0", json!("0.18.1"), Some("swapped")),
        ("square-down", json!("0.21.2"), None),
        ("square-down", json!("0.19.0"), None),
        ("square-down", json!("0.19.0.dev0"), None),
        ("square-down", json!("0.18.2.dev0"), None),
        ("square-down", json!("1.0.0"), None),
        ("square-down", json!("unknown"), None),
        ("square-down", json!("0.18.1"), Some("plain")),
        ("square-down", json!("0.18.0rc0"), Some("plain")),
        ("square-down", json!("0.18.0.dev0"), Some("plain")),
        ("square-down", json!(""), None),
        ("square-down", json!("0.17.0"), Some("plain")),
        ("square-down", Value::Null, None),
    ] {
        let home = copied(adapter);
        edit_config(&home, "peft_version", version.clone());
        match (fit(&home), order) {
            (Ok(found), Some(order)) => {
                let mut experts = found.terms.iter().filter(|it| it.path.contains("experts"));
                let expected = [order == "swapped", order == "plain"];
                assert!(experts.all(|it| has_experts_last(it) == expected), "{adapter} {version}");
            }
            (Err(error), None) => {
                let why = version.as_str().filter(|it| !it.is_empty()).map_or_else(
                    || {
                        "adapter_config.json does not say which PEFT wrote it (`peft_version`)"
                            .to_owned()
                    },
                    |it| format!("PEFT {it} wrote it: up to 0.18 `plain`, 0.19.0 `plain` under transformers 4"),
                );
                let sentence = format!(
                    "the factors of `model.layers.1.mlp.experts.down_proj` fit in two orders, and {why}"
                );
                assert_contains(error.sentence(), &sentence);
                let remedies =
                    ["plain", "swapped"].map(|it| [(Setting::AdapterLayout, it.to_owned())]);
                assert_eq!(error.remedies(), remedies);
            }
            (found, order) => panic!("{adapter} {version}: {found:?} instead of {order:?}"),
        }
    }
    // What is given is for the files that do not tell: several adapters have one option.
    let base = open(&fixture("tiny-hf"));
    for adapter in ["experts", "experts-peft-0.19.0"] {
        let identity = |given| {
            let (folder, ignored) = (fixture("lora").join(adapter), IgnoredNames::default());
            let adapter = fitted(&folder, &base, &ignored, given).unwrap();
            adapter.terms.iter().map(LowRank::identity).collect::<String>()
        };
        let [plain, swapped] = [FactorOrder::Plain, FactorOrder::Swapped].map(Some).map(identity);
        assert_eq!([&plain, &swapped], [&identity(None); 2]);
    }
}

#[test]
fn inspect_describes_adapters() {
    let all = json!([0, 1, 2]);
    let report = inspect(&fixture("lora/experts"), &["--tensors", "*.q_proj.*"]);
    assert_eq!(report["kind"], "adapter");
    assert_eq!(report["base"], "tiny-hf-bf16");
    assert_eq!(report["peft_version"], "0.21.2");
    assert_eq!(report["tensors"].as_array().unwrap().len(), 6);
    assert_eq!((&report["exportable"], &report["obstacles"]), (&json!(true), &Value::Null));
    let sizes = json!({"hidden size": 96, "width of all query heads": 256, "width of all key heads": 64, "intermediate size": 128, "experts": 8});
    assert_eq!(report["sizes"], sizes);
    let modules = report["modules"].as_array().unwrap();
    let of = |name: &str| modules.iter().find(|it| it["module"] == name).unwrap();
    let attention = json!({"module": "attn.q", "layers": all, "ranks": [4], "scales": [2.0], "is_replaced": false});
    assert_eq!(of("attn.q"), &attention);
    assert_eq!(of("mlp.experts.down")["layers"], json!([1, 2]));
    for (name, sizes) in [
        ("experts-peft-0.19.0", sizes),
        (
            "embedding",
            json!({"hidden size": 96, "width of all query heads": 256, "vocabulary": 320}),
        ),
        (
            "tinker",
            json!({"hidden size": 96, "width of all query heads": 256, "width of all key heads": 64, "intermediate size": 128, "vocabulary": 320}),
        ),
        ("router-head", json!({"hidden size": 96, "experts": 8, "vocabulary": 320})),
    ] {
        assert_eq!(inspect(&fixture("lora").join(name), &[])["sizes"], sizes, "{name}");
    }
    let printed = printed_report(&fixture("lora/patterns"));
    assert_contains(&printed, "attn.q              rank 4 6, scale 3 2.4495, layers 0 2\n");
    let printed = printed_report(&fixture("lora/whole-modules"));
    assert_contains(&printed, "mlp.router          replaced, layers 0-2\n");
    // What is not supported is described by its tensors.
    let folder = fixture("lora/dora");
    let dora = ["inspect", text(&folder), "--json", "--tensors", "*.q_proj.*"];
    let report: Value = serde_json::from_slice(&run(&dora).stdout).unwrap();
    assert_eq!(
        (&report["exportable"], report["tensors"].as_array().unwrap().len()),
        (&json!(false), 9)
    );
    // A folder with a model, too, is a checkpoint that is refused.
    let home = copied("attention");
    copy_folder(&fixture("tiny-hf"), &home.join("adapter"));
    let folder = home.join("adapter");
    assert_contains(
        &failure(&["inspect", text(&folder)]),
        "is a LoRA adapter beside a whole model",
    );
}

/// A change of an adapter with which no base can be exported.
#[test]
fn inspect_and_export_refuse_adapters_alike() {
    type Change = fn(&Home);
    let drop_b: Change = |home| {
        edit_tensors(home, |it| it.retain(|name, _| !name.contains("2.self_attn.q_proj.lora_B")));
    };
    let add: Change = |home| {
        edit_tensors(home, |it| {
            it.insert("score.weight".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
        });
    };
    let damage: Change = |home| {
        edit_tensors(home, |it| it.values_mut().last().unwrap().2.fill(0xff));
    };
    let changes: [(Change, &str); 7] = [
        (damage, "lora_B.weight`: 256 of 256 values are infinite or NaN: use another copy, or"),
        (drop_b, "without the factor B of its module"),
        (
            add,
            "adapt nothing in a GPT-OSS model: `score.weight`; use an adapter of this base, or ignore what may be left out, by name or by a pattern with * and ?; pass --ignore-tensor score.weight",
        ),
        (|home| edit_config(home, "peft_type", json!("IA3")), "found \"IA3\": merge it"),
        (|home| edit_config(home, "use_dora", json!(true)), "key `use_dora` is set: DoRA"),
        (
            |home| edit_config(home, "use_rslorra", json!(true)),
            "pass --ignore-config-key use_rslorra",
        ),
        (
            |home| edit_config(home, "r", json!(8)),
            "and key `r` of adapter_config.json says 8: use the",
        ),
    ];
    for (change, expected) in changes {
        let home = copied("attention");
        change(&home);
        let (base, folder) = (home.checkpoint(), home.join("adapter"));
        let inspected = failure(&["inspect", text(&folder)]);
        assert_contains(&inspected, expected);
        let model = home.join("m.onnx");
        assert_eq!(failure(&export_args(&base, &model, &["--adapter", text(&folder)])), inspected);
    }
}

//! One model in every layout: each is made here of the tiny one, by the layout's
//! own definition, and gives the same logits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::support::{export, failure, fixture, logit_errors, python, reference, text};

/// A tensor with its bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Tensor>;

/// Every layout of Hugging Face's dialect.
const LAYOUTS: [&str; 7] = ["hf", "bf16", "f16", "f32", "fp8", "split", "linears"];
/// Those whose experts stay where they are.
const IN_PLACE: [&str; 5] = ["hf", "bf16", "f16", "f32", "fp8"];

fn tiny() -> Tensors {
    let bytes = fs::read(fixture("tiny/model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let owned = whole.iter().map(|(name, view)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    });
    owned.collect()
}

/// Some rows of a tensor.
fn rows(tensor: &Tensor, range: impl Iterator<Item = usize> + Clone) -> Tensor {
    let (dtype, shape, data) = tensor;
    let row = data.len() / shape[0];
    let picked = range.clone().flat_map(|at| &data[at * row..][..row]).copied().collect();
    (*dtype, [&[range.count()], &shape[1..]].concat(), picked)
}

/// One expert of a tensor of all.
fn expert(tensor: &Tensor, at: usize) -> Tensor {
    let (dtype, shape, data) = rows(tensor, at..at + 1);
    (dtype, shape[1..].to_vec(), data)
}

/// Numbers `[experts, out, in]`, from the format's own words: codes are sign,
/// two exponent bits and one of mantissa, a scale is a power of two for 32.
fn dequantised(blocks: &Tensor, scales: &Tensor) -> (Vec<usize>, Vec<f32>) {
    let shape = vec![blocks.1[0], blocks.1[1], blocks.1[2] * 32];
    let codes = blocks.2.iter().flat_map(|byte| [byte & 15, byte >> 4]);
    let numbers = codes.enumerate().map(|(at, code)| {
        let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
        let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
        sign * magnitude * 2f32.powi(i32::from(scales.2[at / 32]) - 127)
    });
    (shape, numbers.collect())
}

fn encoded(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    let f16 = |number: f32| half::f16::from_f32(number).to_bits();
    match dtype {
        Dtype::F32 => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        Dtype::BF16 => {
            numbers.iter().flat_map(|n| ((n.to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        Dtype::F16 => numbers.iter().flat_map(|number| f16(*number).to_le_bytes()).collect(),
        Dtype::F8_E5M2 => numbers.iter().map(|number| (f16(*number) >> 8) as u8).collect(),
        _ => unreachable!(),
    }
}

/// `[experts, out, in]` to `[experts, in, out]`.
fn input_major((shape, numbers): (Vec<usize>, Vec<f32>), dtype: Dtype) -> Tensor {
    let [experts, out, inn] = shape[..] else { unreachable!() };
    let mut turned = Vec::with_capacity(numbers.len());
    for matrix in numbers.chunks(out * inn) {
        turned.extend((0..inn).flat_map(|i| (0..out).map(move |o| matrix[o * inn + i])));
    }
    (dtype, vec![experts, inn, out], encoded(&turned, dtype))
}

/// The tiny model's tensors under the names and in the forms of a layout.
fn in_layout(layout: &str) -> Tensors {
    let mut left = tiny();
    let mut take = |name: String| left.remove(&name).unwrap();
    let mut all = Tensors::new();
    for (ours, theirs) in [
        ("embedding.weight", "model.embed_tokens.weight"),
        ("norm.scale", "model.norm.weight"),
        ("unembedding.weight", "lm_head.weight"),
    ] {
        all.insert(theirs.to_owned(), take(ours.to_owned()));
    }
    for n in 0..3 {
        let mut add = |name: &str, tensor| all.insert(format!("model.layers.{n}.{name}"), tensor);
        let mut of = |name: &str| take(format!("block.{n}.{name}"));
        add("input_layernorm.weight", of("attn.norm.scale"));
        add("post_attention_layernorm.weight", of("mlp.norm.scale"));
        add("self_attn.sinks", of("attn.sinks"));
        for part in ["weight", "bias"] {
            let qkv = of(&format!("attn.qkv.{part}"));
            for (name, range) in [("q", 0..256), ("k", 256..320), ("v", 320..384)] {
                add(&format!("self_attn.{name}_proj.{part}"), rows(&qkv, range));
            }
            add(&format!("self_attn.o_proj.{part}"), of(&format!("attn.out.{part}")));
            let router = if layout == "split" { "router.linear" } else { "router" };
            add(&format!("mlp.{router}.{part}"), of(&format!("mlp.gate.{part}")));
        }
        for (ours, theirs) in [("mlp1", "gate_up"), ("mlp2", "down")] {
            let blocks = of(&format!("mlp.{ours}_weight.blocks"));
            let scales = of(&format!("mlp.{ours}_weight.scales"));
            let bias = of(&format!("mlp.{ours}_bias"));
            for (name, tensor) in experts(layout, theirs, [blocks, scales, bias]) {
                add(&format!("mlp.experts.{name}"), tensor);
            }
        }
    }
    assert!(left.is_empty());
    all
}

/// One of the two matrices of all experts.
fn experts(layout: &str, name: &str, [blocks, scales, bias]: [Tensor; 3]) -> Vec<(String, Tensor)> {
    let numbers = || dequantised(&blocks, &scales);
    let whole = |dtype| {
        let biases = (format!("{name}_proj_bias"), bias.clone());
        vec![(format!("{name}_proj"), input_major(numbers(), dtype)), biases]
    };
    match layout {
        "hf" => vec![
            (format!("{name}_proj_blocks"), blocks),
            (format!("{name}_proj_scales"), scales),
            (format!("{name}_proj_bias"), bias),
        ],
        "bf16" => whole(Dtype::BF16),
        "f16" => whole(Dtype::F16),
        "f32" => whole(Dtype::F32),
        "fp8" => whole(Dtype::F8_E5M2),
        _ => {
            let (shape, numbers) = numbers();
            let weights = (Dtype::BF16, shape, encoded(&numbers, Dtype::BF16));
            let parts = [("weight", weights), ("bias", bias)];
            let each = (0..8).flat_map(|e| parts.iter().map(move |(part, all)| (e, part, all)));
            each.flat_map(|(e, part, all)| linears(layout, name, e, part, expert(all, e))).collect()
        }
    }
}

/// One expert's part of a matrix as linear layers.
fn linears(layout: &str, name: &str, e: usize, part: &str, all: Tensor) -> Vec<(String, Tensor)> {
    match (layout, name) {
        ("split", _) => vec![(format!("{name}_projs.{e}.{part}"), all)],
        ("linears", "down") => vec![(format!("{e}.down_proj.{part}"), all)],
        ("linears", _) => ["gate", "up"]
            .into_iter()
            .enumerate()
            .map(|(odd, half)| {
                let picked = rows(&all, (odd..256).step_by(2));
                (format!("{e}.{half}_proj.{part}"), picked)
            })
            .collect(),
        _ => unreachable!(),
    }
}

/// The tiny model's config in Hugging Face's dialect.
fn config() -> Value {
    json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": true,
        "head_dim": 32, "hidden_act": "silu", "hidden_size": 96, "intermediate_size": 128,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "max_position_embeddings": 131_072, "num_attention_heads": 8, "num_experts_per_tok": 4,
        "num_hidden_layers": 3, "num_key_value_heads": 2, "num_local_experts": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 150_000, "sliding_window": 8, "swiglu_limit": 7.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                         "original_max_position_embeddings": 4096, "truncate": false},
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 320,
        "eos_token_id": 2, "transformers_version": "4.55.0", "use_cache": true,
    })
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with a checkpoint as `checkpoint`.
fn home(config: &Value, tensors: &Tensors) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("checkpoint");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    write(&folder.join("model.safetensors"), tensors);
    home
}

/// The tiny model in a layout, as `checkpoint` of a folder.
pub fn in_folder(layout: &str) -> tempfile::TempDir {
    home(&config(), &in_layout(layout))
}

fn exported(home: &Path, name: &str, options: &[&str]) -> (PathBuf, Value) {
    let (checkpoint, model) = (home.join("checkpoint"), home.join(format!("{name}.onnx")));
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    (model.clone(), export(&[&base[..], options].concat()))
}

const WAYS: [(&str, &[&str]); 4] = [
    ("flat", &[]),
    ("functions", &["--functions"]),
    ("ort", &["--target", "ort"]),
    ("copied", &["--external-data", "copy", "--target", "ort"]),
];

#[test]
fn every_layout_is_exact() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        for (way, options) in WAYS {
            let (model, summary) = exported(home.path(), way, options);
            let stays = IN_PLACE.contains(&layout) && way != "copied";
            assert_eq!(summary["weights"]["in_place"], stays, "{layout} {way}: {summary}");
            assert_eq!(
                summary["weights"]["bytes_written"] == 0,
                stays || way == "functions" || way == "ort"
            );
            for (case, error) in ["2x40", "1x300"].iter().zip(logit_errors(
                &model,
                "onnxruntime",
                &["2x40", "1x300"],
            )) {
                assert!(error <= 1e-5, "{layout} {way}, {case}: {error:e}");
            }
        }
    }
}

/// Steps of a single token take another way through the experts.
#[test]
fn every_layout_is_exact_step_by_step() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let models = [("ort", "ort"), ("cached", "onnx")].map(|(name, target)| {
            exported(home.path(), name, &["--target", target, "--kv-cache"]).0
        });
        let ways = json!([
            {"rows": [0, 1], "lengths": [12, 5], "padding": "left", "steps": 20},
            {"rows": [1], "lengths": [1], "steps": 20},
        ]);
        let request = json!({"models": models, "references": [reference("2x40")], "ways": ways});
        let found: Vec<Vec<f64>> =
            serde_json::from_value(python("cached.py", &[], &request)).unwrap();
        assert!(found.iter().flatten().all(|error| *error <= 1e-5), "{layout}: {found:?}");
    }
}

/// What a stage holds, and a model made of it, is the same in every layout.
#[test]
fn every_layout_can_be_staged() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let (stage, checkpoint) =
            (home.path().join("stage.safetensors"), home.path().join("checkpoint"));
        export(&["--checkpoint", text(&checkpoint), "--save-weights", text(&stage), "--skip-onnx"]);
        fs::remove_dir_all(checkpoint).unwrap();
        let model = home.path().join("model.onnx");
        let summary =
            export(&["--weights", text(&stage), "--output", text(&model), "--target", "ort"]);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        let error = logit_errors(&model, "onnxruntime", &["2x40"])[0];
        assert!(error <= 1e-5, "{layout}: {error:e}");
    }
}

/// The released files: three shards "of 2", named by the index, with a tensor's
/// blocks and scales in different ones; and no `model.` before names.
#[test]
fn shards_may_keep_blocks_and_scales_apart() {
    for prefix in ["model.", ""] {
        let mut shards = [Tensors::new(), Tensors::new(), Tensors::new()];
        let mut map = BTreeMap::new();
        for (at, (name, tensor)) in in_layout("hf").into_iter().enumerate() {
            let name =
                name.strip_prefix("model.").map_or(name.clone(), |rest| format!("{prefix}{rest}"));
            map.insert(name.clone(), format!("model-{:05}-of-00002.safetensors", at % 3));
            shards[at % 3].insert(name, tensor);
        }
        let home = home(&config(), &Tensors::new());
        let folder = home.path().join("checkpoint");
        fs::remove_file(folder.join("model.safetensors")).unwrap();
        for (at, shard) in shards.iter().enumerate() {
            write(&folder.join(format!("model-{at:05}-of-00002.safetensors")), shard);
        }
        let index = json!({"weight_map": map}).to_string();
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
        let (model, summary) = exported(home.path(), "model", &["--target", "ort"]);
        assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 3);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert!(logit_errors(&model, "onnxruntime", &["2x40"])[0] <= 1e-5);
    }
}

/// The largest difference between what two checkpoints compute.
fn difference(one: &tempfile::TempDir, other: &tempfile::TempDir) -> f64 {
    let models = [one, other].map(|home| exported(home.path(), "model", &[]).0);
    let request = json!({"models": models, "ids": fixture("reference/logits-2x40.ids.npy")});
    python("equal.py", &[], &request).as_f64().unwrap()
}

/// Tied, the embedding is the matrix of the logits; without bias, the
/// projections of attention add nothing.
#[test]
fn what_a_config_leaves_out_need_not_be_stored() {
    let (mut whole, mut without) = (in_layout("hf"), in_layout("hf"));
    let embedding = whole["model.embed_tokens.weight"].clone();
    whole.insert("lm_head.weight".to_owned(), embedding);
    without.remove("lm_head.weight");
    let is_bias = |name: &str| name.contains("self_attn") && name.ends_with("_proj.bias");
    for (_, (_, _, data)) in whole.iter_mut().filter(|(name, _)| is_bias(name)) {
        data.fill(0);
    }
    without.retain(|name, _| !is_bias(name));
    let mut config_without = config();
    config_without["tie_word_embeddings"] = json!(true);
    config_without["attention_bias"] = json!(false);
    let error = difference(&home(&config(), &whole), &home(&config_without, &without));
    assert!(error <= 1e-6, "{error:e}");
}

type Edit = fn(&mut Tensors, &mut Value);

#[test]
fn what_no_layout_has_is_refused() {
    let cases: [(&str, Edit, &str); 7] = [
        (
            "hf",
            |tensors, _| tensors.retain(|name, _| !name.contains("_blocks")),
            "holds no experts under names that are known here; it has `model.layers.0.mlp.experts.down_proj_bias`",
        ),
        (
            "bf16",
            |tensors, _| {
                let name = "model.layers.1.mlp.experts.down_proj";
                let (_, shape, data) = tensors[name].clone();
                let halved = data.into_iter().step_by(2).collect();
                tensors.insert(name.to_owned(), (Dtype::F8_E4M3, shape, halved));
            },
            "has dtype F8_E4M3",
        ),
        (
            "split",
            |tensors, _| {
                let name = "model.layers.1.mlp.experts.down_projs.3.weight";
                let (_, shape, data) = tensors[name].clone();
                tensors.insert(name.to_owned(), (Dtype::F16, shape, data));
            },
            "down_projs.3.weight` should be of one dtype with those of the other experts, found f16",
        ),
        (
            "linears",
            |tensors, _| drop(tensors.remove("model.layers.2.mlp.experts.7.up_proj.weight")),
            "lacks tensor `model.layers.2.mlp.experts.7.up_proj.weight`",
        ),
        (
            "bf16",
            |_, config| config["num_local_experts"] = json!(7),
            "`model.layers.0.mlp.router.weight` should have shape [7, 96] by the config, found [8, 96]",
        ),
        (
            "hf",
            |_, config| config["tie_word_embeddings"] = json!(true),
            "holds tensor `lm_head.weight`, which is not part of Hugging Face's layout",
        ),
        (
            "hf",
            |_, config| config["quantization_config"] = json!({"quant_method": "gptq"}),
            "key `quantization_config.quant_method` must be \"mxfp4\", found \"gptq\"",
        ),
    ];
    for (layout, edit, sentence) in cases {
        let (mut tensors, mut config) = (in_layout(layout), config());
        edit(&mut tensors, &mut config);
        let home = home(&config, &tensors);
        let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("m.onnx"));
        let found = failure(&["--checkpoint", text(&checkpoint), "--output", text(&model)]);
        assert!(found.contains(sentence), "{found}\nlacks: {sentence}");
        assert!(!model.exists());
    }
}

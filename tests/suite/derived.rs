//! The tiny model in every layout, each made by the layout's own definition.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::support::fixture;

/// A tensor with its bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);
pub type Tensors = BTreeMap<String, Tensor>;

/// Every layout of Hugging Face's dialect.
pub const LAYOUTS: [&str; 7] = ["hf", "bf16", "f16", "f32", "fp8", "split", "linears"];

pub fn tiny() -> Tensors {
    let bytes = fs::read(fixture("tiny/model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let owned = whole.iter().map(|(name, view)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    });
    owned.collect()
}

/// Some rows of a tensor.
pub fn rows(tensor: &Tensor, range: impl Iterator<Item = usize> + Clone) -> Tensor {
    let (dtype, shape, data) = tensor;
    let row = data.len() / shape[0];
    let picked = range.clone().flat_map(|at| &data[at * row..][..row]).copied().collect();
    (*dtype, [&[range.count()], &shape[1..]].concat(), picked)
}

/// One expert of a tensor of all.
pub fn expert(tensor: &Tensor, at: usize) -> Tensor {
    let (dtype, shape, data) = rows(tensor, at..at + 1);
    (dtype, shape[1..].to_vec(), data)
}

/// Numbers `[experts, out, in]`, from the format's own words: codes are sign,
/// two exponent bits and one of mantissa, a scale is a power of two for 32.
pub fn dequantized(blocks: &Tensor, scales: &Tensor) -> (Vec<usize>, Vec<f32>) {
    let shape = vec![blocks.1[0], blocks.1[1], blocks.1[2] * 32];
    let codes = blocks.2.iter().flat_map(|byte| [byte & 15, byte >> 4]);
    let numbers = codes.enumerate().map(|(at, code)| {
        let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
        let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
        sign * magnitude * 2f32.powi(i32::from(scales.2[at / 32]) - 127)
    });
    (shape, numbers.collect())
}

pub fn encoded(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
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
pub fn input_major((shape, numbers): (Vec<usize>, Vec<f32>), dtype: Dtype) -> Tensor {
    let [experts, out, inn] = shape[..] else { unreachable!() };
    let mut turned = Vec::with_capacity(numbers.len());
    for matrix in numbers.chunks(out * inn) {
        turned.extend((0..inn).flat_map(|i| (0..out).map(move |o| matrix[o * inn + i])));
    }
    (dtype, vec![experts, inn, out], encoded(&turned, dtype))
}

/// The tiny model's tensors under the names and in the forms of a layout.
pub fn in_layout(layout: &str) -> Tensors {
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
    let numbers = || dequantized(&blocks, &scales);
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
pub fn config() -> Value {
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

pub fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with a checkpoint as `checkpoint`.
pub fn home(config: &Value, tensors: &Tensors) -> tempfile::TempDir {
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

/// A checkpoint as it is released: three shards "of 2", named by the index, with
/// tensors dealt out in turn, so that an expert's blocks and scales are apart.
pub fn write_shards(folder: &Path, tensors: Tensors) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config().to_string()).unwrap();
    let (mut shards, mut map) = ([Tensors::new(), Tensors::new(), Tensors::new()], BTreeMap::new());
    let file = |at: usize| format!("model-{at:05}-of-00002.safetensors");
    for (at, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), file(at % 3));
        shards[at % 3].insert(name, tensor);
    }
    for (at, shard) in shards.iter().enumerate() {
        write(&folder.join(file(at)), shard);
    }
    let index = json!({"weight_map": map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

//! Adapters merged into their base in float64, by the definitions of the types in
//! `src/adapter`: the sum is written as a checkpoint in F32.

use std::collections::BTreeMap;

use gpt_oss_export::adapter::{Adapter, Factor, FactorAxes, LowRank, Replacement, Rows};
use gpt_oss_export::tensor::decode;
use gpt_oss_export::weights::{FileCache, Weight, read_range};
use safetensors::Dtype;

use crate::layout_fixtures::{Tensors, dequantized, encoded, home, input_major, read};
use crate::support::{Home, fixture, read_json};

/// Names of Hugging Face's layout, or parts of them, and canonical ones.
const NAMES: [(&str, &str); 19] = [
    ("model.layers.", "layers."),
    ("model.embed_tokens.weight", "embedding"),
    ("model.norm.weight", "norm.scale"),
    ("lm_head.weight", "lm_head"),
    ("self_attn.q_proj", "attn.q"),
    ("self_attn.k_proj", "attn.k"),
    ("self_attn.v_proj", "attn.v"),
    ("self_attn.o_proj", "attn.out"),
    ("self_attn.sinks", "attn.sinks"),
    ("input_layernorm.weight", "attn.norm.scale"),
    ("post_attention_layernorm.weight", "mlp.norm.scale"),
    ("gate_up_proj_bias", "gate_up.bias"),
    ("down_proj_bias", "down.bias"),
    ("gate_up_proj", "gate_up"),
    ("down_proj", "down"),
    ("attn.q.weight", "attn.q"),
    ("attn.k.weight", "attn.k"),
    ("attn.v.weight", "attn.v"),
    ("attn.out.weight", "attn.out"),
];

/// A tensor of the base: its stored name, its shape with `[.., out, in]` at the end, its values.
struct Base {
    stored: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// The tensors of a fixture in Hugging Face's layout with MXFP4, by canonical names.
fn base(folder: &str) -> BTreeMap<String, Base> {
    let mut tensors = read(&fixture(folder).join("model.safetensors"));
    let mut all = BTreeMap::new();
    let matrices = |name: &String| name.strip_suffix("_blocks").map(str::to_owned);
    let matrices: Vec<String> = tensors.keys().filter_map(matrices).collect();
    let matrices = matrices.into_iter().map(|name| {
        let mut take = |part| tensors.remove(&format!("{name}_{part}")).unwrap();
        let (shape, values) = dequantized(&take("blocks"), &take("scales"));
        (name, shape, values)
    });
    let matrices: Vec<_> = matrices.collect();
    let dense = tensors.into_iter().map(|(name, (dtype, shape, data))| {
        assert_eq!(dtype, Dtype::BF16);
        (name, shape, decode(gpt_oss_export::tensor::DType::BF16, &data))
    });
    for (stored, shape, values) in matrices.into_iter().chain(dense) {
        let name =
            NAMES.iter().fold(stored.clone(), |name, (theirs, ours)| name.replace(theirs, ours));
        let name = name.replace("mlp.router.weight", "mlp.router");
        let values = values.into_iter().map(f64::from).collect();
        all.insert(name, Base { stored, shape, values });
    }
    all
}

/// The values of a weight, which may be several ranges of the adapter's file.
fn values(weight: &Weight) -> Vec<f64> {
    let bytes = read_range(weight, &mut FileCache::default(), 0..weight.bytes()).unwrap();
    decode(weight.dtype, &bytes).into_iter().map(f64::from).collect()
}

/// Element `[expert, rank, width]` of a factor with these values.
fn element(factor: &Factor, values: &[f64], [expert, rank, width]: [usize; 3]) -> f64 {
    let shape: Vec<usize> = factor.weight.shape.iter().map(|size| *size as usize).collect();
    let lead = |count: usize| if count == 1 { 0 } else { expert };
    values[match (factor.axes, &shape[..]) {
        (FactorAxes::RankWidth, [_, n]) => rank * n + width,
        (FactorAxes::RankWidth, [e, r, n]) => (lead(*e) * r + rank) * n + width,
        (FactorAxes::WidthRank, [_, r]) => width * r + rank,
        (FactorAxes::WidthRank, [e, n, r]) => (lead(*e) * n + width) * r + rank,
        (FactorAxes::WidthRankExperts, [_, r, e]) => (width * r + rank) * e + lead(*e),
        other => panic!("{other:?}"),
    }]
}

/// The rows of a matrix or vector that a change is about, each as the tensor and the row in it:
/// here q, k and v are always apart.
fn rows(tensors: &BTreeMap<String, Base>, of: &str, rows: &Rows) -> Vec<(String, usize)> {
    let parts = if of.contains(".qkv") {
        ["q", "k", "v"].map(|part| of.replace("qkv", part)).to_vec()
    } else {
        vec![of.to_owned()]
    };
    // The outputs of a bias are its last axis, those of a matrix the last but one.
    let outputs = |name: &String| {
        let Base { shape, .. } = &tensors[name];
        let is_vector =
            name.ends_with(".bias") || name.ends_with(".scale") || name.ends_with(".sinks");
        shape[shape.len() - if is_vector { 1 } else { 2 }]
    };
    let all = parts.iter().flat_map(|name| (0..outputs(name)).map(|row| (name.clone(), row)));
    let all: Vec<_> = all.collect();
    let picked: Vec<usize> = match rows {
        Rows::All => (0..all.len()).collect(),
        Rows::Range(range) => (range.start as usize..range.end as usize).collect(),
        Rows::Even => (0..all.len()).step_by(2).collect(),
        Rows::Odd => (1..all.len()).step_by(2).collect(),
        Rows::Listed(list) => list.iter().map(|row| *row as usize).collect(),
    };
    picked.into_iter().map(|row| all[row].clone()).collect()
}

fn replace(tensors: &mut BTreeMap<String, Base>, it: &Replacement) {
    let new = values(&it.weight);
    let rows = rows(tensors, &it.replaced, &it.rows);
    if it.rows == Rows::All {
        tensors.get_mut(&it.replaced).unwrap().values = new;
        return;
    }
    let width = new.len() / rows.len();
    for ((name, row), new) in rows.into_iter().zip(new.chunks(width)) {
        tensors.get_mut(&name).unwrap().values[row * width..][..width].copy_from_slice(new);
    }
}

fn add(tensors: &mut BTreeMap<String, Base>, it: &LowRank) {
    let (a, b) = (values(&it.a.weight), values(&it.b.weight));
    let bias = it.bias.as_ref().map(values);
    for (at, (name, row)) in rows(tensors, &it.matrix, &it.rows).into_iter().enumerate() {
        let Base { shape, values, .. } = tensors.get_mut(&name).unwrap();
        let (&[out, inn], stack) =
            shape.split_last_chunk().map(|(stack, sides)| (sides, stack)).unwrap();
        for expert in 0..stack.first().copied().unwrap_or(1) {
            for column in 0..inn {
                let product = (0..it.rank as usize).map(|rank| {
                    element(&it.b, &b, [expert, rank, at])
                        * element(&it.a, &a, [expert, rank, column])
                });
                values[(expert * out + row) * inn + column] += it.scale * product.sum::<f64>();
            }
        }
        if let Some(bias) = &bias {
            assert!(stack.is_empty(), "no fixture has a bias for experts");
            tensors.get_mut(&format!("{name}.bias")).unwrap().values[row] += it.scale * bias[at];
        }
    }
}

/// The checkpoint that a fixture in Hugging Face's layout becomes with an adapter.
pub fn merged(folder: &str, adapter: &Adapter) -> Home {
    let mut tensors = base(folder);
    adapter.replacements.iter().for_each(|it| replace(&mut tensors, it));
    adapter.changes.iter().for_each(|it| add(&mut tensors, it));
    let stored = tensors.into_values().map(|Base { stored, shape, values }| {
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        let tensor = if stored.ends_with("gate_up_proj") || stored.ends_with("down_proj") {
            input_major((shape, values), Dtype::F32)
        } else {
            (Dtype::F32, shape, encoded(&values, Dtype::F32))
        };
        (stored, tensor)
    });
    let mut config = read_json(&fixture(folder).join("config.json"));
    config.as_object_mut().unwrap().remove("quantization_config");
    home(&config, &stored.collect::<Tensors>())
}

//! Checkpoints of the real models' sizes: files with real headers over holes.

use std::collections::HashMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use crate::layout_fixtures::write_index;
use crate::support::Home;

/// OpenAI's published configs.
fn config(layers: u64, experts: u64) -> Value {
    json!({
        "num_hidden_layers": layers, "num_experts": experts, "experts_per_token": 4,
        "vocab_size": 201_088,
        "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
        "initial_context_length": 4096, "rope_theta": 150_000, "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1, "rope_ntk_beta": 32,
    })
}

/// Names and shapes of OpenAI's layout, written down from its checkpoints.
fn tensors(layers: usize, experts: usize) -> Vec<SparseTensor> {
    let tensor =
        |name: &str, dtype, shape: &[usize]| (name.to_owned(), dtype, shape.to_vec(), Vec::new());
    let mut list = vec![tensor("embedding.weight", Dtype::BF16, &[201_088, 2880])];
    for n in 0..layers {
        let mut add = |name: &str, dtype, shape: &[usize]| {
            list.push(tensor(&format!("block.{n}.{name}"), dtype, shape));
        };
        add("attn.norm.scale", Dtype::BF16, &[2880]);
        add("attn.qkv.weight", Dtype::BF16, &[5120, 2880]);
        add("attn.qkv.bias", Dtype::BF16, &[5120]);
        add("attn.sinks", Dtype::BF16, &[64]);
        add("attn.out.weight", Dtype::BF16, &[2880, 4096]);
        add("attn.out.bias", Dtype::BF16, &[2880]);
        add("mlp.norm.scale", Dtype::BF16, &[2880]);
        add("mlp.gate.weight", Dtype::BF16, &[experts, 2880]);
        add("mlp.gate.bias", Dtype::BF16, &[experts]);
        add("mlp.mlp1_weight.blocks", Dtype::U8, &[experts, 5760, 90, 16]);
        add("mlp.mlp1_weight.scales", Dtype::U8, &[experts, 5760, 90]);
        add("mlp.mlp1_bias", Dtype::BF16, &[experts, 5760]);
        add("mlp.mlp2_weight.blocks", Dtype::U8, &[experts, 2880, 90, 16]);
        add("mlp.mlp2_weight.scales", Dtype::U8, &[experts, 2880, 90]);
        add("mlp.mlp2_bias", Dtype::BF16, &[experts, 2880]);
    }
    list.push(tensor("norm.scale", Dtype::BF16, &[2880]));
    list.push(tensor("unembedding.weight", Dtype::BF16, &[201_088, 2880]));
    list
}

/// A tensor with some of its bytes and their offsets: the rest are zeros.
pub type SparseTensor = (String, Dtype, Vec<usize>, Vec<(usize, Vec<u8>)>);

/// Writes a SafeTensors file whose zeros take no space on the disk; returns its bytes of data.
pub fn write_sparse(path: &Path, tensors: Vec<SparseTensor>) -> usize {
    let (mut infos, mut pieces, mut end) = (Vec::new(), Vec::new(), 0);
    for (name, dtype, shape, bytes) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        pieces.extend(bytes.into_iter().map(|(offset, bytes)| (start + offset, bytes)));
        infos.push((name, TensorInfo { dtype, shape, data_offsets: (start, end) }));
    }
    let header = serde_json::to_vec(&Metadata::new(None, infos).unwrap()).unwrap();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&[&(header.len() as u64).to_le_bytes(), &header[..]].concat()).unwrap();
    for (offset, bytes) in pieces {
        file.seek(SeekFrom::Start((8 + header.len() + offset) as u64)).unwrap();
        file.write_all(&bytes).unwrap();
    }
    file.set_len((8 + header.len() + end) as u64).unwrap();
    end
}

/// Writes a checkpoint of shards that take no space on the disk; returns their bytes of data.
pub fn sparse(folder: &Path, layers: usize, experts: usize, shards: usize) -> u64 {
    fs::create_dir_all(folder).unwrap();
    let config = config(layers as u64, experts as u64).to_string();
    fs::write(folder.join("config.json"), config).unwrap();
    let list = tensors(layers, experts);
    let (mut map, mut total) = (HashMap::new(), 0);
    for (index, part) in list.chunks(list.len().div_ceil(shards)).enumerate() {
        let file = format!("model--{:05}-of-{shards:05}.safetensors", index + 1);
        map.extend(part.iter().map(|(name, ..)| (name, file.clone())));
        total += write_sparse(&folder.join(file), part.to_vec());
    }
    write_index(folder, map);
    total as u64
}

#[test]
fn some_layers_of_20b_reference_their_bytes_alone() {
    let home = Home::new();
    sparse(&home.checkpoint(), 24, 32, 1);
    let (_, summary) = home.export("model", &["--layers", "2"]);
    assert_eq!((&summary["layers"], &summary["layers_there"]), (&json!(2), &json!(24)));
    assert!(summary["weights"]["bytes_referenced"].as_u64().unwrap() < 4_000_000_000);
    assert_eq!(fs::read_dir(&*home).unwrap().count(), 2);
}

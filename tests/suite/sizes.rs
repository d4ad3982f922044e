//! The real models' sizes, on files with real headers over holes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use crate::support::{export, python};

/// OpenAI's published configs; `vocab` and `layers` as in the release.
fn config(layers: u64, experts: u64) -> Value {
    json!({
        "num_hidden_layers": layers, "num_experts": experts, "experts_per_token": 4, "vocab_size": 201_088,
        "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
        "initial_context_length": 4096, "rope_theta": 150_000, "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1, "rope_ntk_beta": 32,
    })
}

/// Names and shapes of OpenAI's layout, written down from its checkpoints.
fn tensors(layers: usize, experts: usize) -> Vec<(String, Dtype, Vec<usize>)> {
    let mut list = vec![("embedding.weight".to_owned(), Dtype::BF16, vec![201_088, 2880])];
    for n in 0..layers {
        let mut add = |name: &str, dtype, shape: &[usize]| {
            list.push((format!("block.{n}.{name}"), dtype, shape.to_vec()))
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
    list.push(("norm.scale".to_owned(), Dtype::BF16, vec![2880]));
    list.push(("unembedding.weight".to_owned(), Dtype::BF16, vec![201_088, 2880]));
    list
}

/// Writes a checkpoint of shards that take no space on the disk.
pub fn sparse(folder: &Path, layers: usize, experts: usize, shards: usize) -> u64 {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config(layers as u64, experts as u64).to_string())
        .unwrap();
    let list = tensors(layers, experts);
    let (mut map, mut total) = (HashMap::new(), 0);
    for (index, part) in list.chunks(list.len().div_ceil(shards)).enumerate() {
        let file = format!("model--{:05}-of-{shards:05}.safetensors", index + 1);
        let mut end = 0;
        let infos = part.iter().map(|(name, dtype, shape)| {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            map.insert(name.clone(), file.clone());
            (
                name.clone(),
                TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (start, end) },
            )
        });
        let header = serde_json::to_vec(&Metadata::new(None, infos.collect()).unwrap()).unwrap();
        let path = folder.join(file);
        fs::write(&path, [&(header.len() as u64).to_le_bytes(), &header[..]].concat()).unwrap();
        let length = (8 + header.len() + end) as u64;
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        total += end as u64;
    }
    fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
        .unwrap();
    total
}

fn exported(layers: usize, experts: usize, shards: usize, options: &[&str]) -> (Value, Value) {
    let home = tempfile::tempdir().unwrap();
    let total = sparse(home.path(), layers, experts, shards);
    let model = home.path().join("model.onnx");
    let base = ["--checkpoint", home.path().to_str().unwrap(), "--output", model.to_str().unwrap()];
    let before = fs::read_dir(home.path()).unwrap().count();
    let summary = export(&[&base, options].concat());
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(summary["weights"]["bytes_referenced"], total);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), before + 1);
    // onnx.checker would read 14 GB of holes; inference needs none of them.
    let seen = python("check.py", &[model.to_str().unwrap(), "--structure-only"], &Value::Null);
    let bytes: u64 = seen["external"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| tensor["length"].as_u64().unwrap())
        .sum();
    assert_eq!(bytes, total, "every byte is referenced once");
    (summary, seen)
}

#[test]
fn the_20b_is_a_graph_of_kilobytes() {
    let (summary, seen) = exported(24, 32, 1, &[]);
    assert!(summary["model"]["bytes"].as_u64().unwrap() <= 1_000_000, "{summary}");
    assert!(
        seen["external"]
            .as_array()
            .unwrap()
            .iter()
            .any(|tensor| tensor["offset"].as_u64().unwrap() > u64::from(u32::MAX))
    );
    // No chunk of lm_head is above 1 GiB in f32, so that onnxruntime folds it.
    let rows: Vec<&Value> = seen["external"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["name"].as_str().unwrap().starts_with("lm_head"))
        .collect();
    assert!(rows.len() > 2);
    assert!(rows.is_sorted_by_key(|tensor| tensor["offset"].as_u64().unwrap()));
    assert!(rows.iter().all(|tensor| tensor["length"].as_u64().unwrap() * 2 <= 1 << 30));
    assert_eq!(rows.iter().map(|tensor| tensor["dims"][0].as_u64().unwrap()).sum::<u64>(), 201_088);
}

#[test]
fn the_20b_for_onnxruntime() {
    let (summary, _) = exported(24, 32, 1, &["--target", "ort"]);
    assert!(summary["model"]["bytes"].as_u64().unwrap() <= 250_000, "{summary}");
    assert_eq!(summary["model"]["inputs"].as_array().unwrap().len(), 2 + 2 * 24);
}

#[test]
fn the_20b_in_functions_is_a_page() {
    let (summary, _) = exported(24, 32, 1, &["--functions"]);
    assert!(summary["model"]["bytes"].as_u64().unwrap() <= 200_000, "{summary}");
    assert_eq!(summary["model"]["functions"].as_array().unwrap().len(), 5);
}

#[test]
fn the_120b_in_seven_shards() {
    let (summary, _) = exported(36, 128, 7, &["--functions"]);
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 7);
    assert_eq!(summary["layers"], 36);
}

#[test]
fn some_layers_of_the_20b() {
    let home = tempfile::tempdir().unwrap();
    sparse(&home.path().join("checkpoint"), 24, 32, 1);
    let model = home.path().join("model.onnx");
    let checkpoint = home.path().join("checkpoint");
    let summary = export(&[
        "--checkpoint",
        checkpoint.to_str().unwrap(),
        "--output",
        model.to_str().unwrap(),
        "--layers",
        "2",
    ]);
    assert_eq!((&summary["layers"], &summary["layers_there"]), (&json!(2), &json!(24)));
    assert!(summary["weights"]["bytes_referenced"].as_u64().unwrap() < 4_000_000_000);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
}

//! The tiny model in every layout, made by the layout's definition, and with edits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::{Home, fixture, read_json};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde_json::{Value, json};

pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);
pub type Tensors = BTreeMap<String, Tensor>;

/// Every layout, but for the one that [`tiny`] has.
pub const LAYOUTS: [&str; 10] =
    ["hf", "bf16", "f16", "f32", "fp8", "split", "linears", "mlx", "mixed", "numbers"];

pub fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let owned = whole.iter().map(|(name, view)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    });
    owned.collect()
}

pub fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The tiny model in OpenAI's layout.
pub fn tiny() -> Tensors {
    read(&fixture("tiny/model.safetensors"))
}

pub fn rows(tensor: &Tensor, range: impl Iterator<Item = usize> + Clone) -> Tensor {
    let (dtype, shape, data) = tensor;
    let row = data.len() / shape[0];
    let picked = range.clone().flat_map(|at| &data[at * row..][..row]).copied().collect();
    (*dtype, [&[range.count()], &shape[1..]].concat(), picked)
}

/// Values `[experts, out, in]` by the format's definition: a code has a sign, two exponent
/// bits and one bit of mantissa, a scale is a power of two for 32 codes.
pub fn dequantized(blocks: &Tensor, scales: &Tensor) -> (Vec<usize>, Vec<f32>) {
    let shape = vec![blocks.1[0], blocks.1[1], blocks.1[2] * 32];
    let codes = blocks.2.iter().flat_map(|byte| [byte & 15, byte >> 4]);
    let values = codes.enumerate().map(|(at, code)| {
        let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
        let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
        sign * magnitude * 2f32.powi(i32::from(scales.2[at / 32]) - 127)
    });
    (shape, values.collect())
}

pub fn encoded(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let values = values.iter();
    let f16 = |value: &f32| half::f16::from_f32(*value).to_le_bytes();
    match dtype {
        Dtype::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::BF16 => values.flat_map(|value| [2, 3].map(|at| value.to_le_bytes()[at])).collect(),
        Dtype::F16 => values.flat_map(f16).collect(),
        Dtype::F8_E5M2 => values.map(|value| f16(value)[1]).collect(),
        _ => unreachable!(),
    }
}

/// `[experts, out, in]` to `[experts, in, out]`.
pub fn input_major((shape, values): (Vec<usize>, Vec<f32>), dtype: Dtype) -> Tensor {
    let [experts, out, inn] = shape[..] else { unreachable!() };
    let mut turned = Vec::with_capacity(values.len());
    for matrix in values.chunks(out * inn) {
        turned.extend((0..inn).flat_map(|i| (0..out).map(move |o| matrix[o * inn + i])));
    }
    (dtype, vec![experts, inn, out], encoded(&turned, dtype))
}

/// The tiny model's tensors under the names and in the formats of a layout.
pub fn in_layout(layout: &str) -> Tensors {
    if layout == "numbers" {
        return with_numbers(Dtype::BF16);
    }
    let mut all = read(&fixture("tiny-hf/model.safetensors"));
    let is_packed = |n, matrix| match layout {
        "hf" => true,
        "mixed" => n == 0 || (n, matrix) == (1, "gate_up") || (n, matrix) == (2, "down"),
        _ => false,
    };
    let matrices = (0..3).flat_map(|n| ["gate_up", "down"].map(|matrix| (n, matrix)));
    for (n, matrix) in matrices.filter(|(n, matrix)| !is_packed(*n, *matrix)) {
        let prefix = format!("model.layers.{n}.mlp.experts.");
        let mut take = |part| all.remove(&format!("{prefix}{matrix}_proj_{part}")).unwrap();
        let (blocks, scales, bias) = (take("blocks"), take("scales"), take("bias"));
        let values = dequantized(&blocks, &scales);
        let dtype = match layout {
            "f16" => Dtype::F16,
            "f32" => Dtype::F32,
            "fp8" => Dtype::F8_E5M2,
            _ => Dtype::BF16,
        };
        let parts = if ["split", "linears", "mlx"].contains(&layout) {
            let weight = (dtype, values.0, encoded(&values.1, dtype));
            let parts = [("weight", weight), ("bias", bias)];
            parts.iter().flat_map(|(part, all)| linears(layout, matrix, part, all)).collect()
        } else {
            let name = format!("{matrix}_proj");
            vec![(name.clone() + "_bias", bias), (name, input_major(values, dtype))]
        };
        all.extend(parts.into_iter().map(|(name, tensor)| (prefix.clone() + &name, tensor)));
    }
    if layout == "split" {
        all = renamed(&all, |name| name.replace(".router.", ".router.linear."));
    }
    all
}

/// The tiny model in OpenAI's layout, with experts of this dtype `[experts, out, in]`.
pub fn with_numbers(dtype: Dtype) -> Tensors {
    let mut all = tiny();
    for (n, matrix) in (0..3).flat_map(|n| [1, 2].map(|matrix| (n, matrix))) {
        let name = format!("block.{n}.mlp.mlp{matrix}_weight");
        let [blocks, scales] =
            ["blocks", "scales"].map(|part| all.remove(&format!("{name}.{part}")).unwrap());
        let (shape, values) = dequantized(&blocks, &scales);
        all.insert(name, (dtype, shape, encoded(&values, dtype)));
    }
    all
}

/// A part of one matrix of all experts as linear layers: one for each expert, or, in MLX's
/// layout, one for all.
fn linears(layout: &str, matrix: &str, part: &str, all: &Tensor) -> Vec<(String, Tensor)> {
    if layout == "mlx" {
        let (dtype, shape, data) = all;
        let flat = (*dtype, [&[shape[0] * shape[1]], &shape[2..]].concat(), data.clone());
        let half = |odd| {
            let (dtype, flat, data) = rows(&flat, (odd..8 * shape[1]).step_by(2));
            (dtype, [&[8, shape[1] / 2], &flat[1..]].concat(), data)
        };
        return match matrix {
            "down" => vec![(format!("down_proj.{part}"), all.clone())],
            _ => vec![(format!("gate_proj.{part}"), half(0)), (format!("up_proj.{part}"), half(1))],
        };
    }
    let mut tensors = Vec::new();
    for e in 0..8 {
        let (dtype, shape, data) = rows(all, e..=e);
        let expert = (dtype, shape[1..].to_vec(), data);
        match (layout, matrix) {
            ("split", _) => tensors.push((format!("{matrix}_projs.{e}.{part}"), expert)),
            ("linears", "down") => tensors.push((format!("{e}.down_proj.{part}"), expert)),
            ("linears", _) => tensors.extend([("gate", 0), ("up", 1)].map(|(half, odd)| {
                let picked = rows(&expert, (odd..256).step_by(2));
                (format!("{e}.{half}_proj.{part}"), picked)
            })),
            _ => unreachable!("layout `{layout}`"),
        }
    }
    tensors
}

/// The tiny model's config in Hugging Face's dialect.
pub fn config() -> Value {
    let mut config = read_json(&fixture("tiny-hf/config.json"));
    config.as_object_mut().unwrap().remove("quantization_config");
    config
}

pub fn home(config: &Value, tensors: &Tensors) -> Home {
    let home = Home::new();
    fs::create_dir(home.checkpoint()).unwrap();
    fs::write(home.join("checkpoint/config.json"), config.to_string()).unwrap();
    write(&home.join("checkpoint/model.safetensors"), tensors);
    home
}

pub fn in_folder(layout: &str) -> Home {
    let is_original = layout == "numbers";
    let config = if is_original { read_json(&fixture("tiny/config.json")) } else { config() };
    home(&config, &in_layout(layout))
}

pub fn edited(edit: impl FnOnce(&Path)) -> Home {
    let home = Home::with("tiny");
    edit(&home.checkpoint());
    home
}

pub fn edit_config(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains(from), "{config}");
    fs::write(path, config.replace(from, to)).unwrap();
}

pub fn edit_tensors(folder: &Path, edit: impl FnOnce(&mut Tensors)) {
    edit_file(&folder.join("model.safetensors"), edit);
}

/// Edits the tensors of a SafeTensors file.
pub fn edit_file(path: &Path, edit: impl FnOnce(&mut Tensors)) {
    let mut tensors = read(path);
    edit(&mut tensors);
    write(path, &tensors);
}

/// Tensors under other names.
pub fn renamed(tensors: &Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// Keeps the first experts of a layer in layouts where a tensor holds all of them; with
/// `router`, the first rows of the router too.
pub fn drop_experts(tensors: &mut Tensors, layer: usize, keep: usize, router: bool) {
    let [experts, routers] = ["experts", "router"].map(|it| format!("layers.{layer}.mlp.{it}."));
    for (name, tensor) in tensors {
        if name.contains(&experts) || router && name.contains(&routers) {
            *tensor = rows(tensor, 0..keep);
        }
    }
}

/// A config and tensors of the `bf16` layout with 120 of the 128 neurons of each expert, so
/// that rows of `down` fill no MXFP4 blocks.
pub fn narrow() -> (Value, Tensors) {
    let (mut config, mut tensors) = (config(), in_layout("bf16"));
    config["intermediate_size"] = json!(120);
    for layer in 0..3 {
        // The number of values in a row of neurons, and how many are kept.
        for (part, width, kept, shape) in [
            ("down_proj", 128 * 96, 120 * 96, &[8, 120, 96][..]),
            ("gate_up_proj", 256, 240, &[8, 96, 240]),
            ("gate_up_proj_bias", 256, 240, &[8, 240]),
        ] {
            let name = format!("model.layers.{layer}.mlp.experts.{part}");
            let (_, old_shape, data) = tensors.get_mut(&name).unwrap();
            *data = data.chunks(width * 2).flat_map(|row| &row[..kept * 2]).copied().collect();
            *old_shape = shape.to_vec();
        }
    }
    (config, tensors)
}

pub fn write_index(folder: &Path, map: impl Serialize) {
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

/// A checkpoint as it is released: three shards "of 2" that the index names, with tensors in
/// turn, so that an expert's blocks and scales are apart.
pub fn write_shards(folder: &Path, config: &Value, tensors: Tensors) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (mut shards, mut map) = ([const { Tensors::new() }; 3], BTreeMap::new());
    let file = |at: usize| format!("model-{at:05}-of-00002.safetensors");
    for (at, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), file(at % 3));
        shards[at % 3].insert(name, tensor);
    }
    for (at, shard) in shards.iter().enumerate() {
        write(&folder.join(file(at)), shard);
    }
    write_index(folder, map);
}

//! The tiny model in every layout, made by the layout's definition.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixture;

/// A tensor with its bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);
pub type Tensors = BTreeMap<String, Tensor>;

/// Every layout of Hugging Face's dialect.
pub const LAYOUTS: [&str; 7] = ["hf", "bf16", "f16", "f32", "fp8", "split", "linears"];

/// The tensors of a file.
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

/// Some rows of a tensor.
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
    let mut all = read(&fixture("tiny-hf/model.safetensors"));
    if layout == "hf" {
        return all;
    }
    for (n, matrix) in (0..3).flat_map(|n| ["gate_up", "down"].map(|matrix| (n, matrix))) {
        let prefix = format!("model.layers.{n}.mlp.experts.");
        let mut take = |part| all.remove(&format!("{prefix}{matrix}_proj_{part}")).unwrap();
        let (blocks, scales, bias) = (take("blocks"), take("scales"), take("bias"));
        let values = dequantized(&blocks, &scales);
        let parts = match layout {
            "bf16" => whole_experts(matrix, Dtype::BF16, values, bias),
            "f16" => whole_experts(matrix, Dtype::F16, values, bias),
            "f32" => whole_experts(matrix, Dtype::F32, values, bias),
            "fp8" => whole_experts(matrix, Dtype::F8_E5M2, values, bias),
            _ => {
                let weight = (Dtype::BF16, values.0, encoded(&values.1, Dtype::BF16));
                let parts = [("weight", weight), ("bias", bias)];
                let parts =
                    parts.iter().map(|(part, all)| expert_linears(layout, matrix, part, all));
                parts.flatten().collect()
            }
        };
        all.extend(parts.into_iter().map(|(name, tensor)| (prefix.clone() + &name, tensor)));
    }
    if layout == "split" {
        let rename = |(name, tensor): (String, Tensor)| {
            (name.replace(".router.", ".router.linear."), tensor)
        };
        all = all.into_iter().map(rename).collect();
    }
    all
}

/// One matrix of all experts as a tensor of floats, and its bias.
fn whole_experts(
    matrix: &str,
    dtype: Dtype,
    values: (Vec<usize>, Vec<f32>),
    bias: Tensor,
) -> Vec<(String, Tensor)> {
    let name = format!("{matrix}_proj");
    vec![(name.clone() + "_bias", bias), (name, input_major(values, dtype))]
}

/// A part of one matrix of all experts as linear layers.
fn expert_linears(layout: &str, matrix: &str, part: &str, all: &Tensor) -> Vec<(String, Tensor)> {
    let mut tensors = Vec::new();
    for e in 0..8 {
        let (dtype, shape, data) = rows(all, e..e + 1);
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
    let text = fs::read(fixture("tiny-hf/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    config
}

/// A folder with a checkpoint as `checkpoint`.
pub fn home(config: &Value, tensors: &Tensors) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("checkpoint");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    write(&folder.join("model.safetensors"), tensors);
    home
}

/// The tiny model in a layout, as `checkpoint` of a folder.
pub fn in_folder(layout: &str) -> TempDir {
    home(&config(), &in_layout(layout))
}

/// A checkpoint as it is released: three shards "of 2" that the index names, with tensors in
/// turn, so that an expert's blocks and scales are apart.
pub fn write_shards(folder: &Path, tensors: Tensors) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config().to_string()).unwrap();
    let (mut shards, mut map) = ([const { Tensors::new() }; 3], BTreeMap::new());
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

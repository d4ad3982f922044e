//! Checkpoints that fit no layout, or no conversion.

use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::derived::{Tensors, config, home, in_layout, rows};
use crate::support::{assert_contains, export_args, failure};

/// Keeps the first experts of a layer in layouts where a tensor holds all of them; with
/// `router`, the first rows of the router too.
pub fn drop_experts(tensors: &mut Tensors, layer: usize, keep: usize, router: bool) {
    let of_experts = |name: &str| name.contains(&format!("layers.{layer}.mlp.experts."));
    let of_router = |name: &str| name.contains(&format!("layers.{layer}.mlp.router."));
    for (name, tensor) in tensors.iter_mut() {
        if of_experts(name) || router && of_router(name) {
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
        for (part, rows, width, kept) in [
            ("down_proj", 8, 128 * 96, 120 * 96),
            ("gate_up_proj", 8 * 96, 256, 240),
            ("gate_up_proj_bias", 8, 256, 240),
        ] {
            let name = format!("model.layers.{layer}.mlp.experts.{part}");
            let (_, shape, data) = tensors.get_mut(&name).unwrap();
            *data = data.chunks(width * 2).flat_map(|row| &row[..kept * 2]).copied().collect();
            let axis = shape.iter().position(|size| [128, 256].contains(size)).unwrap();
            shape[axis] = data.len() / 2 / shape.iter().product::<usize>().div_ceil(shape[axis]);
            assert_eq!(data.len(), rows * kept * 2);
        }
    }
    (config, tensors)
}

fn refusal(home: &TempDir, options: &[&str]) -> String {
    let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("m.onnx"));
    let sentence = failure(&export_args(&checkpoint, &model, options));
    assert!(!model.exists());
    sentence
}

#[test]
fn refuses_mxfp4_for_rows_that_fill_no_blocks() {
    let (config, tensors) = narrow();
    assert_eq!(
        refusal(&home(&config, &tensors), &["--experts", "mxfp4"]),
        "`layers.0.mlp.experts.down` has rows of 120 elements, and conversions need a multiple of 32: keep the format of the experts"
    );
}

type Edit = fn(&mut Tensors, &mut Value);

#[test]
fn refuses_tensors_that_fit_no_layout() {
    let cases: [(&str, Edit, &str); 12] = [
        (
            "hf",
            |tensors, _| tensors.retain(|name, _| !name.contains("_blocks")),
            "holds no experts under the names of a supported layout, found `model.layers.0.mlp.experts.down_proj_bias`",
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
            "down_projs.3.weight` must be bf16 as those of the other experts, found f16",
        ),
        (
            "linears",
            |tensors, _| drop(tensors.remove("model.layers.2.mlp.experts.7.up_proj.weight")),
            "lacks tensor `model.layers.2.mlp.experts.7.up_proj.weight`",
        ),
        (
            "bf16",
            |_, config| config["num_local_experts"] = json!(7),
            "`model.layers.0.mlp.router.weight` must have shape [7, 96] (from the config), found [8, 96]",
        ),
        (
            "hf",
            |_, config| config["tie_word_embeddings"] = json!(true),
            "not part of Hugging Face's layout with MXFP4 experts: `lm_head.weight`; ignore",
        ),
        (
            "hf",
            |_, config| config["quantization_config"] = json!({"quant_method": "gptq"}),
            "weights quantized with \"gptq\" cannot be read, only MXFP4 as released; use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b",
        ),
        (
            "hf",
            |tensors, _| drop_experts(tensors, 1, 5, false),
            "`model.layers.1.mlp.experts.gate_up_proj_blocks` must have shape [8, 256, 3, 16] (from the config), found [5, 256, 3, 16]",
        ),
        (
            "hf",
            |tensors, _| drop_experts(tensors, 1, 3, true),
            "`model.layers.1.mlp.router.weight` has 3 rows, one for each expert, and `",
        ),
        // Where layers differ, their routers say how many experts there are.
        (
            "hf",
            |tensors, _| {
                drop_experts(tensors, 1, 5, true);
                drop_experts(tensors, 2, 6, false);
            },
            "`model.layers.2.mlp.experts.gate_up_proj_blocks` must have shape [8, 256, 3, 16] (from the rows of `model.layers.2.mlp.router.weight`), found [6, 256, 3, 16]",
        ),
        (
            "hf",
            |tensors, _| {
                drop_experts(tensors, 1, 5, true);
                let bias = &in_layout("hf")["model.layers.1.mlp.router.bias"];
                tensors.insert("model.layers.1.mlp.router.bias".to_owned(), bias.clone());
            },
            "`model.layers.1.mlp.router.bias` must have shape [5] (from the rows of `model.layers.1.mlp.router.weight`), found [8]",
        ),
        // The config still says the other sizes.
        (
            "hf",
            |tensors, config| {
                drop_experts(tensors, 1, 5, true);
                config["intermediate_size"] = json!(96);
            },
            "`model.layers.0.mlp.experts.gate_up_proj_blocks` must have shape [8, 192, 3, 16] (from the config), found [8, 256, 3, 16]",
        ),
    ];
    for (layout, edit, sentence) in cases {
        let (mut tensors, mut config) = (in_layout(layout), config());
        edit(&mut tensors, &mut config);
        assert_contains(&refusal(&home(&config, &tensors), &[]), sentence);
    }
}

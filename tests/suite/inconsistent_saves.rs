//! Tensors that contradict each other, or are another model's.

use crate::layout_fixtures::{Tensors, in_layout};
use crate::support::assert_contains;
use crate::tensor_problems::{rename, with};

type Edit = fn(&mut Tensors);

/// Where tensors contradict each other, no config is recommended.
#[test]
fn tensors_that_no_config_fits_are_told() {
    fn cut(tensors: &mut Tensors, part: &str, axis: usize, length: usize) {
        for (_, (dtype, shape, data)) in tensors.iter_mut().filter(|(name, _)| name.contains(part))
        {
            shape[axis] = length;
            data.resize(shape.iter().product::<usize>() * dtype.bitsize() / 8, 0);
        }
    }
    let table: [(&str, Edit, &str); 6] = [
        (
            "hf",
            |it| cut(it, "embed_tokens", 0, 328),
            "tensors disagree about `vocab_size`, so no config.json fits them: tensor `lm_head.weight` has 320, tensor `model.embed_tokens.weight` has 328; resize both with resize_token_embeddings and save the model again, or use another copy",
        ),
        (
            "bf16",
            |it| cut(it, "lm_head", 0, 256),
            "tensor `lm_head.weight` has 256, tensor `model.embed_tokens.weight` has 320; resize both",
        ),
        (
            "bf16",
            |it| cut(it, "mlp.router", 0, 6),
            "tensors disagree about the number of experts, so no config.json fits them: 6 tensors, such as `model.layers.0.mlp.router.weight`, have 6, 12 tensors, such as `model.layers.0.mlp.experts.gate_up_proj`, have 8; give all of them one size and save the model again, or use another copy",
        ),
        (
            "hf",
            |it| {
                rename(it, "gate_up_proj_", "TEMPORARY_");
                rename(it, "down_proj_", "gate_up_proj_");
                rename(it, "TEMPORARY_", "down_proj_");
            },
            "checkpoint/model.safetensors`: tensors have each other's shapes: exchange the names of `model.layers.0.mlp.experts.gate_up_proj_blocks` and `model.layers.0.mlp.experts.down_proj_blocks`, `model.layers.0.mlp.experts.gate_up_proj_scales` and `model.layers.0.mlp.experts.down_proj_scales`, ",
        ),
        (
            "bf16",
            |it| {
                rename(it, "layers.1.mlp.experts.gate_up_proj", "TEMPORARY");
                rename(it, "layers.1.mlp.experts.down_proj", "layers.1.mlp.experts.gate_up_proj");
                rename(it, "TEMPORARY", "layers.1.mlp.experts.down_proj");
            },
            "exchange the names of `model.layers.1.mlp.experts.gate_up_proj` and `model.layers.1.mlp.experts.down_proj`, `model.layers.1.mlp.experts.gate_up_proj_bias` and `model.layers.1.mlp.experts.down_proj_bias`",
        ),
        (
            "hf",
            |it| {
                rename(it, "layers.2.self_attn.q_proj", "TEMPORARY");
                rename(it, "layers.2.self_attn.k_proj", "layers.2.self_attn.q_proj");
                rename(it, "TEMPORARY", "layers.2.self_attn.k_proj");
            },
            "exchange the names of `model.layers.2.self_attn.q_proj.weight` and `model.layers.2.self_attn.k_proj.weight`, `model.layers.2.self_attn.q_proj.bias` and",
        ),
    ];
    for (layout, edit, expected) in table {
        let sentence = with(layout, edit).refusal("m", &[]);
        assert_contains(&sentence, expected);
        assert!(!sentence.contains("use the config.json"), "{sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
}

/// Tensors of a Llama under a config of GPT-OSS, and a few of GPT-OSS's own.
#[test]
fn tensors_of_another_model_are_told() {
    let norm = in_layout("hf")["model.norm.weight"].clone();
    let of_layer = "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj post_attention_layernorm mlp.gate_proj mlp.up_proj mlp.down_proj";
    let llama = |layers: usize| {
        let names = (0..layers).flat_map(|n| {
            of_layer.split(' ').map(move |name| format!("model.layers.{n}.{name}.weight"))
        });
        let names = names.chain(
            ["lm_head", "model.norm", "model.embed_tokens"].map(|it| format!("{it}.weight")),
        );
        names.map(|name| (name, norm.clone())).collect::<Tensors>()
    };
    for layers in [2, 3] {
        let home = with("hf", |tensors| *tensors = llama(layers));
        let sentence = home.refusal("m", &[]);
        assert_contains(&sentence, "lacks most tensors of Hugging Face's layout");
        let others = 3 * layers;
        assert_contains(
            &sentence,
            &format!(
                ", and {others} tensors in it, such as `model.layers.0.mlp.down_proj.weight`, are none of that layout: they look like another model's, which cannot be exported, and has a config.json of its own; if they are GPT-OSS's, rename them to the names of Hugging Face's layout"
            ),
        );
    }
    let few = with("hf", |tensors| tensors.retain(|name, _| !name.contains("layers.")));
    assert_contains(&few.refusal("m", &[]), "holds 3 tensors, and lacks more of the model that");
}

/// A copy is looked at while it is written; a model in place says that nobody has looked.
#[test]
fn damaged_values_are_found_in_copies() {
    // A tensor with a NaN or an infinity in its last two bytes, and how many values it has.
    for (layout, name, last, values) in [
        ("bf16", "model.norm.weight", [0xc0, 0x7f], 96),
        ("hf", "model.embed_tokens.weight", [0x80, 0xff], 320 * 96),
        ("bf16", "model.layers.1.mlp.experts.down_proj", [0x80, 0x7f], 8 * 128 * 96),
        ("linears", "model.layers.2.mlp.experts.3.up_proj.weight", [0xc0, 0xff], 128 * 96),
        ("split", "model.layers.0.mlp.experts.gate_up_projs.7.weight", [0xc1, 0x7f], 256 * 96),
    ] {
        let home = with(layout, |tensors| {
            tensors.get_mut(name).unwrap().2.last_chunk_mut::<2>().unwrap().copy_from_slice(&last);
        });
        let sentence = home.refusal("onnx/m", &["--external-data", "copy"]);
        let expected = format!(
            "checkpoint/model.safetensors`, tensor `{name}`: 1 of {values} values is infinite or NaN: use another copy, or an earlier checkpoint if training has diverged"
        );
        assert_contains(&sentence, &expected);
    }
    // A sink of -∞ takes no attention.
    let name = "model.layers.0.self_attn.sinks";
    let home = with("hf", |tensors| {
        tensors.get_mut(name).unwrap().2[..2].copy_from_slice(&[0x80, 0xff]);
    });
    home.export("onnx/m", &["--external-data", "copy"]);
}

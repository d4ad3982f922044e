//! Tensors that stand for those of a model in a way that is not read: other dtypes, formats and
//! names.

use safetensors::Dtype;

use crate::layout_fixtures::{Tensors, edit_tensors, in_folder, rows};
use crate::support::{Home, assert_contains, assert_ends, cases};
use crate::tensor_problems::{Choice, advised, export, rename, with};

type Renaming = (&'static str, &'static str);

/// One error for each dtype, also for those that no weight has; what is ignored may have any.
#[test]
fn wrong_dtypes_are_named_once() {
    let table: [(&str, Dtype, usize, Choice, &str); 6] = [
        (
            "bf16",
            Dtype::I16,
            2,
            |_| true,
            "48 tensors, such as `model.embed_tokens.weight`, must be bf16, f16 or f32",
        ),
        (
            "bf16",
            Dtype::U16,
            2,
            |name| name.contains("norm"),
            "7 tensors, such as `model.layers.0.input_layernorm.weight`, must be bf16, f16 or f32, found u16: export",
        ),
        (
            "fp8",
            Dtype::F8_E4M3,
            1,
            |name| name.ends_with("_proj"),
            "6 tensors, such as `model.layers.0.mlp.experts.gate_up_proj`",
        ),
        ("f32", Dtype::U32, 4, |name| name.ends_with("experts.down_proj"), "3 tensors, such as"),
        (
            "hf",
            Dtype::BOOL,
            1,
            |name| name.ends_with("layers.1.mlp.experts.down_proj_blocks"),
            "tensor `model.layers.1.mlp.experts.down_proj_blocks` must be u8 (MXFP4 blocks), found bool: export",
        ),
        (
            "hf",
            Dtype::F8_E4M3,
            1,
            |name| name.ends_with("gate_up_proj_blocks"),
            "3 tensors, such as `model.layers.0.mlp.experts.gate_up_proj_blocks`, must be u8 (MXFP4 blocks), found f8e4m3: export",
        ),
    ];
    for (layout, dtype, size, is_wrong, expected) in table {
        let home = with(layout, |tensors| {
            let old = |it: &Dtype| it.bitsize() == 8 * size;
            let wrong = tensors.iter_mut().filter(|(name, it)| is_wrong(name) && old(&it.0));
            wrong.for_each(|(_, it)| it.0 = dtype);
        });
        assert_contains(&home.refusal("m", &[]), expected);
    }
    // Beside other faults, and ignored.
    let spare = |dtype| {
        with("hf", |tensors| {
            tensors
                .insert("model.layers.0.self_attn.mask".to_owned(), (dtype, vec![2], vec![0; 16]));
        })
    };
    for dtype in [Dtype::I64, Dtype::U64, Dtype::F64, Dtype::C64] {
        let sentence = spare(dtype).refusal("m", &[]);
        assert_ends(&sentence, "; pass --ignore-tensor model.layers.0.self_attn.mask");
        assert_eq!(export(&spare(dtype), &advised(&sentence)[0]), in_folder("hf").fingerprint());
    }
}

/// Tensors that may stand for missing ones of their layer are shown beside those, with shapes, and
/// are never to be ignored.
#[test]
fn other_ways_to_split_experts_are_told_from_needless_tensors() {
    let experts = |n: usize, name: &str| format!("`model.layers.{n}.mlp.experts.{name}`");
    let lacks = format!(
        "lacks {} [8, 96, 256], {} [8, 256], ",
        experts(0, "gate_up_proj"),
        experts(0, "gate_up_proj_bias")
    );
    // What names become, and what is said of both sides.
    let table: [(&str, &[Renaming], &str, &str); 10] = [
        (
            "hf",
            &[("q_proj.", "wq."), ("k_proj.", "wk."), ("v_proj.", "wv."), ("o_proj.", "wo.")],
            "lacks `model.layers.0.self_attn.q_proj.weight` [256, 96], `model.layers.0.self_attn.q_proj.bias` [256], ",
            "self_attn.wk.bias` [64], ",
        ),
        (
            "hf",
            &[("_proj.bias", "_proj.b")],
            "lacks `model.layers.0.self_attn.q_proj.bias` [256], ",
            "self_attn.k_proj.b` [64], ",
        ),
        (
            "hf",
            &[("lm_head.weight", "output.weight")],
            "lacks `lm_head.weight` [320, 96]",
            "`output.weight` [320, 96]",
        ),
        (
            "bf16",
            &[("lm_head.weight", "model.lm_head.weight")],
            "lacks `lm_head.weight` [320, 96]",
            "`model.lm_head.weight` [320, 96]",
        ),
        (
            "hf",
            &[("model.layers.", "model.h.")],
            "lacks `model.layers.0.self_attn.q_proj.weight` [256, 96], ",
            "model.h.0.mlp.experts.down_proj_bias` [8, 96], ",
        ),
        (
            "mlx",
            &[("gate_proj.weight", "gate_proj"), ("up_proj.weight", "up_proj")],
            "lacks `model.layers.0.mlp.experts.gate_proj.weight` [8, 128, 96], ",
            "gate_proj` [8, 128, 96]",
        ),
        (
            "mlx",
            &[("experts.down_proj.", "experts.output.")],
            "lacks `model.layers.0.mlp.experts.down_proj.weight` [8, 96, 128], ",
            "experts.output.weight` [8, 96, 128]",
        ),
        (
            "bf16",
            &[("gate_up_proj", "in_projection"), ("down_proj", "out_projection")],
            &lacks,
            "in_projection` [8, 96, 256], ",
        ),
        (
            "hf",
            &[("experts.", "moe.")],
            "lacks `model.layers.0.mlp.experts.gate_up_proj_blocks` [8, 256, 3, 16], ",
            "moe.down_proj_bias` [8, 96], ",
        ),
        (
            "bf16",
            &[("self_attn.q_proj", "self_attn.query")],
            "lacks `model.layers.0.self_attn.q_proj.weight` [",
            "self_attn.query.bias` [",
        ),
    ];
    for (layout, renamings, lacking, found) in table {
        let home = with(layout, |tensors| {
            renamings.iter().for_each(|(from, to)| rename(tensors, from, to));
        });
        let sentence = home.refusal("m", &[]);
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        for part in [lacking, " of Hugging Face's layout with ", ", and holds `", found] {
            assert_contains(&sentence, part);
        }
        let order = "; gate and up alternate in a tensor of both";
        let has_experts = found.contains("experts.") || found.contains("_proj");
        let order = if !has_experts || found.contains("self_attn") { "" } else { order };
        assert_ends(&sentence, &format!(": rename these to those{order}"));
        assert!(!sentence.contains("--ignore-tensor"), "{sentence}");
    }
    // Gate and up in one tensor for each expert, where others are apart.
    let home = with("linears", |tensors| {
        tensors.retain(|name, _| !name.contains("up_proj"));
        rename(tensors, "gate_proj", "gate_up_proj");
        for (_, (_, shape, data)) in tensors.iter_mut().filter(|(name, _)| name.contains("gate_up"))
        {
            shape[0] *= 2;
            data.extend(data.clone());
        }
    });
    let sentence = home.refusal("m", &[]);
    assert_contains(&sentence, "0.mlp.experts.0.gate_up_proj.weight` [256, 96]");
    assert_ends(
        &sentence,
        ": split these into those; in a tensor of gate and up as GPT-OSS has it, even rows are gate and odd rows up, or columns if it is `[in, out]`",
    );
    assert!(sentence.matches("` [").count() <= 8, "{sentence}");
    // Gate and up apart under names that nobody knows.
    let home = with("mlx", |tensors| {
        for (from, to) in [("gate_proj", "first"), ("up_proj", "second"), ("down_proj", "third")] {
            rename(tensors, &format!("experts.{from}."), &format!("experts.{to}."));
        }
    });
    let sentence = home.refusal("m", &[]);
    assert_contains(&sentence, &lacks);
    assert_ends(&sentence, ": join these to those; gate and up alternate in a tensor of both");
    // In another layer an unknown tensor is needless.
    let home = with("hf", |tensors| {
        let norm = tensors["model.norm.weight"].clone();
        tensors.remove("model.layers.2.self_attn.o_proj.bias");
        tensors.insert("model.layers.1.self_attn.gain".to_owned(), norm);
    });
    assert_ends(&home.refusal("m", &[]), "; pass --ignore-tensor model.layers.1.self_attn.gain");
}

/// Experts as `[experts, out, in]`, under another program's names or none: who transposes the others is
/// told of the square ones.
#[test]
fn square_matrices_are_transposed_with_the_others() {
    let home = Home::with("tiny-square");
    edit_tensors(&home.checkpoint(), |tensors| {
        tensors.retain(|name, _| !name.ends_with("_blocks") && !name.ends_with("_scales"));
        for layer in 0..2 {
            for (name, rows) in [("gate_up_proj", 192), ("down_proj", 96)] {
                let tensor = (Dtype::BF16, vec![8, rows, 96], vec![0x3c; 2 * 8 * rows * 96]);
                tensors.insert(format!("model.layers.{layer}.mlp.experts.{name}"), tensor);
            }
        }
    });
    let expected = "2 tensors, such as `model.layers.0.mlp.experts.gate_up_proj`, must have shape [8, 96, 192] (from the config), found [8, 192, 96]: save with the axes in that order; transpose `down_proj` too: its square shape hides the order";
    assert_ends(&home.refusal("m", &[]), expected);
    edit_tensors(&home.checkpoint(), |tensors| {
        rename(tensors, "gate_up_proj", "w13");
        rename(tensors, "down_proj", "w2");
    });
    let expected = ": rename these to those and save them with the axes in that order; transpose square matrices too: their shapes hide the order; gate and up alternate in a tensor of both";
    assert_ends(&home.refusal("m", &[]), expected);
}

/// Sizes tell what is to be done to tensors, not how many there are.
#[test]
fn sizes_tell_what_stands_for_missing_tensors() {
    type Edit = fn(&mut Tensors);
    fn without(tensors: &mut Tensors, part: &str) {
        tensors.retain(|name, _| !name.contains(part));
    }
    let table: [(&str, Edit, &str); 5] = [
        (
            "hf",
            |it| {
                rename(it, "mlp.router.", "mlp.gate.");
                without(it, "self_attn.sinks");
            },
            "`model.layers.0.mlp.gate.bias` [8], `model.layers.0.mlp.gate.weight` [8, 96] and 4 more: rename these to those of equal size, and add the others",
        ),
        (
            "bf16",
            |it| {
                rename(it, "layers.1.mlp.router.weight", "layers.1.mlp.gating.weight");
                without(it, "layers.1.self_attn.o_proj");
            },
            "and holds `model.layers.1.mlp.gating.weight` [8, 96]: rename these to those of equal size, and add the others",
        ),
        (
            "hf",
            |it| {
                let norm = it["model.norm.weight"].clone();
                rename(it, "layers.1.mlp.router.weight", "layers.1.mlp.gating.weight");
                it.insert("model.layers.1.mlp.temperature".to_owned(), norm);
            },
            ": rename these to those of equal size, and leave out the others if the model does not use them",
        ),
        (
            "hf",
            |it| {
                let norm = it["model.norm.weight"].clone();
                without(it, "layers.1.self_attn.sinks");
                it.insert("model.layers.1.self_attn.gain".to_owned(), norm);
            },
            "lacks `model.layers.1.self_attn.sinks` [8] of Hugging Face's layout with MXFP4 experts, and holds `model.layers.1.self_attn.gain` [96]: their sizes differ, so other names are not enough: save the model again in that layout",
        ),
        (
            "bf16",
            |it| {
                let router = it.remove("model.layers.1.mlp.router.weight").unwrap();
                let rows = |range| rows(&router, range);
                it.insert("model.layers.1.mlp.gating.0".to_owned(), rows(0..4));
                it.insert("model.layers.1.mlp.gating.1".to_owned(), rows(4..8));
            },
            "and holds `model.layers.1.mlp.gating.0` [4, 96] and 1 more: join these to those",
        ),
    ];
    for (layout, edit, expected) in table {
        let sentence = with(layout, edit).refusal("m", &[]);
        assert_contains(&sentence, expected);
        assert!(!sentence.contains("split these"), "{sentence}");
    }
}

/// Experts under Mixtral's names are renamed as the sentence says, and exported.
#[test]
fn mixtral_names_are_those_of_projections() {
    // The layout, how the experts begin, the end of their matrices, and the first two names.
    let table = "linears | mlp.experts. | .weight | mlp.experts.0.w1.bias | mlp.experts.0.gate_proj.bias
        linears | block_sparse_moe.experts. | .weight | block_sparse_moe.experts.0.w1.bias | mlp.experts.0.gate_proj.bias
        mlx | mlp.experts. | .weight | mlp.experts.w1.bias | mlp.experts.gate_proj.bias
        mlx | feed_forward.experts. | | feed_forward.experts.w1 | mlp.experts.gate_proj.weight";
    let projections = [(".gate_proj", ".w1"), (".up_proj", ".w3"), (".down_proj", ".w2")];
    for [layout, begin, end, from, to] in cases(table) {
        let home = with(layout, |tensors| {
            for (name, short) in projections {
                rename(tensors, name, short);
                rename(tensors, &format!("{short}.weight"), &format!("{short}{end}"));
            }
            rename(tensors, "mlp.experts.", begin);
        });
        let sentence = home.refusal("m", &[]);
        let said = format!(
            "holds experts under Mixtral's names: rename `w1` to `gate_proj`, `w3` to `up_proj` and `w2` to `down_proj`, such as `model.layers.0.{from}` to `model.layers.0.{to}`, if the matrices are `[out, in]`"
        );
        assert_ends(&sentence, &said);
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        edit_tensors(&home.checkpoint(), |tensors| {
            rename(tensors, begin, "mlp.experts.");
            for (name, short) in projections {
                rename(tensors, &format!("{short}."), &format!("{name}."));
                let bare: Vec<String> =
                    tensors.keys().filter(|it| it.ends_with(short)).cloned().collect();
                for it in bare {
                    let tensor = tensors.remove(&it).unwrap();
                    tensors.insert(it.replace(short, name) + ".weight", tensor);
                }
            }
        });
        assert_eq!(export(&home, &[]), in_folder(layout).fingerprint());
    }
}

/// Tensors in formats that are not read: how the names of some tensors begin, what they become,
/// and the sentence.
#[test]
fn foreign_formats_are_known_by_their_tensors() {
    let table = "hf | _proj.weight | qweight qzeros scales g_idx | a model quantized by GPTQ (`
        bf16 | _proj.weight | qweight qzeros scales | a model quantized by GPTQ or AWQ (`
        hf | _proj.weight | weight.absmax weight.quant_map weight.quant_state.bitsandbytes__nf4 | a model quantized by bitsandbytes (`
        hf | _proj.weight | SCB | a model quantized by bitsandbytes (`
        hf | _proj.weight | weight_packed weight_scale weight_shape | a model quantized by compressed-tensors (`
        hf | _proj.weight | weight weight_scale weight_scale_2 input_scale | a model quantized to ModelOpt's NVFP4 (`
        hf | _proj.weight | weight weight_scale | a model quantized to FP8, NVFP4 or MXFP4, with scales under other names (`
        hf | _proj.weight | weight weight_scale_inv | a model quantized to FP8, NVFP4 or MXFP4, with scales under other names (`
        hf | _proj.weight | W_q meta | a model quantized by HQQ (`
        hf | _proj.weight | weight._data weight._scale | a model quantized by quanto (`
        hf | _proj.weight | _weight_qdata _weight_scale | FP8
        hf | _proj.weight | codes codebooks | a model quantized by AQLM or EXL (`
        hf | _proj.weight | base_layer.weight | the base layers of a LoRA adapter without its factors (`
        bf16 | experts.gate_up_proj | qweight qzeros scales | a model quantized by GPTQ or AWQ (`
        bf16 | experts.gate_up_proj | weight_packed weight_scale | compressed-tensors (`";
    for [layout, end, parts, expected] in cases(table) {
        let home = with(layout, |tensors| {
            let names: Vec<String> =
                tensors.keys().filter(|name| name.ends_with(end)).cloned().collect();
            assert!(!names.is_empty());
            for name in names {
                let tensor = tensors.remove(&name).unwrap();
                let stem = name.strip_suffix(".weight").unwrap_or(&name);
                tensors.extend(
                    parts.split(' ').map(|part| (format!("{stem}.{part}"), tensor.clone())),
                );
            }
        });
        let sentence = home.refusal("m", &[]);
        assert_contains(&sentence, expected);
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        // Scales beside whole weights may be needless, and the choice is the user's.
        let is_complete = parts.starts_with("weight ");
        assert_eq!(sentence.contains("--ignore-tensor"), is_complete, "{sentence}");
    }
    // Megatron joins the rows of each key head, so that a split by rows would be another model.
    for (name, end) in [
        (
            "qkv_proj",
            "`): split its rows into `q_proj`, `k_proj` and `v_proj`, in the order in which they were joined, and export the result",
        ),
        (
            "qkv",
            "`): split its rows into `q_proj`, `k_proj` and `v_proj`, in the order in which they were joined, and export the result",
        ),
        ("query_key_value", "and three parts of rows would be another model"),
        ("linear_qkv", "and three parts of rows would be another model"),
    ] {
        let joined = with("hf", |tensors| {
            rename(tensors, "self_attn.q_proj", &format!("self_attn.{name}"));
            tensors.retain(|name, _| {
                !name.contains("k_proj") && !name.contains("v_proj") || name.contains("qkv_proj")
            });
        });
        let sentence = joined.refusal("m", &[]);
        assert_contains(&sentence, "holds q, k and v in one tensor");
        assert_contains(&sentence, " (`model.layers.0.self_attn.");
        assert_ends(&sentence, end);
    }
}

//! The reference of `verify` with LoRA adapters, against logits by PEFT.

use std::fs;
use std::path::Path;

use gpt_oss_export::reference::{self, AdapterToRead, ReadOptions, ReferenceModel};

use crate::adapters::{ADAPTERS, CONFIG, WEIGHTS, bases, order};
use crate::layout_fixtures::{LAYOUTS, in_folder, read as read_tensors, write};
use crate::reference::{error_of, ids_in, run};
use crate::support::{Home, fixture, text, words};

fn read(checkpoint: &Path, adapters: &[(&str, f64)]) -> ReferenceModel {
    let adapters = adapters.iter().map(|(adapter, weight)| AdapterToRead {
        path: fixture("lora").join(adapter),
        weight: *weight,
        is_swapped: order(adapter).last().map(|order| *order == "swapped"),
    });
    let options = ReadOptions { adapters: adapters.collect(), ..ReadOptions::default() };
    reference::read(checkpoint, &options).unwrap()
}

/// Compares logits with those of `[2, 40]` tokens, or the last 50 of 150.
#[track_caller]
fn assert_computes(model: &ReferenceModel, logits: &str, sizes: &[&str], case: &str) {
    for size in sizes {
        let path = |name: &str| fixture("lora").join(format!("{name}{size}.npy"));
        let error = error_of(model, &ids_in(&path("ids-")), &path(&format!("{logits}.")));
        assert!(error <= 2e-5, "{case}, {size}: {error:e}");
    }
}

#[test]
fn the_reference_computes_what_peft_computes() {
    for (logits, others) in ADAPTERS {
        for name in [&[logits], others].concat() {
            for (at, home) in bases(name).iter().enumerate() {
                let model = read(&home.checkpoint(), &[(name, 1.0)]);
                assert_computes(&model, logits, &["2x40", "1x150"], &format!("{name}, base {at}"));
            }
        }
    }
}

/// Layouts store what an adapter changes in other ways.
#[test]
fn the_reference_adds_adapters_in_every_layout() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        for name in ["experts", "tinker-peft", "whole-modules", "tokens"] {
            let model = read(&home.checkpoint(), &[(name, 1.0)]);
            assert_computes(&model, name, &["2x40"], &format!("{name}, {layout}"));
        }
        let halves = [("experts", 0.75), ("experts-peft-0.19.0", 0.25)];
        assert_computes(&read(&home.checkpoint(), &halves), "experts", &["2x40"], layout);
    }
}

/// Two adapters beside a checkpoint: copies of the tiny model's values, and other ones in their place.
pub fn copies_and_others(home: &Path) -> [String; 2] {
    let of_base = read_tensors(&fixture("tiny-hf/model.safetensors"));
    let names = "lm_head.weight model.embed_tokens.weight model.norm.weight
        model.layers.0.input_layernorm.weight model.layers.1.self_attn.sinks
        model.layers.1.self_attn.q_proj.weight model.layers.1.self_attn.k_proj.bias
        model.layers.2.self_attn.v_proj.weight model.layers.2.self_attn.o_proj.weight
        model.layers.0.mlp.router.weight model.layers.0.mlp.router.bias
        model.layers.1.mlp.experts.gate_up_proj_bias model.layers.2.mlp.experts.down_proj_bias";
    ["copies", "others"].map(|folder| {
        let adapter = home.join(folder);
        fs::create_dir(&adapter).unwrap();
        fs::copy(fixture("lora/whole-modules").join(CONFIG), adapter.join(CONFIG)).unwrap();
        let values = words(names).into_iter().map(|name| {
            let (dtype, shape, mut data) = of_base[name].clone();
            if folder == "others" {
                let size = data.len() / shape.iter().product::<usize>();
                // The sign of each value.
                data.chunks_mut(size).for_each(|value| value[size - 1] ^= 0x80);
            }
            (format!("base_model.model.{name}"), (dtype, shape, data))
        });
        write(&adapter.join(WEIGHTS), &values.collect());
        text(&adapter).to_owned()
    })
}

/// By definition a copy of the checkpoint's values replaces nothing, so that another adapter's count,
/// whichever comes first.
#[test]
fn copies_of_the_checkpoint_replace_nothing() {
    let ids = ids_in(&fixture("lora/ids-2x40.npy"));
    let logits = |home: &Path, adapters: &[&str]| {
        let read = |it: &&str| AdapterToRead { path: it.into(), weight: 1.0, is_swapped: None };
        let adapters = adapters.iter().map(read).collect();
        let options = ReadOptions { adapters, ..ReadOptions::default() };
        let model = reference::read(&home.join("checkpoint"), &options).unwrap();
        run(&model, &ids).logits(&(0..80).collect::<Vec<_>>()).unwrap().exact
    };
    for layout in ["hf", "split", "linears", "mlx", "numbers"] {
        let home = in_folder(layout);
        let [copies, others] = copies_and_others(&home);
        let plain = logits(&home, &[]);
        let changed = logits(&home, &[&others]);
        assert!(plain != changed);
        assert_eq!(logits(&home, &[&copies]), plain, "{layout}");
        for order in [[&*copies, &*others], [&*others, &*copies]] {
            assert_eq!(logits(&home, &order), changed, "{layout}");
        }
    }
    // PEFT stores the base's lm_head beside factors of it.
    let [head, modules] = ["router-head", "whole-modules"].map(|it| fixture("lora").join(it));
    let home = Home::with("tiny-hf");
    let [one, other] = [[&head, &modules], [&modules, &head]]
        .map(|order| logits(&home, &order.map(|it| text(it))));
    assert_eq!(one, other);
}

//! The reference of `verify` with LoRA adapters, against logits by PEFT.

use std::path::Path;

use gpt_oss_export::reference::{self, AdapterToRead, ReadOptions, ReferenceModel};

use crate::adapters::{ADAPTERS, bases, order};
use crate::layout_fixtures::{LAYOUTS, in_folder};
use crate::reference::{error_of, ids_in};
use crate::support::fixture;

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

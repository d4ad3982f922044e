//! Adapters merged by what `src/adapter` reads, against the logits of PEFT.

use gpt_oss_export::adapter::{Adapter, FactorOrder};
use gpt_oss_export::checkpoint::IgnoredNames;
use serde_json::json;

use super::environment::assert_within;
use crate::merged::merged;
use crate::support::{fixture, open};

/// Adapters, and those of which the logits are theirs too.
const ADAPTERS: [(&str, &[&str]); 13] = [
    ("attention", &[]),
    ("biases", &[]),
    ("embedding", &[]),
    ("experts", &["experts-peft-0.17.0", "experts-peft-0.19.0", "experts-transformers-4"]),
    ("one-parameter-each", &[]),
    ("patterns", &[]),
    ("router-head", &[]),
    ("split", &[]),
    ("square", &["square-peft-0.19.0"]),
    ("square-down", &["square-down-transformers-4"]),
    ("tinker-peft", &["tinker"]),
    ("tokens", &[]),
    ("whole-modules", &[]),
];

/// The order that nothing in these files tells.
fn order(adapter: &str) -> Option<FactorOrder> {
    match adapter {
        "square-down" => Some(FactorOrder::Plain),
        "square-down-transformers-4" => Some(FactorOrder::Swapped),
        _ => None,
    }
}

#[test]
fn merged_adapters_compute_what_peft_computes() {
    for (logits, others) in ADAPTERS {
        let is_square = logits.starts_with("square");
        // The same model twice, with q, k and v apart and in one matrix.
        let bases: &[&str] = if is_square { &["tiny-square"] } else { &["tiny-hf", "tiny"] };
        let (mut homes, mut models) = (Vec::new(), Vec::new());
        for name in [&[logits], others].concat() {
            for base in bases {
                let folder = fixture("lora").join(name);
                let ignored = IgnoredNames::default();
                let adapter = Adapter::open(&folder, &open(&fixture(base)), &ignored, order(name));
                let home =
                    merged(if is_square { "tiny-square" } else { "tiny-hf" }, &adapter.unwrap());
                models.push(home.export("m", &[]).0);
                homes.push(home);
            }
        }
        let case = |size: &str| {
            let path = |name: &str| fixture("lora").join(format!("{name}{size}.npy"));
            json!({"ids": path("ids-"), "logits": path(&format!("{logits}."))})
        };
        assert_within(2e-5, &models, "onnxruntime", &[case("2x40"), case("1x150")]);
    }
}

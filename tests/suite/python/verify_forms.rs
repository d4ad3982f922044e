//! Models against the same checkpoint in another layout or format.

use serde_json::json;

use super::verify::{fails, passes};
use crate::layout_fixtures::{edit_tensors, home, in_folder, narrow};
use crate::support::{Home, assert_contains, cases, export, fixture, text, words};

fn in_layout(layout: &str) -> Home {
    if layout == "tiny" { Home::with("tiny") } else { in_folder(layout) }
}

/// The layouts of the model and of the checkpoint, and what has two forms, by their definitions:
/// OpenAI's layouts have queries, keys and values in one matrix, which a model that has them apart is
/// compared with part by part, and those with dtypes as names have experts `[in, out]`. `gate_up` of the fixture has other MXFP4 blocks than a conversion makes.
#[test]
fn tells_other_forms_from_other_weights() {
    let table = "tiny | hf | attn.qkv.weight attn.qkv.bias
        tiny | numbers | mlp.experts.gate_up.weight
        hf | bf16 | mlp.experts.gate_up.weight
        hf | f32 | mlp.experts.gate_up.weight
        hf | linears | mlp.experts.gate_up.weight
        tiny | mlx | attn.qkv.weight attn.qkv.bias mlp.experts.gate_up.weight
        bf16 | hf | mlp.experts.gate_up.weight mlp.experts.down.weight
        bf16 | f16 | mlp.experts.gate_up.weight mlp.experts.down.weight
        fp8 | split | mlp.experts.gate_up.weight mlp.experts.down.weight
        f32 | tiny | mlp.experts.gate_up.weight mlp.experts.down.weight
        hf | tiny |
        split | numbers |
        split | bf16 |
        mlx | hf |
        numbers | tiny |";
    for [of, against, forms] in cases(table) {
        let (home, other) = (in_layout(of), in_layout(against));
        let ((model, _), checkpoint) = (home.export("m", &[]), other.checkpoint());
        if forms.is_empty() {
            passes(&model, &checkpoint, &[]);
            continue;
        }
        let (report, sentence) = fails(&model, &checkpoint, &[]);
        let of_layer =
            |n: usize| words(forms).into_iter().map(move |it| format!("layers.{n}.{it}"));
        let mut expected: Vec<String> = (0..3).flat_map(of_layer).collect();
        expected.sort();
        let weights = &report["weights"];
        assert_eq!(weights["other_form"], json!(expected), "{of} {against}");
        for kind in ["different", "missing", "unknown"] {
            assert_eq!(weights[kind], json!([]), "{of} {against}");
        }
        assert_contains(
            &sentence,
            "m.onnx`: logits agree, and bytes cannot be compared: weights in",
        );
        let (_, tolerance) = sentence.trim_end().split_once("; pass --tolerance ").unwrap();
        passes(&model, &checkpoint, &["--tolerance", tolerance]);
    }
}

/// Other bytes are never taken for another form.
#[test]
fn other_bytes_beside_other_forms_are_told() {
    for (of, against) in [("tiny", "hf"), ("hf", "bf16"), ("bf16", "f32")] {
        let (home, other) = (in_layout(of), in_layout(against));
        let ((model, _), checkpoint) = (home.export("m", &[]), other.checkpoint());
        edit_tensors(&checkpoint, |tensors| {
            // The embedding of a token that the texts lack.
            *tensors.get_mut("model.embed_tokens.weight").unwrap().2.last_mut().unwrap() ^= 1;
        });
        let (report, sentence) = fails(&model, &checkpoint, &["--tokens", "10"]);
        assert_eq!(report["weights"]["different"], json!(["embedding.weight"]), "{report}");
        let expected = "logits agree, and bytes do not; weights with other bytes: `embedding.weight`; weights in another form than the checkpoint's: `layers.0.";
        assert_contains(&sentence, expected);
        assert!(!sentence.contains("; pass "), "{sentence}");
    }
}

/// Browsers read no BF16: a model for transformers.js has the same values in F32, and matrices in F16 if
/// it multiplies in F16, whatever the layout, and with what an adapter adds.
#[test]
fn models_for_browsers_have_no_bf16() {
    for (layout, lora, options) in [
        ("hf", "router-head", "--adapter-as inline"),
        ("hf", "biases", "--adapter-as inline --experts int4"),
        ("hf", "embedding", "--adapter-as merge"),
        ("bf16", "", ""),
        // Rows of 120 values are no whole blocks.
        ("narrow", "", ""),
        ("narrow", "", "--compute f16"),
        ("split", "", "--experts int8 --dense int8"),
    ] {
        let home = if layout == "narrow" {
            let (config, tensors) = narrow();
            home(&config, &tensors)
        } else {
            in_layout(layout)
        };
        let adapter = fixture(&format!("lora/{lora}"));
        let with = if lora.is_empty() { Vec::new() } else { vec!["--adapter", text(&adapter)] };
        let options = [&["--transformers-js"], &with[..], &words(options)].concat();
        let (model, summary) = home.export("web/onnx/model", &options);
        assert!(summary["weights"]["bytes_written"].as_u64() > Some(0));
        let found = export(&["inspect", text(&model)]);
        let mut totals = found["totals"].as_array().unwrap().iter();
        assert!(totals.all(|it| it["dtype"] != "BF16"), "{found}");
        let accepted = if options.contains(&"f16") { &["--tolerance", "3"][..] } else { &[] };
        let report = passes(&model, &home.checkpoint(), &[&with[..], accepted].concat());
        let weights = &report["weights"];
        assert_eq!(weights["in_place"], 0, "{report}");
        for kind in ["different", "missing", "unknown", "other_form"] {
            assert_eq!(weights[kind], json!([]), "{layout} {options:?}");
        }
    }
}

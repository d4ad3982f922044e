//! Logits in real runtimes against those of OpenAI's implementation in f32.

use std::path::PathBuf;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_logits, assert_within, python, reference};
use super::verify::passes;
use crate::layout_fixtures::{Tensor, edit_config, edit_tensors, edited, tiny};
use crate::sizes::write_sparse;
use crate::support::{Home, text};

const VARIANTS: [(&str, &[&str]); 4] = [
    ("flat", &["--external-data", "in-place"]),
    ("functions", &["--external-data", "in-place", "--functions"]),
    ("copied", &["--external-data", "copy"]),
    ("copied-functions", &["--external-data", "copy", "--functions"]),
];

fn exported(home: &Home) -> [PathBuf; 4] {
    VARIANTS.map(|(name, options)| home.export(name, options).0)
}

#[test]
fn matches_openais_implementation() {
    for (name, case) in [
        ("tiny", "2x40"),
        ("tiny", "1x300"),
        ("tiny-3-heads", "tiny-3-heads"),
        ("tiny-1-kv", "tiny-1-kv"),
        // Written by another program in Hugging Face's layout.
        ("tiny-hf", "2x40"),
    ] {
        let home = Home::with(name);
        let mut models = exported(&home).to_vec();
        if name == "tiny-hf" {
            models.push(home.export("ort", &["--target", "ort"]).0);
        }
        assert_logits(&models, &[reference(case)]);
    }
}

/// The end of a text beyond the initial context, where f32 angles themselves are coarser.
#[test]
fn matches_openais_implementation_in_long_text() {
    let home = Home::with("tiny");
    assert_within(1e-4, &exported(&home), "onnxruntime", &[reference("1x4500")]);
}

#[test]
fn reference_evaluator_agrees() {
    let home = Home::with("tiny");
    assert_within(1e-5, &exported(&home)[..2], "reference", &[reference("2x40")]);
}

#[test]
fn openvino_agrees() {
    for (name, cases) in [
        ("tiny", &["2x40", "1x300"][..]),
        ("tiny-3-heads", &["tiny-3-heads"]),
        ("tiny-1-kv", &["tiny-1-kv"]),
    ] {
        let home = Home::with(name);
        let cases: Vec<Value> = cases.iter().copied().map(reference).collect();
        assert_within(1e-5, &[home.export("model", &[]).0], OPENVINO, &cases);
    }
}

/// Asserts that models are exact with inputs of these shapes.
fn assert_exact_in_shapes(models: &[PathBuf], shapes: &[[usize; 2]]) {
    let case = |[rows, length]: &[usize; 2]| {
        let mut case = reference(if *length <= 40 { "2x40" } else { "1x300" });
        (case["rows"], case["length"]) = (json!(rows), json!(length));
        case
    };
    assert_logits(models, &shapes.iter().map(case).collect::<Vec<_>>());
}

#[test]
fn one_model_takes_every_batch_and_length() {
    let home = Home::with("tiny");
    // Lengths below, at and beyond the window of 8; a single token takes other nodes.
    let shapes =
        [[1, 1], [1, 2], [1, 7], [1, 8], [1, 9], [3, 1], [3, 20], [2, 33], [1, 130], [2, 257]];
    assert_exact_in_shapes(&exported(&home), &shapes);
}

#[test]
fn fixed_axes_compute_the_same() {
    let home = Home::with("tiny");
    for [batch, length] in [[1, 1], [2, 12], [3, 1], [1, 40]] {
        let (b, t) = (batch.to_string(), length.to_string());
        let models = [
            ("both", &["--batch-size", &b, "--seq-len", &t][..]),
            ("batch", &["--batch-size", &b, "--functions"]),
            ("length", &["--seq-len", &t]),
        ]
        .map(|(name, options)| home.export(name, options).0);
        assert_exact_in_shapes(&models, &[[batch, length]]);
    }
}

/// A folder with `tiny`, each of its tensors edited.
fn with_each(edit: impl Fn(&str, &mut Tensor)) -> Home {
    edited(|folder| {
        edit_tensors(folder, |tensors| {
            tensors.iter_mut().for_each(|(name, tensor)| edit(name, tensor));
        });
    })
}

#[test]
fn dense_weights_may_be_f32_and_scales_f8_e8m0() {
    let home = with_each(|name, (dtype, _, data)| match dtype {
        // Some layers of each, in the same bytes: BF16 is the upper half of F32.
        Dtype::BF16 if !name.contains("block.1.") => {
            *dtype = Dtype::F32;
            *data = data.chunks(2).flat_map(|half| [0, 0, half[0], half[1]]).collect();
        }
        Dtype::U8 if name.ends_with("scales") => *dtype = Dtype::F8_E8M0,
        _ => {}
    });
    assert_logits(&exported(&home), &[reference("2x40")]);
    // The metadata of some staged layers lists the formats of these alone.
    for layers in ["1", "2"] {
        let (staged, _) = home.stage(layers, &["--layers", layers]);
        home.export_staged(&staged, "staged", &[]);
        home.export_staged(&staged, "staged", &["--layers", "1"]);
    }
}

/// A sink of −∞ is none, and a large one takes all of the attention: the reference of `verify`
/// computes both by their definition.
#[test]
fn sinks_of_any_size_are_exact() {
    let home = with_each(|name, (_, _, data)| {
        if name.ends_with("sinks") {
            // BF16: −∞, and 2¹²⁷, which F16 does not have.
            data[..4].copy_from_slice(&[0x80, 0xff, 0x00, 0x7f]);
        }
    });
    let checks: [(&[&str], &[&str]); 5] = [
        (&[], &[]),
        (&["--functions", "--kv-cache"], &[]),
        (&["--target", "ort"], &[]),
        // Not exact, but finite.
        (&["--compute", "f16"], &["--tolerance", "1"]),
        (&["--compute", "f16", "--target", "ort"], &["--tolerance", "1"]),
    ];
    for (options, tolerance) in checks {
        let (model, _) = home.export("model", options);
        passes(&model, &home.checkpoint(), tolerance);
    }
}

/// A vocabulary whose lm_head is cast in parts. The file is empty but for the tiny model's
/// rows, at the beginning and end of parts.
#[test]
fn large_vocabulary_is_exact_in_parts() {
    const VOCABULARY: usize = 1_500_000;
    const PART: usize = 300_000;
    const REPEATS: [usize; 5] = [0, PART - 320, PART, 3 * PART - 100, VOCABULARY - 320];
    let home = Home::with("tiny");
    let folder = home.checkpoint();
    let vocabulary = format!("\"vocab_size\": {VOCABULARY}");
    edit_config(&folder, "\"vocab_size\": 320", &vocabulary);
    let larger = |(name, (dtype, mut shape, data)): (String, Tensor)| {
        let row = data.len() / shape[0];
        let starts = match &*name {
            "embedding.weight" => &[0][..],
            "unembedding.weight" => &REPEATS,
            _ => return (name, dtype, shape, vec![(0, data)]),
        };
        shape[0] = VOCABULARY;
        let rows = starts.iter().map(|start| (start * row, data.clone()));
        (name, dtype, shape, rows.collect())
    };
    write_sparse(&folder.join("model.safetensors"), tiny().into_iter().map(larger).collect());
    for target in ["onnx", "ort"] {
        let (model, _) = home.export(target, &["--target", target]);
        let found = python("check.py", &[text(&model), "--structure-only"], &Value::Null);
        let stored = found["external"].as_array().unwrap().iter();
        let parts = stored.filter(|t| t["name"].as_str().unwrap().starts_with("lm_head"));
        assert!(parts.clone().all(|part| part["dims"] == json!([PART, 96])), "{found}");
        assert_eq!(parts.count(), VOCABULARY / PART);
        let mut case = reference("2x40");
        (case["length"], case["repeats"]) = (json!(3), json!(REPEATS));
        assert_logits(&[model], &[case]);
    }
}

//! Files and summaries say which format experts came from, and how much was rounded.

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::conversions::{MATRICES, bits_of_mxfp4, edited, original, written};
use crate::derived::{config, home, in_folder, in_layout, input_major};
use crate::layouts::narrow;
use crate::support::{
    assert_contains, binary, export, export_args, export_in, fixture, model_metadata, printed,
    stage_args, staged_args, weights_metadata,
};

/// What a weights file says about its experts.
fn staged_experts(file: &Path) -> Value {
    serde_json::from_str::<Value>(&weights_metadata(file)).unwrap()["experts"].clone()
}

/// What a model says about its experts.
fn model_experts(model: &Path) -> Value {
    model_metadata(model)["experts"].clone()
}

/// The summary of an export as text.
fn summary_text(arguments: &[&str]) -> String {
    printed(&mut binary(arguments))
}

/// The same of the checkpoint in a folder.
fn summary_in(home: &TempDir, options: &[&str]) -> String {
    let [checkpoint, model] = ["checkpoint", "model.onnx"].map(|name| home.path().join(name));
    summary_text(&export_args(&checkpoint, &model, options))
}

fn rounding_needed(at: usize, number: f32) -> f32 {
    number * (1.0 + (at % 7) as f32 / 100.0)
}

#[test]
fn files_name_format_of_unchanged_experts() {
    for (layout, format) in [("hf", "mxfp4"), ("fp8", "f8e5m2")] {
        let home = in_folder(layout);
        let (checkpoint, stage) =
            (home.path().join("checkpoint"), home.path().join("w.safetensors"));
        export(&stage_args(&checkpoint, &stage, &[]));
        let (model, _) = export_in(home.path(), "model", &[]);
        let expected =
            json!({"origin": format, "format": format, "rounded": 0, "relative_error": 0.0});
        assert_eq!(staged_experts(&stage), expected);
        assert_eq!(model_experts(&model), expected);
    }
}

#[test]
fn files_say_how_much_was_rounded() {
    let (home, _) = edited(rounding_needed);
    let [checkpoint, stage, later] =
        ["checkpoint", "stage.safetensors", "later.onnx"].map(|name| home.path().join(name));
    let experts = ["--experts", "mxfp4", "--accept-rounding"];
    let staged = export(&stage_args(&checkpoint, &stage, &experts));
    let converted = &staged["experts"]["converted"];
    let expected = json!({
        "origin": "f32", "format": "mxfp4", "rounded": converted["rounded"],
        "relative_error": converted["relative_error"],
    });
    assert_eq!(staged_experts(&stage), expected);
    assert!(expected["rounded"].as_u64().unwrap() > 0);
    // The same conversion reuses the file.
    let again = export(&stage_args(&checkpoint, &stage, &experts));
    assert_eq!(again["weights"]["reused"], json!([stage]));
    assert_eq!(again["experts"], staged["experts"]);

    let (direct, _) = export_in(home.path(), "model", &experts);
    assert_eq!(model_experts(&direct), expected);
    let text = summary_text(&staged_args(&stage, &later, &[]));
    assert_eq!(model_experts(&later), expected);
    let error = expected["relative_error"].as_f64().unwrap();
    let sentence = format!(
        "experts  f32 to mxfp4 when they were staged, rounded: 73,637 of 884,736 values, relative error {error:.2e}\n"
    );
    assert_eq!(expected["rounded"], 73_637);
    assert!(text.contains(&sentence), "{text}");
    // So do some layers, which are a model of their own.
    let some = export(&staged_args(&stage, &later, &["--layers", "2"]));
    assert_ne!(some["fingerprint"], staged["fingerprint"]);
    assert_eq!(model_experts(&later), expected);
}

/// Rounded to BF16, staged, and rounded to MXFP4: at least what was rounded is said.
#[test]
fn roundings_of_several_conversions_add_up() {
    let (home, numbers) = edited(rounding_needed);
    let [checkpoint, stage, model] =
        ["checkpoint", "stage.safetensors", "model.onnx"].map(|name| home.path().join(name));
    let to = |format| ["--accept-rounding", "--experts", format];
    let first = export(&stage_args(&checkpoint, &stage, &to("bf16")));
    let second = export(&staged_args(&stage, &model, &to("mxfp4")));
    let found = model_experts(&model);
    assert_eq!((&found["origin"], &found["format"]), (&json!("f32"), &json!("mxfp4")));

    let (mut error, mut squares, mut changed) = (0.0, 0.0, 0);
    for layer in 0..3 {
        for (ours, theirs) in MATRICES {
            let (shape, bits) = bits_of_mxfp4(&written(&second), layer, ours);
            let [_, out, inn] = shape[..] else { panic!("{shape:?}") };
            let (_, unedited) = original(layer, theirs);
            for (at, bits) in bits.into_iter().enumerate() {
                let (expert, row, column) = (at / (out * inn), at / inn % out, at % inn);
                let was = match (layer, ours) {
                    (1, "down") => numbers[(expert * inn + column) * out + row],
                    _ => f32::from_bits(unedited[at]),
                };
                error += (f64::from(was) - f64::from(f32::from_bits(bits))).powi(2);
                squares += f64::from(was).powi(2);
                changed += u64::from(was.to_bits() != bits);
            }
        }
    }
    let (said, error) = (found["relative_error"].as_f64().unwrap(), (error / squares).sqrt());
    assert!(said >= error && said <= 1.2 * error, "{said} for {error}");
    let counts = [&first, &second]
        .map(|summary| summary["experts"]["converted"]["rounded"].as_u64().unwrap());
    assert!(counts[0] > 0 && counts[1] > 0);
    assert_eq!(found["rounded"], counts[0] + counts[1]);
    assert!(counts[0] + counts[1] >= changed);
}

#[test]
fn smallest_rounding_is_printed() {
    let (home, _) = edited(|at, number| if at == 5 { f32::from_bits(1) } else { number });
    let text = summary_in(&home, &["--experts", "mxfp4", "--accept-rounding"]);
    let expected = "experts  f32 to mxfp4, rounded: 1 of 884,736 values, relative error ";
    assert!(text.contains(expected) && !text.contains("0.00e0"), "{text}");
}

/// A checkpoint with matrices in several formats.
pub fn with_mixed_formats() -> TempDir {
    let mut tensors = in_layout("bf16");
    for (layer, name, shape, dtype) in
        [(0, "down", "mlp2_weight", Dtype::F32), (2, "gate_up", "mlp1_weight", Dtype::F16)]
    {
        let (sizes, bits) = original(layer, shape);
        let numbers = bits.into_iter().map(f32::from_bits).collect();
        let tensor = input_major((sizes, numbers), dtype);
        tensors.insert(format!("model.layers.{layer}.mlp.experts.{name}_proj"), tensor);
    }
    home(&config(), &tensors)
}

#[test]
fn files_name_every_format_of_mixed_experts() {
    let home = with_mixed_formats();
    for (options, format, sentence) in [
        (&[][..], "bf16 and f16 and f32", "in bf16 and f16 and f32\n"),
        (
            &["--experts", "bf16"],
            "bf16",
            "experts  bf16 and f16 and f32 to bf16, lossless: all 884,736 values bit for bit\n",
        ),
        (
            &["--experts", "mxfp4"],
            "mxfp4",
            "experts  bf16 and f16 and f32 to mxfp4, lossless: all 884,736 values bit for bit\n",
        ),
    ] {
        assert_contains(&summary_in(&home, options), sentence);
        let experts = model_experts(&home.path().join("model.onnx"));
        assert_eq!(experts["origin"], "bf16 and f16 and f32");
        assert_eq!(experts["format"], format);
    }
}

/// MXFP4 is only recommended to those who have not chosen a format, and can have it.
#[test]
fn summary_says_how_much_smaller_mxfp4_is() {
    let home = in_folder("bf16");
    let text = summary_in(&home, &[]);
    let expected = "experts  1769 kB in bf16\n  converted to mxfp4 they are 3.8 times smaller";
    assert_contains(&text, expected);
    assert_contains(&text, "refused otherwise; pass --experts mxfp4\n");
    for (format, expected) in [
        ("mxfp4", "experts  bf16 to mxfp4, lossless: all 884,736 values bit for bit\n"),
        (
            "bf16",
            "experts  bf16 transposed, lossless: all 884,736 values bit for bit\n  1769 kB in bf16\n",
        ),
    ] {
        let text = summary_in(&home, &["--experts", format]);
        assert!(text.contains(expected) && !text.contains("times smaller"), "{text}");
    }
    let (config, tensors) = narrow();
    let text = summary_in(&crate::derived::home(&config, &tensors), &[]);
    assert!(text.contains(" in bf16\n") && !text.contains("times smaller"), "{text}");
}

#[test]
fn summary_says_that_experts_are_in_the_format_already() {
    let (split, model) = (in_folder("split"), tempfile::tempdir().unwrap());
    let model = model.path().join("model.onnx");
    for (checkpoint, format) in
        [(fixture("tiny"), "mxfp4"), (split.path().join("checkpoint"), "bf16")]
    {
        let text = summary_text(&export_args(&checkpoint, &model, &["--experts", format]));
        assert!(text.contains(&format!("experts  already in {format}\n")), "{text}");
        assert!(!text.contains("times smaller"), "{text}");
        assert!(!summary_text(&export_args(&checkpoint, &model, &[])).contains("already"));
    }
}

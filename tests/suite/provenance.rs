//! Files and summaries say which format experts came from, and how much was rounded.

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::conversions::{differences, original, with_values, written};
use crate::layout_fixtures::{config, home, in_folder, in_layout, input_major, narrow};
use crate::support::{
    Home, assert_contains, binary, cases, model_metadata, printed, staged_args, weights_metadata,
    words,
};

fn staged_experts(file: &Path) -> Value {
    serde_json::from_str::<Value>(&weights_metadata(file)).unwrap()["experts"].clone()
}

fn model_experts(model: &Path) -> Value {
    model_metadata(model)["experts"].clone()
}

fn rounding_needed(at: usize, number: f32) -> f32 {
    number * (1.0 + (at % 7) as f32 / 100.0)
}

#[test]
fn files_name_format_of_unchanged_experts() {
    for (layout, format) in [("hf", "mxfp4"), ("fp8", "f8e5m2")] {
        let home = in_folder(layout);
        let (stage, _) = home.stage("w", &[]);
        let (model, _) = home.export("model", &[]);
        let expected =
            json!({"origin": format, "format": format, "rounded": 0, "relative_error": 0.0});
        assert_eq!(staged_experts(&stage), expected);
        assert_eq!(model_experts(&model), expected);
    }
}

#[test]
fn files_say_how_much_was_rounded() {
    let (home, _) = with_values(rounding_needed);
    let later = home.join("later.onnx");
    let experts = ["--experts", "mxfp4", "--accept-rounding"];
    let (stage, staged) = home.stage("stage", &experts);
    let converted = &staged["experts"]["converted"];
    let expected = json!({
        "origin": "f32", "format": "mxfp4", "rounded": converted["rounded"],
        "relative_error": converted["relative_error"],
    });
    assert_eq!(staged_experts(&stage), expected);
    assert!(expected["rounded"].as_u64().unwrap() > 0);
    // The same conversion reuses the file.
    let (_, again) = home.stage("stage", &experts);
    assert_eq!(again["weights"]["reused"], json!([stage]));
    assert_eq!(again["experts"], staged["experts"]);

    let (direct, _) = home.export("model", &experts);
    assert_eq!(model_experts(&direct), expected);
    let text = printed(&mut binary(&staged_args(&stage, &later, &[])));
    assert_eq!(model_experts(&later), expected);
    let error = expected["relative_error"].as_f64().unwrap();
    let sentence = format!(
        "experts  f32 to mxfp4 when they were staged, rounded: 73,637 of 884,736 values, relative error {error:.2e}\n"
    );
    assert_eq!(expected["rounded"], 73_637);
    assert_contains(&text, &sentence);
    // So do some layers, which are a model of their own.
    let (_, some) = home.export_staged(&stage, "later", &["--layers", "2"]);
    assert_ne!(some["fingerprint"], staged["fingerprint"]);
    assert_eq!(model_experts(&later), expected);
}

/// Rounded to BF16, staged, and rounded to MXFP4: at least what was rounded is said.
#[test]
fn roundings_of_several_conversions_add_up() {
    let (home, numbers) = with_values(rounding_needed);
    let to = |format| ["--accept-rounding", "--experts", format];
    let (stage, first) = home.stage("stage", &to("bf16"));
    let (model, second) = home.export_staged(&stage, "model", &to("mxfp4"));
    let found = model_experts(&model);
    assert_eq!((&found["origin"], &found["format"]), (&json!("f32"), &json!("mxfp4")));

    let (changed, error, squares) = differences(&written(&second), &numbers);
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
    let (home, _) = with_values(|at, number| if at == 5 { f32::from_bits(1) } else { number });
    let text = home.printed_summary("model", &["--experts", "mxfp4", "--accept-rounding"]);
    let expected = "experts  f32 to mxfp4, rounded: 1 of 884,736 values, relative error ";
    assert!(text.contains(expected) && !text.contains("0.00e0"), "{text}");
}

pub fn with_mixed_formats() -> Home {
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
    let table = "| bf16 and f16 and f32 | in bf16 and f16 and f32
        --experts bf16 | bf16 | experts  bf16 and f16 and f32 to bf16, lossless: all 884,736 values bit for bit
        --experts mxfp4 | mxfp4 | experts  bf16 and f16 and f32 to mxfp4, lossless: all 884,736 values bit for bit";
    for [options, format, end] in cases(table) {
        assert_contains(&home.printed_summary("model", &words(options)), &format!("{end}\n"));
        let experts = model_experts(&home.join("model.onnx"));
        assert_eq!(experts["origin"], "bf16 and f16 and f32");
        assert_eq!(experts["format"], format);
    }
}

/// MXFP4 is only recommended to those who have not chosen a format, and can have it.
#[test]
fn summary_says_how_much_smaller_mxfp4_is() {
    let bf16 = in_folder("bf16");
    let text = bf16.printed_summary("model", &[]);
    let expected = "experts  1769 kB in bf16\n  converted to mxfp4 they are 3.8 times smaller";
    assert_contains(&text, expected);
    assert_contains(&text, "refused otherwise; pass --experts mxfp4\n");
    for (format, how, size) in
        [("mxfp4", "to mxfp4", ""), ("bf16", "transposed", "  1769 kB in bf16\n")]
    {
        let text = bf16.printed_summary("model", &["--experts", format]);
        let line = format!("experts  bf16 {how}, lossless: all 884,736 values bit for bit\n{size}");
        assert!(text.contains(&line) && !text.contains("times smaller"), "{text}");
    }
    let (config, tensors) = narrow();
    let narrow = home(&config, &tensors);
    for (home, options) in [(&narrow, ""), (&bf16, "--target ort --functions")] {
        let text = home.printed_summary("model", &words(options));
        assert!(text.contains(" in bf16\n") && !text.contains("times smaller"), "{text}");
    }
}

#[test]
fn summary_says_that_experts_are_in_the_format_already() {
    for (home, format) in [(Home::with("tiny"), "mxfp4"), (in_folder("split"), "bf16")] {
        let text = home.printed_summary("model", &["--experts", format]);
        assert_contains(&text, &format!("experts  already in {format}\n"));
        assert!(!text.contains("times smaller"), "{text}");
        assert!(!home.printed_summary("model", &[]).contains("already"));
    }
}

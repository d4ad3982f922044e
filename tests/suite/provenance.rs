//! What became of the experts is known: to who exports, and from the files.

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::conversions::{MATRICES, bits_of_mxfp4, edited, original, paths, written};
use crate::derived::{config, home, in_folder, in_layout, input_major};
use crate::support::{export, fixture, logit_errors, python, run, text};

/// What a weights file says of itself.
fn said(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["gpt_oss_export"]).unwrap()
}

/// What a model says of its experts.
fn property(model: &str) -> Value {
    let seen = python("check.py", &[model], &Value::Null);
    seen["metadata"]["experts"].clone()
}

/// The summary as people read it.
fn summary(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn experts_as_they_were_are_said_to_be() {
    for (layout, format) in [("hf", "mxfp4"), ("fp8", "f8e5m2")] {
        let home = in_folder(layout);
        let (checkpoint, model) = paths(home.path());
        let stage = home.path().join("stage.safetensors");
        let base = ["--checkpoint", &checkpoint, "--output", &model];
        export(&[&base[..], &["--save-weights", text(&stage)]].concat());
        let expected =
            json!({"origin": format, "format": format, "rounded": 0, "relative_error": 0.0});
        assert_eq!(said(&stage)["experts"], expected);
        assert_eq!(property(&model), expected);
    }
}

#[test]
fn files_carry_what_was_rounded() {
    let (home, _) = edited(|at, number| number * (1.0 + (at % 7) as f32 / 100.0));
    let (checkpoint, model) = paths(home.path());
    let stage = home.path().join("stage.safetensors");
    let experts = ["--experts", "mxfp4", "--accept-rounding"];
    let staging = ["--checkpoint", &*checkpoint, "--skip-onnx", "--save-weights", text(&stage)];
    let staged = export(&[&staging[..], &experts].concat());
    let converted = &staged["experts"]["converted"];
    let expected = json!({
        "origin": "f32", "format": "mxfp4", "rounded": converted["rounded"],
        "relative_error": converted["relative_error"],
    });
    assert_eq!(said(&stage)["experts"], expected);
    assert!(expected["rounded"].as_u64().unwrap() > 0);
    // Converted once more, it is what is there.
    let again = export(&[&staging[..], &experts].concat());
    assert_eq!(again["weights"]["reused"], json!([text(&stage)]));
    assert_eq!(again["experts"], staged["experts"]);

    let direct = ["--checkpoint", &*checkpoint, "--output", &model];
    export(&[&direct[..], &experts].concat());
    assert_eq!(property(&model), expected);
    let later = ["--weights", text(&stage), "--output", &model];
    let found = summary(&later);
    assert_eq!(property(&model), expected);
    let (rounded, error) = (&expected["rounded"], expected["relative_error"].as_f64().unwrap());
    let sentence = format!(
        "experts  f32 to mxfp4 when they were staged, rounded: {rounded} of 884736 numbers, relative error {error:.2e}\n"
    );
    assert!(found.contains(&sentence), "{found}");
    // Also of some layers, which are a model of their own.
    let some = export(&[&later[..], &["--layers", "2"]].concat());
    assert_ne!(some["fingerprint"], staged["fingerprint"]);
    assert_eq!(property(&model), expected);
}

/// Rounded to BF16, staged, and rounded to MXFP4: what is said is no less than what
/// is so.
#[test]
fn several_conversions_add_up() {
    let (home, numbers) = edited(|at, number| number * (1.0 + (at % 7) as f32 / 100.0));
    let (checkpoint, model) = paths(home.path());
    let stage = home.path().join("stage.safetensors");
    let rounding = ["--accept-rounding", "--experts"];
    let staging = ["--checkpoint", &*checkpoint, "--skip-onnx", "--save-weights", text(&stage)];
    let first = export(&[&staging[..], &rounding, &["bf16"]].concat());
    let base = ["--weights", text(&stage), "--output", &model];
    let second = export(&[&base[..], &rounding, &["mxfp4"]].concat());
    let found = property(&model);
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
    let counts =
        [&first, &second].map(|summary| summary["experts"]["converted"]["rounded"].as_u64());
    assert!(counts.iter().all(|count| count.unwrap() > 0));
    assert_eq!(found["rounded"].as_u64(), Some(counts.into_iter().flatten().sum()));
    assert!(found["rounded"].as_u64().unwrap() >= changed);
}

/// A rounding too small to be seen beside the rest is said all the same.
#[test]
fn the_least_rounding_is_told() {
    let (home, _) = edited(|at, number| if at == 5 { f32::from_bits(1) } else { number });
    let (checkpoint, model) = paths(home.path());
    let base = ["--checkpoint", &*checkpoint, "--output", &model];
    let found = summary(&[&base[..], &["--experts", "mxfp4", "--accept-rounding"]].concat());
    assert!(
        found.contains("experts  f32 to mxfp4, rounded: 1 of 884736 numbers, relative error ")
            && !found.contains("0.00e0"),
        "{found}"
    );
}

/// Matrices in several formats, each read as its own header says.
fn mixed() -> tempfile::TempDir {
    let mut tensors = in_layout("bf16");
    let shape = |matrix: &str| if matrix == "down" { "mlp2_weight" } else { "mlp1_weight" };
    for (layer, matrix, dtype) in [(0, "down", Dtype::F32), (2, "gate_up", Dtype::F16)] {
        let (sizes, bits) = original(layer, shape(matrix));
        let numbers = bits.into_iter().map(f32::from_bits).collect();
        let tensor = input_major((sizes, numbers), dtype);
        tensors.insert(format!("model.layers.{layer}.mlp.experts.{matrix}_proj"), tensor);
    }
    home(&config(), &tensors)
}

#[test]
fn matrices_may_have_formats_of_their_own() {
    let home = mixed();
    let (checkpoint, model) = paths(home.path());
    let base = ["--checkpoint", &*checkpoint, "--output", &model];
    for (options, format, sentence) in [
        (&[][..], "bf16 and f16 and f32", "in bf16 and f16 and f32\n"),
        (
            &["--experts", "bf16"],
            "bf16",
            "experts  bf16 and f16 and f32 to bf16, lossless: all 884736 numbers bit for bit\n",
        ),
        (
            &["--experts", "mxfp4"],
            "mxfp4",
            "experts  bf16 and f16 and f32 to mxfp4, lossless: all 884736 numbers bit for bit\n",
        ),
    ] {
        let found = summary(&[&base[..], options].concat());
        assert!(found.contains(sentence), "{found}");
        let experts = property(&model);
        assert_eq!(
            (&experts["origin"], &experts["format"]),
            (&json!("bf16 and f16 and f32"), &json!(format))
        );
        assert!(
            logit_errors(Path::new(&model), "onnxruntime", &["2x40"])[0] <= 1e-5,
            "{options:?}"
        );
    }
}

/// People who could have it smaller are told so, unless they chose or could not.
#[test]
fn the_summary_says_what_mxfp4_would_save() {
    let home = in_folder("bf16");
    let (checkpoint, model) = paths(home.path());
    let base = ["--checkpoint", &*checkpoint, "--output", &model];
    let say = |options: &[&str]| summary(&[&base[..], options].concat());
    let plain = say(&[]);
    assert!(
        plain.contains("experts  1769 kB in bf16\n  --experts mxfp4 makes them 3.8 times smaller"),
        "{plain}"
    );
    let converted = say(&["--experts", "mxfp4"]);
    assert!(
        converted.contains("experts  bf16 to mxfp4, lossless: all 884736 numbers bit for bit\n"),
        "{converted}"
    );
    let turned = say(&["--experts", "bf16"]);
    assert!(
        turned.contains("experts  bf16 turned round, lossless: all 884736 numbers bit for bit\n")
            && turned.contains("experts  1769 kB in bf16\n"),
        "{turned}"
    );
    for chosen in [converted, turned] {
        assert!(!chosen.contains("times smaller"), "{chosen}");
    }

    // 120 numbers, rows of the second matrix, are no blocks.
    let mut tensors = in_layout("bf16");
    crate::layouts::narrow(&mut tensors);
    let mut narrow = config();
    narrow["intermediate_size"] = json!(120);
    let home = crate::derived::home(&narrow, &tensors);
    let (checkpoint, model) = paths(home.path());
    let plain = summary(&["--checkpoint", &checkpoint, "--output", &model]);
    assert!(plain.contains(" in bf16\n") && !plain.contains("times smaller"), "{plain}");
}

#[test]
fn what_is_in_the_format_already_is_said_to_be() {
    let tiny = text(&fixture("tiny")).to_owned();
    for (checkpoint, format) in [(None, "mxfp4"), (Some("split"), "bf16")] {
        let home = in_folder(checkpoint.unwrap_or("hf"));
        let (own, model) = paths(home.path());
        let from = if checkpoint.is_some() { own } else { tiny.clone() };
        let base = ["--checkpoint", &*from, "--output", &model];
        let found = summary(&[&base[..], &["--experts", format]].concat());
        assert!(found.contains(&format!("experts  already in {format}\n")), "{found}");
        assert!(!found.contains("times smaller"), "{found}");
        assert!(!summary(&base).contains("already"));
    }
}

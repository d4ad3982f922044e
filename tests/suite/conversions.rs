//! Experts put into another format: bit for bit, or refused, or rounded as
//! little as can be when that is accepted.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::derived::{self, LAYOUTS, Tensor, config, home, in_folder, in_layout};
use crate::support::{contents, export, failure, logit_errors, text};

/// Both matrices of the experts of a layer, under canonical names and OpenAI's.
const MATRICES: [(&str, &str); 2] = [("gate_up", "mlp1_weight"), ("down", "mlp2_weight")];

/// What there is to be exported, and where to.
fn paths(home: &Path) -> (String, String) {
    let path = |name| text(&home.join(name)).to_owned();
    (path("checkpoint"), path("model.onnx"))
}

/// A tensor of a weights file.
fn stored(file: &Path, name: &str) -> Tensor {
    let bytes = fs::read(file).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let view = whole.tensor(name).unwrap_or_else(|_| panic!("{} lacks {name}", file.display()));
    (view.dtype(), view.shape().to_vec(), view.data().to_vec())
}

fn written(summary: &Value) -> PathBuf {
    summary["weights"]["written"][0].as_str().unwrap().into()
}

/// The bits of a layer's numbers, as the tiny model has them.
fn original(layer: usize, matrix: &str) -> (Vec<usize>, Vec<u32>) {
    let tiny = derived::tiny();
    let part = |part| &tiny[&format!("block.{layer}.mlp.{matrix}.{part}")];
    let (shape, numbers) = derived::dequantised(part("blocks"), part("scales"));
    (shape, numbers.iter().map(|number| number.to_bits()).collect())
}

fn bits_of_mxfp4(file: &Path, layer: usize, matrix: &str) -> (Vec<usize>, Vec<u32>) {
    let part = |part: &str| stored(file, &format!("layers.{layer}.mlp.experts.{matrix}.{part}"));
    let (shape, numbers) = derived::dequantised(&part("blocks"), &part("scales"));
    (shape, numbers.iter().map(|number| number.to_bits()).collect())
}

#[test]
fn what_was_dequantised_becomes_mxfp4_again_bit_for_bit() {
    for layout in LAYOUTS.into_iter().filter(|layout| *layout != "hf") {
        let home = in_folder(layout);
        let (checkpoint, model) = paths(home.path());
        let base = ["--checkpoint", &checkpoint, "--output", &model, "--experts", "mxfp4"];
        let summary = export(&base);
        let experts = &summary["experts"];
        assert_eq!(
            (&experts["format"], &experts["converted"]["lossless"]),
            (&json!("mxfp4"), &json!(true))
        );
        assert_eq!(experts["converted"]["numbers"], 3 * 8 * (256 * 96 + 96 * 128));
        let file = written(&summary);
        for layer in 0..3 {
            for (ours, theirs) in MATRICES {
                assert_eq!(bits_of_mxfp4(&file, layer, ours), original(layer, theirs), "{layout}");
            }
        }
        assert!(logit_errors(Path::new(&model), "onnxruntime", &["2x40"])[0] <= 1e-5, "{layout}");
        // The other target finds the same file, converts again and compares.
        let summary = export(&[&base[..], &["--target", "ort"]].concat());
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_eq!(summary["experts"]["converted"]["lossless"], true);
        let errors = logit_errors(Path::new(&model), "onnxruntime", &["2x40", "1x300"]);
        assert!(errors.iter().all(|error| *error <= 1e-5), "{layout}: {errors:?}");
    }
}

#[test]
fn any_layout_becomes_bf16_an_output_a_row() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let (checkpoint, model) = paths(home.path());
        let summary =
            export(&["--checkpoint", &checkpoint, "--output", &model, "--experts", "bf16"]);
        let file = written(&summary);
        for layer in 0..3 {
            for (ours, theirs) in MATRICES {
                let (dtype, shape, data) =
                    stored(&file, &format!("layers.{layer}.mlp.experts.{ours}.weight"));
                let (expected, bits) = original(layer, theirs);
                assert_eq!((dtype, shape), (Dtype::BF16, expected), "{layout}");
                let upper = bits.iter().flat_map(|bits| ((bits >> 16) as u16).to_le_bytes());
                assert!(data.iter().copied().eq(upper), "{layout}");
            }
        }
        assert!(logit_errors(Path::new(&model), "onnxruntime", &["2x40"])[0] <= 1e-5, "{layout}");
    }
}

/// The checkpoint with F32 experts, each number of one tensor edited.
fn edited(edit: impl Fn(usize, f32) -> f32) -> (tempfile::TempDir, Vec<f32>) {
    let mut tensors = in_layout("f32");
    let (_, _, data) = tensors.get_mut("model.layers.1.mlp.experts.down_proj").unwrap();
    let numbers: Vec<f32> = data
        .as_chunks()
        .0
        .iter()
        .enumerate()
        .map(|(at, bytes)| edit(at, f32::from_le_bytes(*bytes)))
        .collect();
    *data = derived::encoded(&numbers, Dtype::F32);
    (home(&config(), &tensors), numbers)
}

#[test]
fn rounding_is_refused_until_it_is_accepted() {
    let (home, numbers) = edited(|at, number| number * (1.0 + (at % 7) as f32 / 100.0));
    let (checkpoint, model) = paths(home.path());
    let before = contents(home.path());
    let base = ["--checkpoint", &checkpoint, "--output", &model, "--experts", "mxfp4"];
    let sentence = failure(&base);
    assert!(
        sentence
            .starts_with("`layers.1.mlp.experts.down` did not come from mxfp4: it would round 73637 of its 98304 numbers")
            && sentence.contains(", with a relative error of 3.52e-2; ")
            && sentence.ends_with(
                "pass --accept-rounding if that will do, or leave the experts as they are"
            ),
        "{sentence}"
    );
    assert_eq!(contents(home.path()), before);

    let summary = export(&[&base[..], &["--accept-rounding"]].concat());
    let converted = &summary["experts"]["converted"];
    assert_eq!(converted["lossless"], false);
    // What was made of the edited tensor, turned round, beside what it was.
    let (shape, found) = bits_of_mxfp4(&written(&summary), 1, "down");
    let [_, out, inn] = shape[..] else { panic!("{shape:?}") };
    let (mut error, mut squares, mut rounded) = (0.0, 0.0, 0);
    for (at, bits) in found.iter().enumerate() {
        let (matrix, row, column) = (at / (out * inn), at / inn % out, at % inn);
        let number = numbers[matrix * out * inn + column * out + row];
        error += (f64::from(number) - f64::from(f32::from_bits(*bits))).powi(2);
        rounded += usize::from(number.to_bits() != *bits);
    }
    for layer in 0..3 {
        for (_, theirs) in MATRICES {
            let (_, bits) = original(layer, theirs);
            squares +=
                bits.iter().map(|bits| f64::from(f32::from_bits(*bits)).powi(2)).sum::<f64>();
        }
    }
    let (_, bits) = original(1, "mlp2_weight");
    squares -= bits.iter().map(|bits| f64::from(f32::from_bits(*bits)).powi(2)).sum::<f64>();
    squares += numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>();
    assert_eq!(converted["rounded"], rounded);
    let (said, expected) =
        (converted["relative_error"].as_f64().unwrap(), (error / squares).sqrt());
    assert!((said - expected).abs() < 1e-4 * expected, "{said} is not {expected}");
    assert!(expected > 1e-3 && expected < 0.1, "{expected}");
}

#[test]
fn a_single_number_off_is_found() {
    let (home, _) = edited(|at, number| if at == 70_001 { number + 1e-6 } else { number });
    let (checkpoint, model) = paths(home.path());
    for format in ["mxfp4", "bf16"] {
        let sentence =
            failure(&["--checkpoint", &checkpoint, "--output", &model, "--experts", format]);
        assert!(
            sentence.contains(&format!("did not come from {format}: it would round 1 of ")),
            "{sentence}"
        );
    }
}

#[test]
fn infinity_is_refused_even_so() {
    for bad in [f32::INFINITY, f32::NAN] {
        let (home, _) = edited(|at, number| if at == 5 { bad } else { number });
        let (checkpoint, model) = paths(home.path());
        for format in ["mxfp4", "bf16"] {
            let options = ["--experts", format, "--accept-rounding"];
            let base = ["--checkpoint", &checkpoint, "--output", &model];
            let sentence = failure(&[&base[..], &options].concat());
            assert_eq!(
                sentence,
                format!(
                    "`layers.1.mlp.experts.down` holds infinity or NaN, which {format} cannot: the checkpoint is damaged"
                )
            );
        }
    }
}

/// Converted while it is staged, or from a stage: the same bytes.
#[test]
fn stages_hold_converted_experts_or_are_converted() {
    let home = in_folder("bf16");
    let (checkpoint, model) = paths(home.path());
    let stage = |name| text(&home.path().join(name)).to_owned();
    let (plain, converted) = (stage("plain.safetensors"), stage("converted.safetensors"));
    let base = ["--checkpoint", &checkpoint, "--skip-onnx", "--save-weights"];
    let as_they_are = export(&[&base[..], &[&plain]].concat());
    let direct = export(&[&base[..], &[&converted, "--experts", "mxfp4"]].concat());
    assert_ne!(as_they_are["fingerprint"], direct["fingerprint"]);

    let from_converted = export(&["--weights", &converted, "--output", &model, "--target", "ort"]);
    assert_eq!(from_converted["fingerprint"], direct["fingerprint"]);
    assert_eq!(from_converted["weights"]["bytes_written"], 0);
    assert!(logit_errors(Path::new(&model), "onnxruntime", &["2x40"])[0] <= 1e-5);

    let later = export(&["--weights", &plain, "--output", &model, "--experts", "mxfp4"]);
    let blocks = "layers.2.mlp.experts.gate_up.blocks";
    assert_eq!(stored(&written(&later), blocks), stored(Path::new(&converted), blocks));
}

/// Only experts are written; all else stays where it is.
#[test]
fn what_is_not_converted_stays_in_place() {
    let home = in_folder("bf16");
    let (checkpoint, model) = paths(home.path());
    let base = ["--checkpoint", &checkpoint, "--output", &model, "--experts", "mxfp4"];
    let sentence = failure(&[&base[..], &["--external-data", "in-place"]].concat());
    assert!(
        sentence.contains("a weight of the model is what --experts makes of its tensors"),
        "{sentence}"
    );
    let summary = export(&base);
    let experts = 3 * 8 * (256 * 96 + 96 * 128) / 32 * 17;
    let bytes = summary["weights"]["bytes_written"].as_u64().unwrap();
    assert!((experts..experts + 8192).contains(&bytes), "{bytes}");
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 2);

    // What is in the format stays too.
    let home = in_folder("hf");
    let (checkpoint, model) = paths(home.path());
    let summary = export(&["--checkpoint", &checkpoint, "--output", &model, "--experts", "mxfp4"]);
    assert_eq!(summary["weights"]["in_place"], true);
    assert_eq!(summary["experts"]["converted"], Value::Null);
}

/// Two fine-tunes that differ in one sampled number have files of their own.
#[test]
fn a_fingerprint_is_of_what_a_conversion_reads() {
    let fingerprints = [1f32, 2.0].map(|factor| {
        let (home, _) = edited(|at, number| if at == 0 { number * factor } else { number });
        let (checkpoint, model) = paths(home.path());
        let options = ["--experts", "mxfp4", "--accept-rounding"];
        export(&[&["--checkpoint", &*checkpoint, "--output", &model], &options[..]].concat())
            ["fingerprint"]
            .to_string()
    });
    assert_ne!(fingerprints[0], fingerprints[1]);
}

/// People who could have it smaller are told so.
#[test]
fn the_summary_says_what_mxfp4_would_save() {
    let home = in_folder("bf16");
    let (checkpoint, model) = paths(home.path());
    let say = |options: &[&str]| {
        let base = ["--checkpoint", &*checkpoint, "--output", &*model];
        let output = crate::support::run(&[&base[..], options].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = say(&[]);
    assert!(
        plain.contains("experts  1769 kB in bf16\n  --experts mxfp4 makes them 3.8 times smaller"),
        "{plain}"
    );
    let converted = say(&["--experts", "mxfp4"]);
    assert!(
        converted.contains("experts  bf16 to mxfp4, lossless: all 884736 numbers bit for bit\n")
            && !converted.contains("times smaller"),
        "{converted}"
    );
}

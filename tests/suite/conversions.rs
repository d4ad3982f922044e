//! Experts put into another format: bit for bit, or refused, or rounded as
//! little as can be when that is accepted.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::derived::{self, LAYOUTS, Tensor, config, encoded, home, in_folder, in_layout};
use crate::support::{contents, export, failure, fixture, logit_errors, python, text};

/// Both matrices of the experts of a layer, under canonical names and OpenAI's.
pub const MATRICES: [(&str, &str); 2] = [("gate_up", "mlp1_weight"), ("down", "mlp2_weight")];

/// What there is to be exported, and where to.
pub fn paths(home: &Path) -> (String, String) {
    let path = |name| text(&home.join(name)).to_owned();
    (path("checkpoint"), path("model.onnx"))
}

/// A tensor of a weights file.
pub fn stored(file: &Path, name: &str) -> Tensor {
    let bytes = fs::read(file).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let view = whole.tensor(name).unwrap_or_else(|_| panic!("{} lacks {name}", file.display()));
    (view.dtype(), view.shape().to_vec(), view.data().to_vec())
}

pub fn written(summary: &Value) -> PathBuf {
    summary["weights"]["written"][0].as_str().unwrap().into()
}

/// The bits of a layer's numbers, as the tiny model has them.
pub fn original(layer: usize, matrix: &str) -> (Vec<usize>, Vec<u32>) {
    let tiny = derived::tiny();
    let part = |part| &tiny[&format!("block.{layer}.mlp.{matrix}.{part}")];
    let (shape, numbers) = derived::dequantized(part("blocks"), part("scales"));
    (shape, numbers.iter().map(|number| number.to_bits()).collect())
}

pub fn bits_of_mxfp4(file: &Path, layer: usize, matrix: &str) -> (Vec<usize>, Vec<u32>) {
    let part = |part: &str| stored(file, &format!("layers.{layer}.mlp.experts.{matrix}.{part}"));
    let (shape, numbers) = derived::dequantized(&part("blocks"), &part("scales"));
    (shape, numbers.iter().map(|number| number.to_bits()).collect())
}

#[test]
fn what_was_dequantized_becomes_mxfp4_again_bit_for_bit() {
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
fn any_layout_becomes_numbers_an_output_a_row() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        for (format, dtype) in [("bf16", Dtype::BF16), ("f16", Dtype::F16), ("f32", Dtype::F32)] {
            let (checkpoint, model) = paths(home.path());
            let options = ["--experts", format, "--target", "ort"];
            let summary = export(
                &[&["--checkpoint", &checkpoint, "--output", &model], &options[..]].concat(),
            );
            // It has the format already, an output a row: it stays where it is.
            if format == "bf16" && ["split", "linears"].contains(&layout) {
                assert_eq!(summary["experts"]["converted"], Value::Null);
            }
            let file = written(&summary);
            for layer in 0..3 {
                for (ours, theirs) in MATRICES {
                    let found = stored(&file, &format!("layers.{layer}.mlp.experts.{ours}.weight"));
                    let (expected, bits) = original(layer, theirs);
                    let numbers: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
                    let wanted = (dtype, expected, encoded(&numbers, dtype));
                    assert!(found == wanted, "{layout} to {format}");
                }
            }
            let error = logit_errors(Path::new(&model), "onnxruntime", &["2x40"])[0];
            assert!(error <= 1e-5, "{layout} to {format}: {error:e}");
        }
    }
}

/// The checkpoint with F32 experts, each number of one tensor edited.
pub fn edited(edit: impl Fn(usize, f32) -> f32) -> (tempfile::TempDir, Vec<f32>) {
    edited_in("f32", Dtype::F32, edit)
}

/// The same in another layout, whose experts have this dtype.
fn edited_in(
    layout: &str,
    dtype: Dtype,
    edit: impl Fn(usize, f32) -> f32,
) -> (tempfile::TempDir, Vec<f32>) {
    let (mut tensors, exact) = (in_layout(layout), in_layout("f32"));
    let name = "model.layers.1.mlp.experts.down_proj";
    let numbers = exact[name].2.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let numbers: Vec<f32> = numbers.enumerate().map(|(at, number)| edit(at, number)).collect();
    tensors.get_mut(name).unwrap().2 = derived::encoded(&numbers, dtype);
    (home(&config(), &tensors), numbers)
}

/// How many of a matrix' numbers MXFP4 changes at least squared error, and that
/// error: every code under every scale is tried for each block of 32 inputs.
fn rounded(numbers: &[f32], [experts, inn, out]: [usize; 3]) -> (usize, f64) {
    const VALUES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    // Of two codes as near as each other the even one, which is earlier here.
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let nearest = |number: f64, scale: f64| {
        let values = ORDER.map(|code| VALUES[code] * scale);
        let off = |value: &f64| (value - number.abs()).abs();
        values.into_iter().min_by(|one, other| off(one).total_cmp(&off(other))).unwrap()
    };
    let (mut changed, mut error) = (0, 0.0);
    for (expert, out_at, group) in (0..experts)
        .flat_map(|e| (0..out).flat_map(move |o| (0..inn / 32).map(move |group| (e, o, group))))
    {
        let at = |i: usize| (expert * inn + group * 32 + i) * out + out_at;
        let block: Vec<f64> = (0..32).map(|i| f64::from(numbers[at(i)])).collect();
        let attempt = |exponent: i32| {
            let scale = 2f64.powi(exponent);
            let back = block.iter().map(|number| nearest(*number, scale).copysign(*number));
            let off: Vec<f64> =
                block.iter().zip(back).map(|(number, back)| number - back).collect();
            let error: f64 = off.iter().map(|off| off * off).sum();
            (error, off.into_iter().filter(|off| *off != 0.0).count())
        };
        let best = (-20..10).map(attempt).min_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
        error += best.0;
        changed += best.1;
    }
    (changed, error)
}

#[test]
fn rounding_is_refused_until_it_is_accepted() {
    let (home, numbers) = edited(|at, number| number * (1.0 + (at % 7) as f32 / 100.0));
    let (checkpoint, model) = paths(home.path());
    let before = contents(home.path());
    let base = ["--checkpoint", &checkpoint, "--output", &model, "--experts", "mxfp4"];
    let (changed, error) = rounded(&numbers, [8, 128, 96]);
    let squares: f64 = numbers.iter().map(|number| f64::from(*number).powi(2)).sum();
    let error = (error / squares).sqrt();
    assert!(changed > 50_000 && error > 1e-2, "{changed}, {error}");
    assert_eq!(
        failure(&base),
        format!(
            "`layers.1.mlp.experts.down` did not come from mxfp4: it would round {changed} of its 98304 numbers, with a relative error of {error:.2e}; pass --accept-rounding if that will do, or leave out --experts"
        )
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
    for (layout, dtype) in [("f32", Dtype::F32), ("f16", Dtype::F16), ("fp8", Dtype::F8_E5M2)] {
        for bad in [f32::INFINITY, f32::NAN] {
            let (home, _) =
                edited_in(layout, dtype, |at, number| if at == 5 { bad } else { number });
            let sentence = "`layers.1.mlp.experts.down` holds infinity or NaN in 1 of its 98304 numbers: the checkpoint is damaged, use another copy";
            for format in ["mxfp4", "bf16"] {
                assert_eq!(refusal(home.path(), format), sentence, "{layout}");
            }
        }
    }
}

/// Finite numbers that BF16 has no room for are no damage.
#[test]
fn overflow_is_refused_even_so() {
    let (home, _) = edited(|at, number| if at % 1000 == 7 { f32::MAX } else { number });
    assert_eq!(
        refusal(home.path(), "bf16"),
        "`layers.1.mlp.experts.down` goes beyond the largest number of bf16 in 99 of its 98304 numbers, which would become infinity: leave out --experts"
    );
}

/// F16 has room up to 65,504.
#[test]
fn f16_overflows_earlier() {
    let (home, _) = edited(|at, number| if at == 7 { 70_000.0 } else { number });
    let sentence = refusal(home.path(), "f16");
    assert!(sentence.contains("the largest number of f16 in 1 of its 98304 numbers"), "{sentence}");
}

/// Scale 255 makes NaN of its block.
#[test]
fn a_block_of_nan_is_refused() {
    let mut tensors = in_layout("hf");
    tensors.get_mut("model.layers.2.mlp.experts.gate_up_proj_scales").unwrap().2[17] = 255;
    let home = home(&config(), &tensors);
    assert_eq!(
        refusal(home.path(), "bf16"),
        "`layers.2.mlp.experts.gate_up` holds infinity or NaN in 32 of its 196608 numbers: the checkpoint is damaged, use another copy"
    );
}

/// What a conversion says that rounding would not help.
fn refusal(home: &Path, format: &str) -> String {
    let (checkpoint, model) = paths(home);
    let options = ["--experts", format, "--accept-rounding"];
    let sentence =
        failure(&[&["--checkpoint", &*checkpoint, "--output", &model], &options[..]].concat());
    assert!(!Path::new(&model).exists());
    sentence
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
        sentence.ends_with(
            "a weight of the model is converted from its tensors (as by --experts, --dense or --ep cuda); leave --external-data out, and such weights alone go into a file beside the model"
        ),
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

/// The first layers, converted: as when all are.
#[test]
fn some_layers_can_be_converted() {
    let home = in_folder("bf16");
    let (checkpoint, model) = paths(home.path());
    let base = ["--checkpoint", &checkpoint, "--output", &model, "--experts", "mxfp4"];
    let summary = export(&[&base[..], &["--layers", "2"]].concat());
    assert_eq!(summary["experts"]["converted"]["numbers"], 2 * 8 * (256 * 96 + 96 * 128));
    let file = written(&summary);
    for layer in 0..2 {
        for (ours, theirs) in MATRICES {
            assert_eq!(bits_of_mxfp4(&file, layer, ours), original(layer, theirs));
        }
    }
    // The same layers of the model as released.
    let plain = home.path().join("plain.onnx");
    let tiny = fixture("tiny");
    export(&["--checkpoint", text(&tiny), "--output", text(&plain), "--layers", "2"]);
    let ids = fixture("reference/logits-2x40.ids.npy");
    let request = json!({"models": [model, plain], "ids": ids});
    assert!(python("equal.py", &[], &request).as_f64().unwrap() <= 1e-5);
}

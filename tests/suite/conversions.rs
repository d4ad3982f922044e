//! Conversions of experts: bit for bit, refused, or rounded as little as possible if that is
//! accepted.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::layout_fixtures::{
    LAYOUTS, Tensor, config, dequantized, encoded, home, in_folder, in_layout, read, tiny,
};
use crate::support::{Home, assert_contains, assert_ends, assert_starts};

/// Both matrices of the experts of a layer, under canonical names and OpenAI's.
pub const MATRICES: [(&str, &str); 2] = [("gate_up", "mlp1_weight"), ("down", "mlp2_weight")];

/// The matrix that [`edited`] edits, and its size.
const EDITED: &str = "layers.1.mlp.experts.down";
const EDITED_SIZE: usize = 8 * 128 * 96;

fn stored(file: &Path, name: &str) -> Tensor {
    read(file).remove(name).unwrap_or_else(|| panic!("{} lacks {name}", file.display()))
}

pub fn written(summary: &Value) -> PathBuf {
    summary["weights"]["written"][0].as_str().unwrap().into()
}

/// Shape and values, as bits, of a matrix of the tiny model.
pub fn original(layer: usize, matrix: &str) -> (Vec<usize>, Vec<u32>) {
    let tiny = tiny();
    let part = |part| &tiny[&format!("block.{layer}.mlp.{matrix}.{part}")];
    bits(dequantized(part("blocks"), part("scales")))
}

/// The same of a matrix in MXFP4 in a weights file.
pub fn bits_of_mxfp4(file: &Path, layer: usize, matrix: &str) -> (Vec<usize>, Vec<u32>) {
    let part = |part: &str| stored(file, &format!("layers.{layer}.mlp.experts.{matrix}.{part}"));
    bits(dequantized(&part("blocks"), &part("scales")))
}

fn bits((shape, values): (Vec<usize>, Vec<f32>)) -> (Vec<usize>, Vec<u32>) {
    (shape, values.into_iter().map(f32::to_bits).collect())
}

/// What was rounded in a weights file in MXFP4 of a checkpoint whose [`EDITED`] has these values:
/// the number of values, the sum of squared errors, and that of squared values.
pub fn differences(file: &Path, edited: &[f32]) -> (u64, f64, f64) {
    let (mut changed, mut error, mut squares) = (0, 0.0, 0.0);
    for (layer, (ours, theirs)) in (0..3).flat_map(|n| MATRICES.map(|it| (n, it))) {
        let (shape, found) = bits_of_mxfp4(file, layer, ours);
        let [_, out, inn] = shape[..] else { panic!("{shape:?}") };
        let (_, unedited) = original(layer, theirs);
        for (at, bits) in found.into_iter().enumerate() {
            let (expert, row, column) = (at / (out * inn), at / inn % out, at % inn);
            let was = match (layer, ours) {
                // It is `[experts, in, out]`.
                (1, "down") => edited[(expert * inn + column) * out + row],
                _ => f32::from_bits(unedited[at]),
            };
            changed += u64::from(was.to_bits() != bits);
            error += (f64::from(was) - f64::from(f32::from_bits(bits))).powi(2);
            squares += f64::from(was).powi(2);
        }
    }
    (changed, error, squares)
}

#[test]
fn dequantized_experts_become_mxfp4_again_bit_for_bit() {
    for layout in LAYOUTS.into_iter().filter(|layout| *layout != "hf") {
        let home = in_folder(layout);
        let copy = ["--experts", "mxfp4", "--external-data", "copy"];
        let (_, summary) = home.export("model", &copy);
        let experts = &summary["experts"];
        assert_eq!(experts["format"], "mxfp4");
        assert_eq!(experts["converted"]["lossless"], true);
        let packed = if layout == "mixed" { 2 * 256 * 96 + 2 * 96 * 128 } else { 0 };
        let numbers = 8 * (3 * (256 * 96 + 96 * 128) - packed);
        assert_eq!(experts["converted"]["numbers"], numbers);
        assert_original(&written(&summary), 3);
        // The other target converts again, and finds the same file.
        let (_, summary) = home.export("ort", &[&copy[..], &["--target", "ort"]].concat());
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_eq!(summary["experts"]["converted"]["lossless"], true);
    }
}

/// Asserts that the experts of a weights file in MXFP4 are the tiny model's.
fn assert_original(file: &Path, layers: usize) {
    for layer in 0..layers {
        for (ours, theirs) in MATRICES {
            assert_eq!(bits_of_mxfp4(file, layer, ours), original(layer, theirs));
        }
    }
}

#[test]
fn every_layout_becomes_floats_with_a_row_for_each_output() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        for (format, dtype) in [("bf16", Dtype::BF16), ("f16", Dtype::F16), ("f32", Dtype::F32)] {
            let options = ["--experts", format, "--target", "ort", "--external-data", "copy"];
            let (_, summary) = home.export("model", &options);
            let in_order = ["split", "linears", "mlx", "numbers"].contains(&layout);
            let is_converted = format != "bf16" || !in_order;
            assert_eq!(summary["experts"]["converted"] != Value::Null, is_converted);
            let file = written(&summary);
            for (layer, (ours, theirs)) in (0..3).flat_map(|n| MATRICES.map(|it| (n, it))) {
                let found = stored(&file, &format!("layers.{layer}.mlp.experts.{ours}.weight"));
                let (shape, bits) = original(layer, theirs);
                let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
                let expected = (dtype, shape, encoded(&values, dtype));
                assert!(found == expected, "{layout} to {format}");
            }
        }
    }
}

/// The checkpoint with F32 experts, with each value of one matrix edited; and these values.
pub fn with_values(edit: impl Fn(usize, f32) -> f32) -> (Home, Vec<f32>) {
    values_in("f32", Dtype::F32, edit)
}

/// The same in another layout, whose experts have this dtype.
fn values_in(layout: &str, dtype: Dtype, edit: impl Fn(usize, f32) -> f32) -> (Home, Vec<f32>) {
    let (mut tensors, exact) = (in_layout(layout), in_layout("f32"));
    let name = format!("model.{EDITED}_proj");
    let values = exact[&name].2.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let values: Vec<f32> = values.enumerate().map(|(at, value)| edit(at, value)).collect();
    tensors.get_mut(&name).unwrap().2 = encoded(&values, dtype);
    (home(&config(), &tensors), values)
}

/// Rounding is at least squared error, which the tests of `tensor` hold.
#[test]
fn rounding_must_be_accepted_and_is_reported() {
    let (home, values) = with_values(|at, value| value * (1.0 + (at % 7) as f32 / 100.0));
    let refusal = home.refusal("model", &["--experts", "mxfp4"]);
    let options = ["--experts", "mxfp4", "--accept-rounding"];
    let (_, summary) = home.export("model", &options);

    let (changed, error, all_squares) = differences(&written(&summary), &values);
    let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    let relative_error = (error / squares).sqrt();
    assert!(changed > 50_000 && relative_error > 1e-2, "{changed}, {relative_error}");
    let expected = format!(
        "`{EDITED}` does not fit mxfp4 exactly: {changed} of {EDITED_SIZE} values would be rounded, with a relative error of {relative_error:.2e}: the experts must keep their format, or the rounding must be accepted; pass --accept-rounding"
    );
    assert_eq!(refusal, expected);
    let (converted, expected) = (&summary["experts"]["converted"], (error / all_squares).sqrt());
    assert_eq!((&converted["lossless"], &converted["rounded"]), (&json!(false), &json!(changed)));
    let reported = converted["relative_error"].as_f64().unwrap();
    assert!((reported - expected).abs() < 1e-4 * expected, "{reported} is not {expected}");
}

#[test]
fn finds_single_rounded_value() {
    let (home, _) = with_values(|at, value| if at == 70_001 { value + 1e-6 } else { value });
    for format in ["mxfp4", "bf16"] {
        let expected = format!("does not fit {format} exactly: 1 of {EDITED_SIZE} values would");
        assert_contains(&home.refusal("model", &["--experts", format]), &expected);
    }
}

/// The sentence that refuses a conversion whatever rounding is accepted.
fn refusal(home: &Home, format: &str) -> String {
    home.refusal("model", &["--experts", format, "--accept-rounding"])
}

#[test]
fn refuses_infinite_and_nan_values() {
    let saved = "become infinite, or use another copy";
    let damaged = "use another copy, or an earlier checkpoint if training has diverged";
    for (layout, dtype) in [("f32", Dtype::F32), ("f16", Dtype::F16), ("fp8", Dtype::F8_E5M2)] {
        for bad in [f32::INFINITY, f32::NAN] {
            let (home, _) =
                values_in(layout, dtype, |at, value| if at == UNSAMPLED { bad } else { value });
            for format in ["mxfp4", "bf16"] {
                let remedy = if dtype == Dtype::F32 { damaged } else { saved };
                let expected =
                    format!("`{EDITED}`: 1 of {EDITED_SIZE} values is infinite or NaN: ");
                let sentence = refusal(&home, format);
                assert_starts(&sentence, &expected);
                assert_contains(&sentence, remedy);
            }
        }
    }
    // Scale 255 stands for NaN.
    let mut tensors = in_layout("hf");
    tensors.get_mut("model.layers.2.mlp.experts.gate_up_proj_scales").unwrap().2[17] = 255;
    let home = home(&config(), &tensors);
    let expected = "gate_up_proj_scales`: 1 of 6144 values is infinite or NaN: use another copy";
    assert_contains(&refusal(&home, "bf16"), expected);
}

/// Of an element that no sample shows, in a dtype of one byte, two or four.
const UNSAMPLED: usize = 5000;

/// Finite values beyond the largest of BF16, and of F16, which is 65,504.
#[test]
fn refuses_overflow() {
    for (format, large, count) in [("bf16", f32::MAX, 99), ("f16", 70_000.0, 1)] {
        let is_large = |at: usize| at % 1000 == 7 && at < 1000 * count;
        let (home, _) = with_values(|at, value| if is_large(at) { large } else { value });
        let exceed = if count == 1 { "value exceeds" } else { "values exceed" };
        let expected = format!(
            "`{EDITED}`: {count} of {EDITED_SIZE} {exceed} the range of {format} and would become infinite: leave the experts in their format, or choose one of wider range, such as f32"
        );
        assert_eq!(refusal(&home, format), expected);
    }
}

/// Converted while it is staged, or from a staged file: the same bytes.
#[test]
fn staged_files_hold_converted_experts_or_are_converted() {
    let home = in_folder("bf16");
    let (plain, kept) = home.stage("plain", &[]);
    let (converted, direct) = home.stage("converted", &["--experts", "mxfp4"]);
    assert_ne!(kept["fingerprint"], direct["fingerprint"]);

    let (_, from_converted) = home.export_staged(&converted, "model", &["--target", "ort"]);
    assert_eq!(from_converted["fingerprint"], direct["fingerprint"]);
    assert_eq!(from_converted["weights"]["bytes_written"], 0);

    let (_, later) = home.export_staged(&plain, "model", &["--experts", "mxfp4"]);
    let blocks = "layers.2.mlp.experts.gate_up.blocks";
    assert_eq!(stored(&written(&later), blocks), stored(&converted, blocks));
    assert_original(&converted, 3);
}

#[test]
fn unconverted_weights_stay_in_place() {
    let home = in_folder("bf16");
    let options = ["--experts", "mxfp4", "--external-data", "in-place"];
    let expected =
        "in place: a weight of the model is converted from its tensors; pass --external-data auto";
    assert_ends(&home.refusal("model", &options), expected);

    let (_, summary) = home.export("model", &options[..2]);
    let experts = 3 * 8 * (256 * 96 + 96 * 128) / 32 * 17;
    let bytes = summary["weights"]["bytes_written"].as_u64().unwrap();
    assert!((experts..experts + 8192).contains(&bytes), "{bytes}");
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 2);

    // So do experts that have the format already.
    let (_, summary) = in_folder("hf").export("model", &options[..2]);
    assert_eq!(summary["weights"]["in_place"], true);
    assert_eq!(summary["experts"]["converted"], Value::Null);
}

/// Two fine-tunes that differ in one sampled value have weights files of their own.
#[test]
fn fingerprint_depends_on_source_of_conversion() {
    let fingerprints = [1f32, 2.0].map(|factor| {
        let (home, _) = with_values(|at, value| if at == 0 { value * factor } else { value });
        let options = ["--experts", "mxfp4", "--accept-rounding"];
        home.export("model", &options).1["fingerprint"].clone()
    });
    assert_ne!(fingerprints[0], fingerprints[1]);
}

#[test]
fn converts_first_layers_alone() {
    let home = in_folder("bf16");
    let (_, summary) = home.export("model", &["--experts", "mxfp4", "--layers", "2"]);
    let numbers = 2 * 8 * (256 * 96 + 96 * 128);
    assert_eq!(summary["experts"]["converted"]["numbers"], json!(numbers));
    assert_original(&written(&summary), 2);
}

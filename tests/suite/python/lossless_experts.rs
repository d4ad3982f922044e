//! Experts in MXFP4 as other formats hold them without loss: as two digits of 4 bits, and with the
//! scales of NVFP4.

use std::fs;
use std::path::{Path, PathBuf};

use gpt_oss_export::container::Header;
use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_logits, assert_steps, assert_within, python, reference};
use super::verify::{fails, passes};
use crate::conversions::{bits_of_mxfp4, original, written};
use crate::layout_fixtures::{LAYOUTS, edit_tensors, in_folder};
use crate::support::{Home, assert_contains, cases, copy_folder, fixture, paths, text, words};

const FORMATS: [&str; 2] = ["int4x2", "nvfp4"];

/// Models of a checkpoint with the matrices of a role in a format and each of these options, and what
/// their summaries say of these matrices.
pub fn exported_in(
    home: &Home,
    role: &str,
    format: &str,
    options: &[&str],
) -> Vec<(PathBuf, Value)> {
    let export = |(at, options): (usize, &&str)| {
        let option = format!("--{role}");
        let options = [&[&*option, format][..], &words(options)].concat();
        let (model, mut summary) = home.export(&format!("{format}-{at}"), &options);
        let matrices = summary[role].take();
        assert_eq!(matrices["format"], format, "{options:?}");
        (model, matrices)
    };
    options.iter().enumerate().map(export).collect()
}

fn models(home: &Home, format: &str, options: &[&str]) -> Vec<PathBuf> {
    let exact = |(model, experts): (PathBuf, Value)| {
        assert_eq!(experts["rounded"], 0, "{}", model.display());
        model
    };
    exported_in(home, "experts", format, options).into_iter().map(exact).collect()
}

#[test]
fn logits_are_those_of_openais_implementation() {
    let options = [
        "",
        "--kv-cache --functions",
        "--target ort",
        "--target ort --keep-activations",
        "--target ort --external-data copy --max-shard-size 600kB",
    ];
    let references = [
        ("tiny", &["2x40", "1x300"][..]),
        ("tiny-3-heads", &["tiny-3-heads"]),
        ("tiny-1-kv", &["tiny-1-kv"]),
        ("tiny-hf", &["2x40"]),
    ];
    for (format, (fixture, names)) in
        FORMATS.into_iter().flat_map(|it| references.map(|of| (it, of)))
    {
        let home = Home::with(fixture);
        let names: Vec<Value> = names.iter().copied().map(reference).collect();
        // GroupQueryAttention does not support its head_dim.
        let options = if fixture == "tiny-1-kv" { &options[..2] } else { &options };
        assert_logits(&models(&home, format, options), &names);
    }
    for format in FORMATS {
        // Its logits are up to 20.
        let home = Home::with("trained");
        let models = models(&home, format, &options);
        assert_within(5e-5, &models, "onnxruntime", &[reference("trained")]);
    }
    // Integers alone are matrices of a function.
    let home = Home::with("tiny");
    assert_logits(&models(&home, "int4x2", &["--target ort --functions"]), &[reference("2x40")]);
    let sentence = home.refusal("m", &words("--experts nvfp4 --target ort --functions"));
    assert_contains(&sentence, "does not support functions with experts in nvfp4");
}

#[test]
fn standard_operators_compute_the_same_in_every_runtime() {
    let home = Home::with("tiny");
    for format in FORMATS {
        let models = models(&home, format, &[""]);
        assert_within(1e-5, &models, OPENVINO, &[reference("2x40")]);
        // It looks up in tables of at most 64 entries, and E4M3 has 256.
        if format == "int4x2" {
            assert_within(1e-5, &models, "reference", &[reference("2x40")]);
        }
    }
}

/// Steps past the window of 8, of rows of unequal length.
pub fn ways() -> Value {
    json!({"ways": [
        {"rows": [0, 1], "lengths": [1, 1], "steps": 39},
        {"rows": [0], "lengths": [270], "steps": 30},
        {"rows": [0, 1, 1, 0], "lengths": [9, 5, 1, 3], "padding": "left", "steps": 31},
        {"rows": [0, 1, 0], "lengths": [36, 20, 5], "padding": "right", "chunks": 4, "steps": 3},
    ]})
}

#[test]
fn steps_are_exact() {
    let home = Home::with("tiny");
    for format in FORMATS {
        let models = models(&home, format, &["--target ort", "--kv-cache"]);
        assert_steps(1e-5, &models, &["2x40", "1x300"], ways());
    }
}

/// The kernels of both read the same codes, and sum in the same order.
#[test]
fn nvfp4_computes_what_mxfp4_does_bit_for_bit() {
    for (fixture, ids) in
        [("tiny", "1x300"), ("tiny-3-heads", "tiny-3-heads"), ("trained", "trained")]
    {
        let home = Home::with(fixture);
        for compute in ["--target ort", "--target ort --compute f16", ""] {
            let [mxfp4, nvfp4] = ["mxfp4", "nvfp4"].map(|it| models(&home, it, &[compute]));
            let case = json!({"ids": reference(ids)["ids"], "model": mxfp4[0]});
            assert_within(0.0, &nvfp4, "onnxruntime", &[case]);
        }
    }
}

/// Floats that came from MXFP4 become it first, whoever stores them.
#[test]
fn every_layout_becomes_both() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        for format in FORMATS {
            assert_logits(&models(&home, format, &["--target ort", ""]), &[reference("2x40")]);
        }
    }
}

/// Staged files in both formats are verified, and become MXFP4 again bit for bit.
#[test]
fn staged_files_are_read_and_converted() {
    let home = Home::with("tiny");
    for format in FORMATS {
        let (staged, summary) = home.stage(format, &["--experts", format]);
        assert_eq!(summary["experts"]["converted"]["lossless"], true);
        for options in ["--target ort", "--kv-cache"] {
            let (model, summary) = home.export_staged(&staged, "m", &words(options));
            assert_eq!(summary["weights"]["bytes_written"], 0);
            for source in [&staged, &home.checkpoint()] {
                let report = passes(&model, source, &[]);
                assert_eq!(report["weights"]["different"], json!([]));
            }
        }
        let (_, summary) = home.export_staged(&staged, "again", &["--experts", "mxfp4"]);
        assert_eq!(summary["experts"]["converted"]["lossless"], true);
        for (layer, matrix) in (0..3).flat_map(|n| [("gate_up", 1), ("down", 2)].map(|it| (n, it)))
        {
            let (shape, found) = bits_of_mxfp4(&written(&summary), layer, matrix.0);
            let (_, expected) = original(layer, &format!("mlp{}_weight", matrix.1));
            // Digits have one zero.
            let without_sign = |bits: &u32| if *bits == 1 << 31 { 0 } else { *bits };
            let is_same = found.iter().map(without_sign).eq(expected.iter().map(without_sign));
            assert!(is_same, "{format} {layer} {matrix:?} {shape:?}");
        }
    }
}

/// A Loop decodes what the operator reads, where adapters change experts, always or in some runs.
#[test]
fn adapters_change_experts_in_both() {
    let home = Home::with("tiny-hf");
    let adapter = home.join("adapter");
    copy_folder(&fixture("lora/experts"), &adapter);
    let added = ["--adapter", text(&adapter)];
    for format in FORMATS {
        let export = |more: &[&str]| {
            let options = [&["--target", "ort", "--experts", format], &added[..], more].concat();
            home.export("m", &options).0
        };
        passes(&export(&[]), &home.checkpoint(), &added);
        let swappable = export(&["--adapter-as", "swappable"]);
        passes(&swappable, &home.checkpoint(), &[]);
        passes(&swappable, &home.checkpoint(), &added);
        let merged = export(&["--adapter-as", "merge", "--accept-rounding"]);
        passes(&merged, &home.checkpoint(), &added);
    }
}

/// The tiny checkpoint with one block whose scale is so many octaves below the largest of its expert,
/// and how many numbers other than 0 it holds.
fn with_span(octaves: u8) -> (Home, u64) {
    let (home, mut count) = (Home::with("tiny"), 0);
    edit_tensors(&home.checkpoint(), |tensors| {
        let codes = tensors["block.1.mlp.mlp2_weight.blocks"].2[17 * 16..18 * 16].to_vec();
        let codes = codes.into_iter().flat_map(|byte| [byte & 7, byte >> 4 & 7]);
        count = codes.filter(|code| *code > 0).count() as u64;
        let (_, shape, scales) = tensors.get_mut("block.1.mlp.mlp2_weight.scales").unwrap();
        let of_expert = scales.len() / shape[0];
        let largest = *scales[..of_expert].iter().max().unwrap();
        scales[17] = largest - octaves;
    });
    (home, count)
}

#[test]
fn scales_beyond_nvfp4_are_refused_or_counted() {
    let (home, _) = with_span(17);
    let model = models(&home, "nvfp4", &["--target ort"]).remove(0);
    passes(&model, &home.checkpoint(), &[]);

    let (home, count) = with_span(18);
    let sentence = format!(
        "`layers.1.mlp.experts.down` does not fit nvfp4 exactly: {count} of 98304 values would be rounded, with a relative error of "
    );
    let table = "--target ort --experts nvfp4
        --for cuda
        --for cuda --experts nvfp4";
    for [options] in cases(table) {
        let refusal = home.refusal("m", &words(options));
        assert_contains(&refusal, &sentence);
        assert_contains(&refusal, "; pass --experts nvfp4 --accept-rounding");
        let accepted = words("--experts nvfp4 --accept-rounding");
        let rest = words(options.trim_end_matches("--experts nvfp4"));
        let (_, summary) = home.export("m", &[rest, accepted].concat());
        assert_eq!(summary["experts"]["rounded"], count, "{options}");
        assert!(summary["experts"]["relative_error"].as_f64().unwrap() < 1e-5);
    }
    // The reference then reads the model's values.
    let (model, _) = home.export("m", &words("--target ort --experts nvfp4 --accept-rounding"));
    let report = passes(&model, &home.checkpoint(), &[]);
    assert_eq!(report["tolerance"]["from"], "own_numbers");
    // Digits hold any scales.
    passes(&models(&home, "int4x2", &["--target ort"])[0], &home.checkpoint(), &[]);
}

/// A byte of each tensor that a conversion makes.
#[test]
fn verify_finds_every_wrong_byte() {
    let parts = ["digits", "digit_scales", "block_scales", "global_scale"];
    let mut found = Vec::new();
    for format in FORMATS {
        let home = Home::with("tiny");
        let model = models(&home, format, &["--target ort"]).remove(0);
        let weights = paths(&home).into_iter().find(|path| is_weights(path)).unwrap();
        let whole = fs::read(&weights).unwrap();
        for part in parts {
            let name = format!("layers.1.mlp.experts.down.{part}");
            let header = Header::read(&weights).unwrap();
            let Some(tensor) = header.tensors.iter().find(|it| it.name == name) else { continue };
            let mut wrong = whole.clone();
            wrong[tensor.data.range.end as usize - 1] ^= 8;
            fs::write(&weights, wrong).unwrap();
            let (report, _) = fails(&model, &home.checkpoint(), &[]);
            assert_eq!(report["weights"]["different"], json!([name]));
            found.push(part);
        }
    }
    assert_eq!(found, parts);
}

fn is_weights(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("weights-"))
}

/// CUDA's graph computes with the nodes that a CPU runs, over the checkpoint's own bytes of codes.
#[test]
fn cuda_gets_the_codes_of_the_checkpoint_in_place() {
    let home = Home::with("tiny-128");
    let (model, summary) = home.export("cuda", &["--for", "cuda"]);
    assert_eq!(summary["experts"]["format"], "nvfp4");
    // Codes of 8 bytes for 16 numbers stay; their scales take a byte.
    let numbers = summary["experts"]["numbers"].as_u64().unwrap();
    let written = summary["weights"]["bytes_written"].as_u64().unwrap();
    assert!((numbers / 16..numbers / 16 + 8192).contains(&written), "{written} for {numbers}");
    let found = python("check.py", &[text(&model), "--structure-only"], &Value::Null);
    let stored = found["external"].as_array().unwrap();
    let dims = |part: &str| {
        let name = format!("layers.0.mlp.experts.gate_up.{part}");
        stored.iter().find(|it| it["name"] == name.as_str()).unwrap()["dims"].clone()
    };
    let dims = ["pairs", "block_scales", "global_scale"].map(dims);
    assert_eq!(dims, [json!([4, 128, 128]), json!([4, 256, 8]), json!([4])]);
}

//! Files of adapters for ONNX Runtime, and models that these are made for: what `inspect` says, and
//! what is refused.

use std::fs;

use gpt_oss_export::checkpoint::IgnoredNames;
use gpt_oss_export::inspect::{self as library, Filter};
use safetensors::Dtype;
use serde_json::json;

use crate::adapter_exports::{export_in, with_adapters};
use crate::adapters::{CONFIG, WEIGHTS, copied, edit_config, edit_tensors};
use crate::inspect::{inspect, printed_report};
use crate::sizes::write_sparse;
use crate::support::{Home, assert_contains, edit_json, failure, fixture, printed, sentence, text};
use crate::swappable::{SWAPPABLE, adapter_in};

/// A rank of two millions, in a file that takes no space.
#[test]
fn refuses_more_than_the_format_holds() {
    let home = copied("attention");
    let rank = 1 << 21;
    edit_config(&home, "r", json!(rank));
    let name = |factor: &str| {
        format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{factor}.weight")
    };
    let tensors = vec![
        (name("A"), Dtype::BF16, vec![rank, 96], Vec::new()),
        (name("B"), Dtype::BF16, vec![256, rank], Vec::new()),
    ];
    write_sparse(&home.join("adapter").join(WEIGHTS), tensors);
    let before = fs::read_dir(&*home).unwrap().count();
    let refused = export_in(&home, &format!("{SWAPPABLE} --adapter adapter")).unwrap_err();
    assert_contains(
        &refused,
        "cannot write `adapter.onnx_adapter`: the adapter takes 2952790016 bytes, and a file of ONNX Runtime's format holds less than 2147483647: a model can have it inline",
    );
    assert_eq!(fs::read_dir(&*home).unwrap().count(), before);
}

#[test]
fn refuses_factors_that_are_not_finite() {
    for value in [f32::NAN, f32::INFINITY, f32::MAX] {
        let home = copied("attention");
        edit_tensors(&home, |tensors| {
            let name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
            tensors.get_mut(name).unwrap().2[..4].copy_from_slice(&value.to_le_bytes());
        });
        let refused = export_in(&home, &format!("{SWAPPABLE} --adapter adapter")).unwrap_err();
        assert_contains(
            &refused,
            "cannot convert `adapter/adapter_model.safetensors`: the factors of `layers.1.attn.v` have values that are infinite, NaN, or beyond float32 once they are scaled",
        );
    }
}

#[test]
fn inspect_describes_files_of_adapters() {
    let minimal = fixture("lora/minimal.onnx_adapter");
    let report = inspect(&minimal, &["--tensors", "*"]);
    assert_eq!(report["kind"], "onnx_adapter");
    let numbers = ["format_version", "adapter_version", "model_version", "bytes", "count"];
    assert_eq!(numbers.map(|key| report[key].as_i64().unwrap()), [1, 3, 7, 32, 2]);
    let bytes = fs::read(&minimal).unwrap();
    for (tensor, (name, shape, values)) in report["tensors"].as_array().unwrap().iter().zip([
        ("a.A", json!([2, 3]), &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0][..]),
        ("b", json!([2, 1]), &[1.0, 2.0]),
    ]) {
        assert_eq!(
            [&tensor["name"], &tensor["shape"], &tensor["dtype"]],
            [&json!(name), &shape, &json!("f32")]
        );
        let start = tensor["places"][0]["offset"].as_u64().unwrap() as usize;
        let expected: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(bytes[start..][..expected.len()], expected);
    }
    let home = with_adapters("tiny-hf", &["patterns"]);
    export_in(&home, &format!("{SWAPPABLE} --adapter patterns")).unwrap();
    let shown = printed_report(&home.join("patterns.onnx_adapter"));
    for line in [
        "\nversions  format 1, adapter 1, model 1\n",
        "\n  attn.q              rank 4 6, layers 0 2\n",
        "\n  mlp.experts.down    rank 3, layers 1",
    ] {
        assert_contains(&shown, line);
    }
    // A matrix of which one factor has another name is none that a model changes.
    let path = home.join("patterns.onnx_adapter");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, replaced(&bytes, b"layers.2.attn.q.lora_B", b"layers.2.attn.q.lora_C"))
        .unwrap();
    assert_contains(&printed_report(&path), "\n  attn.q              rank 4, layers 0\n");
}

/// Cut off anywhere, and with each bit the other way.
#[test]
fn broken_files_of_adapters_are_refused_or_described() {
    let home = Home::new();
    let path = home.join("broken.onnx_adapter");
    let bytes = fs::read(fixture("lora/minimal.onnx_adapter")).unwrap();
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        library::inspect(&path, &Filter::default(), &IgnoredNames::default(), None)
    };
    // Behind the last bytes that a field points at.
    let end = (0..=bytes.len()).find(|length| read(&bytes[..*length]).is_ok()).unwrap();
    assert!(bytes.len() - end < 8, "{end} of {} bytes", bytes.len());
    for length in 0..end {
        let error = read(&bytes[..length]).unwrap_err().to_string();
        assert_contains(&error, "is not an adapter for ONNX Runtime, or is truncated: ");
    }
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = read(&flipped);
    }
    fs::write(&path, "<!DOCTYPE html>").unwrap();
    assert_contains(
        &failure(&["inspect", text(&path)]),
        "it does not have the identifier TORT at byte 4",
    );
}

/// The metadata and inputs of a model are not trusted.
#[test]
fn edited_models_are_refused() {
    let home = with_adapters("tiny-hf", &["attention"]);
    export_in(&home, SWAPPABLE).unwrap();
    let model = home.join("m.onnx");
    let bytes = fs::read(&model).unwrap();
    for (from, to, expected) in [
        (
            &br#""hidden_size":96"#[..],
            &br#""hidden_size":95"#[..],
            "must have shape [4, 95] to fit the given base",
        ),
        (
            br#""hidden_size":96"#,
            br#""hidden_size":00"#,
            "its metadata `gpt_oss_export` is not valid",
        ),
        (br#""hidden_size":96"#, br#""hidden_size": 0"#, "must be a whole number from 1"),
        (
            b"layers.0.attn.q.lora_A",
            b"layers.0.attn.Q.lora_A",
            "changes `layers.0.attn.q`, for which",
        ),
    ] {
        let edited = replaced(&bytes, from, to);
        fs::write(&model, edited).unwrap();
        let found = sentence(&mut adapter_in(&home, "attention --for m.onnx -o a.onnx_adapter"));
        assert_contains(&found, expected);
    }
    // The config of an adapter is read as strictly as for an export.
    fs::write(&model, bytes).unwrap();
    edit_json(&home.join("attention").join(CONFIG), |config| config["lora_magic"] = json!(1));
    let arguments = "attention --for m.onnx -o a.onnx_adapter";
    let found = sentence(&mut adapter_in(&home, arguments));
    assert_contains(&found, "--ignore-config-key lora_magic");
    printed(&mut adapter_in(&home, &format!("{arguments} --ignore-config-key lora_magic")));
}

/// All occurrences in bytes replaced by as many bytes.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

//! Weights of zeros, as an interrupted save leaves them: told wherever their bytes are sampled.

use serde_json::Value;

use crate::layout_fixtures::{config, home, in_layout};
use crate::support::{
    Home, assert_contains, binary, cases, copy_folder, export, export_args, fixture, printed, text,
};

/// A checkpoint in which tensors with a part in their names are zeros, but for one byte at `at`.
fn with_zeros(layout: &str, part: &str, at: Option<usize>) -> Home {
    let mut tensors = in_layout(layout);
    for (_, (_, _, data)) in tensors.iter_mut().filter(|(name, _)| name.contains(part)) {
        data.fill(0);
        at.iter().for_each(|at| data[*at] = 1);
    }
    home(&config(), &tensors)
}

#[test]
fn weights_of_zeros_are_told_from_samples() {
    // The layout, which tensors are zero, and which weights are told.
    let table = "hf | lm_head | lm_head.weight
        hf | layers.1.mlp.experts.down_proj_blocks | layers.1.mlp.experts.down.blocks
        hf | layers.1.mlp.experts.down_proj_scales | layers.1.mlp.experts.down.scales
        bf16 | layers.2.mlp.router.weight | layers.2.mlp.router.weight
        bf16 | mlp.experts.gate_up_proj | layers.0.mlp.experts.gate_up.weight_t layers.1.mlp.experts.gate_up.weight_t layers.2.mlp.experts.gate_up.weight_t
        linears | layers.0.mlp.experts. | layers.0.mlp.experts.down.weight layers.0.mlp.experts.gate_up.weight
        hf | model.norm.weight | norm.scale
        hf | embed_tokens | embedding.weight
        hf | bias |
        hf | sinks |";
    for [layout, part, expected] in cases(table) {
        let home = with_zeros(layout, part, None);
        let expected: Vec<&str> = expected.split_whitespace().collect();
        let said = |it: &Value| {
            let zeros = it["zeros"].as_array().cloned().unwrap_or_default();
            assert_eq!(zeros, expected, "{layout} {part}");
        };
        said(&home.export("m", &[]).1);
        said(&home.export("copied/m", &["--external-data", "copy"]).1);
        said(&export(&["inspect", text(&home.checkpoint())]));
        if layout == "bf16" && part.contains("experts") {
            said(&home.export("converted/m", &["--experts", "mxfp4"]).1);
        }
        let (staged, summary) = home.stage("w", &[]);
        said(&summary);
        said(&export(&["inspect", text(&staged)]));
        said(&home.export_staged(&staged, "n", &[]).1);
        let model = home.join("m.onnx");
        let printed_by = |arguments: &[&str]| printed(&mut binary(arguments));
        for shown in [
            printed_by(&export_args(&home.checkpoint(), &model, &[])),
            printed_by(&["inspect", text(&home.checkpoint())]),
        ] {
            let zero = shown.lines().find(|it| it.starts_with("ZERO"));
            assert_eq!(zero.is_some(), !expected.is_empty(), "{shown}");
            expected.iter().for_each(|name| assert_contains(zero.unwrap(), &format!("`{name}`")));
        }
    }
}

/// A number in any sample is enough: in the first bytes, in the middle, in the last.
#[test]
fn weights_with_some_numbers_are_not_told() {
    let bytes = in_layout("hf")["lm_head.weight"].2.len();
    for at in [0, bytes / 2, bytes - 1] {
        let home = with_zeros("hf", "lm_head", Some(at));
        assert!(home.export("m", &[]).1.get("zeros").is_none(), "{at}");
    }
    // Of a scan nothing is left to be told from samples.
    let home = with_zeros("hf", "lm_head", None);
    let scanned = printed(&mut binary(&["inspect", "--scan", text(&home.checkpoint())]));
    assert_contains(&scanned, "lm_head.weight: all bytes are 0");
    assert!(!scanned.contains("sampled"), "{scanned}");
    assert_contains(
        &scanned,
        "next        download the files again, unless these zeros are intended",
    );
}

/// Training begins with factors of zeros.
#[test]
fn factors_of_zeros_are_not_told() {
    let home = Home::with("tiny-hf");
    copy_folder(&fixture("lora/attention"), &home.join("adapter"));
    let weights = home.join("adapter/adapter_model.safetensors");
    let mut tensors = crate::layout_fixtures::read(&weights);
    tensors.iter_mut().filter(|(name, _)| name.contains("lora_B")).for_each(|(_, it)| it.2.fill(0));
    crate::layout_fixtures::write(&weights, &tensors);
    let adapter = home.join("adapter");
    for way in ["inline", "merge"] {
        let (_, summary) = home.export(way, &["--adapter", text(&adapter), "--adapter-as", way]);
        assert!(summary.get("zeros").is_none(), "{way}");
    }
}

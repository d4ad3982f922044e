//! Weights of zeros, as an interrupted save leaves them, and values that are not finite: told wherever
//! bytes are sampled.

use serde_json::Value;

use crate::layout_fixtures::{config, home, in_layout};
use crate::support::{
    Home, assert_contains, assert_ends, assert_starts, cases, copy_folder, export, export_args,
    failure, fixture, run, staged_args, text, words,
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

/// What an export and an inspection say of the zeros on standard error, whatever output is asked for.
#[track_caller]
fn said(home: &Home, options: &[&str]) -> String {
    let (checkpoint, model) = (home.checkpoint(), home.join("said/m.onnx"));
    let export = |printing| {
        let options = [options, &[printing]].concat();
        let output = run(&export_args(&checkpoint, &model, &options));
        String::from_utf8(output.stderr).unwrap()
    };
    let found = export("--quiet");
    assert_eq!(export("--json"), found);
    if options.is_empty() {
        let inspected = run(&["inspect", text(&checkpoint)]);
        assert_eq!(String::from_utf8(inspected.stderr).unwrap(), found);
    }
    found
}

/// By the model's definition: logits are the same for all tokens, a layer does not see its input, or
/// codes count for nothing.
#[test]
fn zeros_that_leave_nothing_are_refused() {
    // The layout, which tensors are zero, which weights are named, and that which is vital.
    let table = "hf | lm_head | lm_head.weight | lm_head.weight
        hf | model.norm.weight | norm.scale | norm.scale
        hf | embed_tokens | embedding.weight | embedding.weight
        hf | layers.1.input_layernorm | layers.1.attn.norm.scale | layers.1.attn.norm.scale
        bf16 | layers.2.post_attention_layernorm | layers.2.mlp.norm.scale | layers.2.mlp.norm.scale
        hf | layers.1.mlp.experts.down_proj_scales | layers.1.mlp.experts.down.scales | layers.1.mlp.experts.down.scales
        hf | layers.2. | layers.2.attn.k.weight layers.2.attn.norm.scale layers.2.mlp.experts.down.scales | layers.2.attn.norm.scale";
    for [layout, part, expected, vital] in cases(table) {
        let home = with_zeros(layout, part, None);
        let sentence = said(&home, &[]);
        assert_starts(&sentence, "error: ");
        words(expected).iter().for_each(|name| assert_contains(&sentence, &format!("`{name}`")));
        assert_contains(&sentence, "/checkpoint/model.safetensors`: ");
        let end = format!(
            ", and no model works with zeros in `{vital}`: download or copy the files again, or accept the zeros; pass --accept-zeros\n"
        );
        assert_ends(&sentence, &end);
        assert_eq!(said(&home, &["--external-data", "copy"]), sentence);
        let accepted = said(&home, &["--accept-zeros"]);
        assert_starts(&accepted, "warning: ");
        assert_ends(
            &accepted,
            ": download or copy the files again, unless these zeros are intended\n",
        );
        let (staged, _) = home.stage("w", &["--accept-zeros"]);
        let sentence = failure(&staged_args(&staged, &home.join("n.onnx"), &[]));
        assert_contains(&sentence, &format!("no model works with zeros in `{vital}`"));
    }
}

#[test]
fn other_zeros_are_told() {
    // The layout, which tensors are zero, and which weights are told.
    let table = "hf | layers.1.mlp.experts.down_proj_blocks | layers.1.mlp.experts.down.blocks
        hf | layers.1.mlp.experts.down_proj_ | layers.1.mlp.experts.down.blocks layers.1.mlp.experts.down.scales
        hf | layers.0.self_attn.o_proj | layers.0.attn.out.weight
        bf16 | layers.2.mlp.router.weight | layers.2.mlp.router.weight
        bf16 | mlp.experts.gate_up_proj | layers.0.mlp.experts.gate_up.weight_t layers.1.mlp.experts.gate_up.weight_t layers.2.mlp.experts.gate_up.weight_t
        linears | layers.0.mlp.experts. | layers.0.mlp.experts.down.weight layers.0.mlp.experts.gate_up.weight
        hf | bias |
        hf | sinks |";
    for [layout, part, expected] in cases(table) {
        let home = with_zeros(layout, part, None);
        let expected = words(expected);
        let told = |it: &Value| {
            let zeros = it["zeros"].as_array().cloned().unwrap_or_default();
            assert_eq!(zeros, expected, "{layout} {part}");
        };
        told(&home.export("m", &[]).1);
        told(&home.export("copied/m", &["--external-data", "copy"]).1);
        told(&export(&["inspect", text(&home.checkpoint())]));
        if layout == "bf16" && part.contains("experts") {
            told(&home.export("converted/m", &["--experts", "mxfp4"]).1);
        }
        let (staged, summary) = home.stage("w", &[]);
        told(&summary);
        told(&export(&["inspect", text(&staged)]));
        told(&home.export_staged(&staged, "n", &[]).1);
        let sentence = said(&home, &[]);
        assert_eq!(sentence.starts_with("warning: "), !expected.is_empty(), "{sentence}");
        expected.iter().for_each(|name| assert_contains(&sentence, &format!("`{name}`")));
    }
}

/// A number anywhere is enough, where samples show it and where they do not.
#[test]
fn weights_with_some_numbers_are_not_told() {
    let bytes = in_layout("hf")["lm_head.weight"].2.len();
    for at in [0, 6000, bytes / 2, bytes - 1] {
        let home = with_zeros("hf", "lm_head", Some(at));
        assert!(home.export("m", &[]).1.get("zeros").is_none(), "{at}");
        assert_eq!(said(&home, &[]), "");
    }
}

/// Of a weight of which samples show a number that is none: the export of a model in place refuses it
/// as one that copies it, and an inspection without a scan as both.
#[test]
fn sampled_values_that_are_not_finite_are_refused() {
    let diverged = "the values are damaged or their training has diverged, use another copy or an earlier checkpoint";
    let overflow = "become infinite when a model is saved in it, save it again in bf16 or f32, or use another copy";
    // The layout, a tensor, two bytes, how often they are there, and what is said.
    for (layout, part, number, count, expected) in [
        (
            "hf",
            "model.norm.weight",
            [0xc0, 0x7f],
            1,
            "tensor `model.norm.weight`: 1 of 96 values is infinite or NaN: ",
        ),
        (
            "hf",
            "layers.1.self_attn.q_proj.bias",
            [0x80, 0x7f],
            2,
            "q_proj.bias`: 2 of 256 values are infinite or NaN: ",
        ),
        (
            "hf",
            "lm_head.weight",
            [0xff, 0xff],
            320 * 96,
            "lm_head.weight`: 30720 of 30720 values are infinite or NaN: ",
        ),
        (
            "hf",
            "layers.0.mlp.experts.down_proj_scales",
            [0xff, 0x7f],
            1,
            "down_proj_scales`: 1 of 3072 values is infinite or NaN: ",
        ),
        (
            "bf16",
            "layers.0.mlp.experts.gate_up_proj",
            [0x80, 0xff],
            3,
            "gate_up_proj`: 3 of 196608 values are infinite or NaN: ",
        ),
        (
            "f16",
            "layers.0.mlp.experts.down_proj",
            [0x00, 0x7c],
            3,
            "down_proj`: 3 of 98304 values are infinite or NaN: ",
        ),
        ("hf", "norm.weight", [0xc0, 0x7f], 1, "`: samples of "),
    ] {
        let mut tensors = in_layout(layout);
        let damaged =
            tensors.iter_mut().filter(|(name, _)| name.contains(part) && !name.ends_with("_bias"));
        for (_, (_, _, data)) in damaged {
            data.as_chunks_mut().0[..count].fill(number);
        }
        let sentence = said(&home(&config(), &tensors), &[]);
        assert_starts(&sentence, "error: ");
        let expected = if expected.starts_with("`: ") { "; samples of `" } else { expected };
        assert_contains(&sentence, expected);
        assert_contains(&sentence, if layout == "f16" { overflow } else { diverged });
    }
}

/// Training begins with factors of zeros: they are none of the checkpoint's, and change nothing.
#[test]
fn adapters_of_zeros_are_told() {
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
        let warning = summary["adapters"][0]["warning"].as_str().unwrap();
        assert_contains(warning, "adapter_model.safetensors` changes nothing: in every module");
        let model = home.join(way).with_extension("onnx");
        let quiet = ["--quiet", "--adapter", text(&adapter), "--adapter-as", way];
        let output = run(&export_args(&home.checkpoint(), &model, &quiet));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("warning: {warning}\n"));
    }
    let inspected = run(&["inspect", text(&adapter)]);
    assert!(inspected.status.success());
    assert_contains(&String::from_utf8(inspected.stderr).unwrap(), "changes nothing");
}

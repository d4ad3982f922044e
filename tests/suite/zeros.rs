//! Weights of zeros, as an interrupted save leaves them, and values that are not finite: told wherever
//! bytes are sampled.

use serde_json::Value;

use crate::layout_fixtures::{edit_file, in_layout};
use crate::support::{
    Home, assert_contains, assert_ends, assert_starts, cases, copy_folder, export, export_args,
    fixture, run, text, words,
};
use crate::tensor_problems::with;

/// A checkpoint in which tensors with a part in their names are zeros, but for one byte at `at`.
fn with_zeros(layout: &str, part: &str, at: Option<usize>) -> Home {
    with(layout, |tensors| {
        for (_, (_, _, data)) in tensors.iter_mut().filter(|(name, _)| name.contains(part)) {
            data.fill(0);
            at.iter().for_each(|at| data[*at] = 1);
        }
    })
}

/// What an export and an inspection with these options say on standard error, whatever output is asked
/// for. They agree on whether there is a model.
#[track_caller]
fn said(home: &Home, options: &[&str]) -> String {
    let (checkpoint, model) = (home.checkpoint(), home.join("said/m.onnx"));
    let outcome = |arguments: Vec<&str>| {
        let output = run(&arguments);
        (String::from_utf8(output.stderr).unwrap(), output.status.success())
    };
    let found = outcome([&["inspect", text(&checkpoint)], options].concat());
    for printing in [&["--quiet"][..], &["--json"], &["--quiet", "--external-data", "copy"]] {
        let options = [printing, options].concat();
        assert_eq!(outcome(export_args(&checkpoint, &model, &options)), found, "{options:?}");
        assert_eq!(model.exists(), found.1, "{options:?}");
    }
    found.0
}

/// No model works with some zeros, by its definition: logits are the same for all tokens, a layer does
/// not see its input, or codes count for nothing. Those are refused, unless they are ignored.
#[test]
fn weights_of_zeros_are_refused_or_told_from_samples() {
    // The layout, which tensors are zero, with which weights the model cannot work, and which others are
    // told.
    let table = "hf | lm_head | lm_head.weight |
        hf | model.norm.weight | norm.scale |
        hf | embed_tokens | embedding.weight |
        hf | layers.1.input_layernorm | layers.1.attn.norm.scale |
        bf16 | layers.2.post_attention_layernorm | layers.2.mlp.norm.scale |
        hf | layers.1.mlp.experts.down_proj_scales | layers.1.mlp.experts.down.scales |
        hf | layers.1.mlp.experts.down_proj_blocks | | layers.1.mlp.experts.down.blocks
        hf | layers.1.mlp.experts.down_proj_ | | layers.1.mlp.experts.down.blocks layers.1.mlp.experts.down.scales
        hf | layers.0.self_attn.o_proj | | layers.0.attn.out.weight
        hf | layers.1.self_attn | | layers.1.attn.k.weight layers.1.attn.out.weight layers.1.attn.q.weight layers.1.attn.v.weight
        hf | norm | layers.0.attn.norm.scale layers.0.mlp.norm.scale layers.1.attn.norm.scale layers.1.mlp.norm.scale layers.2.attn.norm.scale layers.2.mlp.norm.scale norm.scale |
        bf16 | layers.2.mlp.router.weight | | layers.2.mlp.router.weight
        bf16 | mlp.experts.gate_up_proj | | layers.0.mlp.experts.gate_up.weight_t layers.1.mlp.experts.gate_up.weight_t layers.2.mlp.experts.gate_up.weight_t
        linears | layers.0. | layers.0.attn.norm.scale layers.0.mlp.norm.scale | layers.0.attn.k.weight layers.0.attn.out.weight layers.0.attn.q.weight layers.0.attn.v.weight layers.0.mlp.experts.down.weight layers.0.mlp.experts.gate_up.weight layers.0.mlp.router.weight
        hf | bias | |
        hf | sinks | |";
    for [layout, part, vital, others] in cases(table) {
        let home = with_zeros(layout, part, None);
        let mut expected = [words(vital), words(others)].concat();
        expected.sort_unstable();
        let told = |it: &Value| {
            let zeros = it["zeros"].as_array().cloned().unwrap_or_default();
            assert_eq!(zeros, expected, "{layout} {part}");
        };
        let ignore = if vital.is_empty() { &[][..] } else { &["--ignore-zeros"] };
        told(&home.export("m", ignore).1);
        told(&home.export("copied/m", &[&["--external-data", "copy"], ignore].concat()).1);
        told(&export(&[&["inspect", text(&home.checkpoint())], ignore].concat()));
        if layout == "bf16" && part.contains("experts") {
            told(&home.export("converted/m", &["--experts", "mxfp4"]).1);
        }
        let (staged, summary) = home.stage("w", ignore);
        told(&summary);
        told(&export(&[&["inspect", text(&staged)], ignore].concat()));
        told(&home.export_staged(&staged, "n", ignore).1);
        let stored = in_layout(layout);
        let names_tensors = |line: &str| {
            let (_, names) = line.split_once("s of `").unwrap();
            let (names, _) = names.split_once("` ").unwrap();
            for name in names.split("`, `") {
                assert!(stored.contains_key(name) && name.contains(part), "{name}: {line}");
            }
        };
        if !vital.is_empty() {
            let refused = said(&home, &[]);
            assert_starts(&refused, "error: `");
            assert_contains(&refused, "/checkpoint/model.safetensors`: all bytes of `");
            names_tensors(&refused);
            assert_contains(&refused, "; pass --ignore-zeros\n");
        }
        let ends = [
            (
                vital,
                "without which the model cannot work as trained: download or copy the files again",
            ),
            (others, "download: download or copy the files again, unless these zeros are intended"),
        ];
        let expected = ends.into_iter().filter(|(names, _)| !names.is_empty());
        let (expected, said) = (expected.collect::<Vec<_>>(), said(&home, ignore));
        assert_eq!(said.lines().count(), expected.len(), "{said}");
        for (line, (_, end)) in said.lines().zip(expected) {
            assert_starts(line, "warning: `");
            assert_contains(line, "/checkpoint/model.safetensors`: samples of `");
            names_tensors(line);
            assert_ends(line, end);
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
        assert_eq!(said(&home, &[]), "");
    }
    // Of a scan nothing is left to be told from samples.
    let home = with_zeros("hf", "lm_head", None);
    let scanned = run(&["inspect", "--scan", "--ignore-zeros", text(&home.checkpoint())]);
    let [report, warnings] =
        [scanned.stdout, scanned.stderr].map(|it| String::from_utf8(it).unwrap());
    assert_contains(&report, "lm_head.weight: all bytes are 0");
    assert!(!warnings.contains("warning"), "{warnings}");
}

/// Samples of zeros are no proof: the rows of unused tokens may be zeros, and a vital weight is read
/// before it is refused. A file that only reserves space has nothing but zeros, and is told.
#[test]
fn only_vital_weights_that_are_zeros_in_a_model_with_values_are_refused() {
    let bytes = in_layout("hf")["lm_head.weight"].2.len();
    let home = with_zeros("hf", "lm_head", Some(bytes / 4));
    assert_contains(&said(&home, &[]), "samples of `lm_head.weight` are all zeros");
    let warnings = said(&with_zeros("hf", "", None), &[]);
    assert_starts(&warnings, "warning: `");
    assert_eq!(warnings.lines().count(), 2, "{warnings}");
}

/// Of a weight of which samples show a number that is none: the export of a model in place refuses it
/// as one that copies it, and an inspection without a scan as both.
#[test]
fn sampled_values_that_are_not_finite_are_refused() {
    let diverged =
        "infinite or NaN: use another copy, or an earlier checkpoint if training has diverged";
    let overflow = "infinite or NaN: save the model again in bf16 or f32, as values beyond the range of f16 become infinite, or use another copy";
    let others = "; samples of `layers.0.mlp.norm.scale`, `layers.1.attn.norm.scale`, ";
    // The layout, part of a tensor's name, two bytes, how often they are there, and what is said.
    for (layout, part, number, count, expected) in [
        ("hf", "model.norm.weight", [0xc0, 0x7f], 1, "`model.norm.weight`: 1 of 96 values is "),
        (
            "hf",
            "layers.1.self_attn.q_proj.bias",
            [0x80, 0x7f],
            2,
            "q_proj.bias`: 2 of 256 values are ",
        ),
        (
            "hf",
            "lm_head.weight",
            [0xff, 0xff],
            320 * 96,
            "lm_head.weight`: 30720 of 30720 values are ",
        ),
        (
            "hf",
            "layers.0.mlp.experts.down_proj_scales",
            [0xff, 0x7f],
            1,
            "down_proj_scales`: 1 of 3072 values is ",
        ),
        (
            "bf16",
            "layers.0.mlp.experts.gate_up_proj",
            [0x80, 0xff],
            3,
            "gate_up_proj`: 3 of 196608 values are ",
        ),
        (
            "f16",
            "layers.0.mlp.experts.down_proj",
            [0x00, 0x7c],
            3,
            "down_proj`: 3 of 98304 values are ",
        ),
        ("hf", "layernorm.weight", [0xc0, 0x7f], 1, others),
    ] {
        let is_damaged = |name: &str| name.contains(part) && !name.ends_with("_bias");
        let home = with(layout, |tensors| {
            for (_, (_, _, data)) in tensors.iter_mut().filter(|(name, _)| is_damaged(name)) {
                data.as_chunks_mut().0[..count].fill(number);
            }
        });
        let sentence = said(&home, &[]);
        assert_starts(&sentence, "error: `");
        assert_contains(&sentence, "/checkpoint/model.safetensors`, tensor `");
        assert_contains(&sentence, expected);
        assert_contains(&sentence, if layout == "f16" { overflow } else { diverged });
    }
}

/// Training begins with factors of zeros: they are none of the checkpoint's, and change nothing.
#[test]
fn adapters_of_zeros_are_told() {
    let home = Home::with("tiny-hf");
    copy_folder(&fixture("lora/attention"), &home.join("adapter"));
    let adapter = home.join("adapter");
    edit_file(&adapter.join("adapter_model.safetensors"), |tensors| {
        let factors = tensors.iter_mut().filter(|(name, _)| name.contains("lora_B"));
        factors.for_each(|(_, (_, _, data))| data.fill(0));
    });
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

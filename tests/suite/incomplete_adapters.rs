//! Adapters that are not whole, or that have something in another place: what is said of them.

use std::fs;

use gpt_oss_export::adapter::AdapterFile;
use gpt_oss_export::checkpoint::IgnoredNames;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::adapter_exports::{export_in, with_adapters};
use crate::adapters::{ADAPTERS, WEIGHTS, copied, edit_config, edit_tensors, fit, refusal};
use crate::genai::with_tokenizer;
use crate::inspect::inspect;
use crate::layout_fixtures::renamed;
use crate::support::{
    assert_contains, assert_ends, binary, cases, copy_folder, edit_json, export_args, failure,
    fixture, printed, run, sentence, text, words,
};
use crate::swappable::SWAPPABLE;

/// PEFT loads such an adapter with a warning, and leaves these modules as they are.
#[test]
fn modules_that_only_the_config_names_are_told() {
    let lists = r#"attention | .layers.1. | [] | `model.layers.1.self_attn.k_proj` | `model.layers.1.self_attn.k_proj`
        attention | .layers.2. | [] | | `model.layers.2.self_attn.k_proj`
        attention | .layers.1. | ["layers_to_transform", [0, 2]] | |
        attention | .layers.2. | ["layers_to_transform", 0] | |
        attention | .layers.2. | ["target_modules", ".*\\.[01]\\.self_attn\\.[a-z]_proj"] | |
        attention | .layers.2. | ["target_modules", ".*\\.self_attn\\.[kq]_proj"] | | for `model.layers.2.self_attn.k_proj`, `model.layers.2.self_attn.q_proj`, which
        attention | .layers.2. | ["exclude_modules", ["2.self_attn.q_proj", "k_proj", "o_proj"]] | | for `model.layers.2.self_attn.v_proj`, which
        attention | nothing | ["modules_to_save", ["lm_head", "score"]] | for `lm_head`, which | for `lm_head`, which
        attention | nothing | ["target_parameters", ["0.mlp.experts.down_proj"]] | for `model.layers.0.mlp.experts.down_proj`, which | for `model.layers.0.mlp.experts.down_proj`, which
        whole-modules | .router. | [] | for `model.layers.0.mlp.router`, `model.layers.1.mlp.router`, `model.layers.2.mlp.router`, which | for `model.layers.0.mlp.router`"#;
    for [adapter, dropped, change, alone, with_base] in cases(lists) {
        let home = copied(adapter);
        edit_tensors(&home, |tensors| tensors.retain(|name, _| !name.contains(dropped)));
        let change: Vec<Value> = serde_json::from_str(change).unwrap();
        if let [Value::String(key), value] = &change[..] {
            edit_config(&home, key, value.clone());
        }
        let inspected = inspect(&home.join("adapter"), &[])["warning"].clone();
        let exported = export_in(&home, "--output m.onnx --adapter adapter").unwrap();
        for (warning, expected) in
            [(&inspected, alone), (&exported["adapters"][0]["warning"], with_base)]
        {
            match (warning.as_str(), expected) {
                (None, "") => {}
                (Some(warning), expected) if !expected.is_empty() => {
                    assert_contains(warning, expected);
                }
                (warning, expected) => panic!("{change:?}: {warning:?} in place of {expected:?}"),
            }
        }
    }
    for (adapter, _) in ADAPTERS {
        assert_eq!(
            inspect(&fixture("lora").join(adapter), &[])["warning"],
            Value::Null,
            "{adapter}"
        );
    }
}

/// What lacks below the highest layer is listed, so that one is limited.
#[test]
fn layers_that_no_model_has_are_refused() {
    let home = copied("attention");
    edit_tensors(&home, |tensors| {
        *tensors = renamed(tensors, |name| name.replace(".layers.2.", ".layers.4000000000."));
    });
    assert_contains(
        &failure(&["inspect", text(&home.join("adapter"))]),
        "no GPT-OSS model has, such as `base_model.model.model.layers.4000000000.self_attn.k_proj.",
    );
}

#[test]
fn files_of_other_names_and_other_contents_are_told() {
    let home = copied("attention");
    let adapter = home.join("adapter");
    fs::rename(adapter.join(WEIGHTS), adapter.join("lora.safetensors")).unwrap();
    let expected = format!(
        "`{}` holds no {WEIGHTS}, but `lora.safetensors` with factors of LoRA: rename it to {WEIGHTS}",
        adapter.display()
    );
    for config in [false, true] {
        if config {
            fs::copy(home.join("checkpoint/config.json"), adapter.join("config.json")).unwrap();
        }
        assert_eq!(refusal(&home).sentence(), expected);
        assert_eq!(failure(&["inspect", text(&adapter)]), expected);
    }

    let home = copied("attention");
    fs::copy(fixture("tiny-hf/model.safetensors"), home.join("adapter").join(WEIGHTS)).unwrap();
    let error = refusal(&home);
    assert_contains(
        error.sentence(),
        "and no factors (`lora_`): if it is a whole model, export it",
    );
    assert!(error.remedies().is_empty());

    let home = copied("attention");
    edit_tensors(&home, |tensors| {
        *tensors = [("a.lora_A.weight".to_owned(), (Dtype::F32, vec![1], vec![0; 4]))].into();
    });
    let export = "--output m.onnx --adapter adapter --ignore-tensor a.*";
    let expected = "are ignored, and nothing of the adapter is left: use an adapter of this base";
    assert_contains(&export_in(&home, export).unwrap_err(), expected);
}

#[test]
fn files_of_all_stages_belong_together() {
    let home = with_adapters("tiny-hf", &["attention"]);
    let [one, two] = [1, 2].map(|it| format!("attention.stage-{it}-of-2.onnx_adapter"));
    export_in(&home, &format!("{SWAPPABLE} --stages 2 --adapter attention")).unwrap();
    export_in(&home, SWAPPABLE).unwrap();
    let refused = |model: &str, adapters: &str| {
        let given = words(adapters).into_iter().flat_map(|it| ["--adapter", it]);
        let mut command = binary(&["generate", model, "--ids", "1"]);
        sentence(command.args(given).current_dir(&*home))
    };
    for model in ["m.stage-1-of-2.onnx", "m.onnx"] {
        let expected = format!(
            "`{two}` is the adapter of stage 2 of 2 alone: give those of the other stages too, `{one}`"
        );
        assert_contains(&refused(model, &two), &expected);
    }
    // One sentence for an adapter, whatever the number of its tensors.
    let twice = refused("m.onnx", &format!("./{one} {two} {one}"));
    assert_contains(&twice, "A` too; give one of them; also unfit: ");
    printed(
        binary(&["adapter", "attention", "--for", "m.onnx", "-o", "b.onnx_adapter"])
            .current_dir(&*home),
    );
    assert_contains(
        &refused("m.stage-1-of-2.onnx", &format!("{one} {two} b.onnx_adapter")),
        "also unfit: ",
    );
}

/// PEFT saves an lm_head of a resized vocabulary three times over.
#[test]
fn leaves_out_copies_of_what_is_saved_as_a_whole() {
    let (saved, name) = ("modules_to_save.weight", "base_model.model.lm_head.");
    let home = copied("whole-modules");
    let expected = fit(&home).unwrap().replacements.len();
    let copy = |end: &str, edit: fn(&mut Vec<u8>)| {
        edit_tensors(&home, |tensors| {
            let mut tensor = tensors[&format!("{name}weight")].clone();
            edit(&mut tensor.2);
            tensors.insert(format!("{name}{end}"), tensor);
        });
    };
    copy("original_module.weight", |bytes| bytes.fill(0));
    copy(saved, |_| ());
    assert_eq!(fit(&home).unwrap().replacements.len(), expected);
    copy(saved, |bytes| bytes.fill(0));
    let error = fit(&home).unwrap_err().to_string();
    let expected = "`base_model.model.lm_head.weight` and `base_model.model.lm_head.modules_to_save.weight`, which must be equal and are not: save the adapter again";
    assert_contains(&error, expected);
}

/// Experts that are replaced as a whole, and lost if they are taken out.
#[test]
fn refuses_experts_that_are_saved_as_a_whole() {
    for saved in ["experts", "mlp"] {
        let home = copied("attention");
        edit_config(&home, "modules_to_save", json!([saved]));
        let warning = AdapterFile::open(&home.join("adapter"), &IgnoredNames::default());
        let warning = warning.unwrap().warning(None).unwrap().unwrap();
        assert_contains(&warning, "has nothing for `model.layers.0.mlp.experts.down_proj`");
        edit_tensors(&home, |tensors| {
            let name = "base_model.model.model.layers.0.mlp.experts.gate_up_proj";
            tensors.insert(name.to_owned(), (Dtype::BF16, vec![8, 96, 256], vec![0; 8 * 96 * 512]));
        });
        let error = fit(&home).unwrap_err().to_string();
        let expected = "replaces experts as a whole, with `base_model.model.model.layers.0.mlp.experts.gate_up_proj`, as key `modules_to_save` of its adapter_config.json says, which is not supported: merge it";
        assert_contains(&error, expected);
    }
}

/// The checkpoint's tokenizer is copied, whatever the adapter was trained with.
#[test]
fn tokenizers_of_adapters_are_told_if_they_differ() {
    let home = with_tokenizer();
    let adapter = home.join("adapter");
    copy_folder(&fixture("lora/attention"), &adapter);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(home.checkpoint().join(name), adapter.join(name)).unwrap();
    }
    // Other versions of programs write the same differently.
    edit_json(&adapter.join("tokenizer.json"), |it| it["version"] = json!("2.0"));
    edit_json(&adapter.join("tokenizer_config.json"), |it| it["padding_side"] = json!("left"));
    let options = ["--genai", "--adapter", text(&adapter)];
    let differing = || home.export("out/m", &options).1["genai"]["differing"].clone();
    assert_eq!(differing(), Value::Null);
    edit_json(&adapter.join("tokenizer.json"), |it| {
        it["added_tokens"] = json!([{"id": 319, "content": "<|mine|>"}]);
    });
    fs::write(adapter.join("chat_template.jinja"), "{{ messages[1].content }}").unwrap();
    let expected = ["chat_template.jinja", "tokenizer.json"].map(|name| adapter.join(name));
    assert_eq!(differing(), json!(expected));
    let output = run(&export_args(&home.checkpoint(), &home.join("out/m.onnx"), &options));
    let warning = "adapter/tokenizer.json` differs from the checkpoint's file, which was copied: replace the copy if the adapter was trained with this file\n";
    assert_ends(&String::from_utf8(output.stderr).unwrap(), warning);
}

//! NVIDIA's Puzzle models, whose layers have experts and windows of their own.

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::layout_fixtures::{Tensors, config, drop_experts, home, in_layout};
use crate::support::{Home, assert_contains, cases, export, failure, open, read_json, text, words};

/// The tiny model with windows of 8 and 16 tokens and none, and with 4 experts in the second
/// layer.
pub fn puzzle() -> (Value, Tensors) {
    let (mut config, mut tensors) = (config(), in_layout("hf"));
    for key in ["num_local_experts", "sliding_window", "layer_types"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config["model_type"] = json!("gpt_oss_puzzle");
    config["architectures"] = json!(["GptOssPuzzleForCausalLM"]);
    config["block_configs"] = json!([
        {"num_local_experts": 8, "sliding_window": 8},
        {"num_local_experts": 4, "sliding_window": 16},
        {"num_local_experts": 8, "sliding_window": null},
    ]);
    drop_experts(&mut tensors, 1, 4, true);
    (config, tensors)
}

fn with(edit: impl FnOnce(&mut Value, &mut Tensors)) -> Home {
    let (mut config, mut tensors) = puzzle();
    edit(&mut config, &mut tensors);
    home(&config, &tensors)
}

#[test]
fn reads_experts_and_windows_of_each_layer() {
    let edits: [fn(&mut Value); 5] = [
        |_| {},
        |config| drop(config["block_configs"][2].as_object_mut().unwrap().remove("sliding_window")),
        |config| {
            config["layer_types"] =
                json!(["sliding_attention", "sliding_attention", "full_attention"]);
        },
        // What the base class writes for all layers.
        |config| {
            for (key, value) in
                [("num_local_experts", 128), ("num_experts", 7), ("sliding_window", 128)]
            {
                config[key] = json!(value);
            }
        },
        |config| drop(config.as_object_mut().unwrap().remove("architectures")),
    ];
    for edit in edits {
        let config = open(&with(|config, _| edit(config)).checkpoint()).config;
        assert_eq!(config.experts, [8, 4, 8]);
        assert_eq!(config.windows, [Some(8), Some(16), None]);
    }
}

/// The factor is what the config says, and the context has a length of its own.
#[test]
fn takes_factor_and_context_from_config() {
    for (length, context) in
        [(json!(2048), 2048), (json!(131_072), 131_072), (json!(null), 131_072)]
    {
        let home = with(|config, _| config["max_position_embeddings"] = length);
        let rope = open(&home.checkpoint()).config.rope;
        assert_eq!((rope.factor, rope.context()), (32.0, context));
        let (staged, _) = home.stage("w", &[]);
        let of_staged = &export(&["inspect", text(&staged)])["config"]["rope"];
        assert_eq!(of_staged, &export(&["inspect", text(&home.checkpoint())])["config"]["rope"]);
    }
}

#[test]
fn refuses_blocks_that_it_does_not_understand() {
    let table = r#"/block_configs | null | lacks the key `block_configs`
        /block_configs | {} | `block_configs` must be a list of objects, found {}
        /block_configs | [] | `block_configs` describes 0 layers, `num_hidden_layers` is 3, and the files hold 3: give `block_configs` 3 entries
        /block_configs | [{"num_local_experts": 8}, 1, {}] | must be a list of objects, found [{
        /block_configs/1 | {} | lacks the key `block_configs.1.num_local_experts`
        /block_configs/1/num_local_experts | 0 | `block_configs.1.num_local_experts` must be a whole number from 1
        /block_configs/1/num_local_experts | 3 | experts per token must be at most the number of experts, found 4 of 3
        /block_configs/1/num_local_experts | 5 | gives layer 1 5 experts, and `model.layers.1.mlp.router.weight` has a row for each of 4
        /block_configs/0/sliding_window | -1 | `block_configs.0.sliding_window` must be a whole number from 1
        /block_configs/2/sliding_windw | 8 | an unknown key `block_configs.2.sliding_windw` (did you mean `sliding_window`?): rename it to use its value 8
        /block_configs/2/no_op | true | ; pass --ignore-config-key block_configs.2.no_op
        /layer_types | ["full_attention", "sliding_attention", "full_attention"] | differs in layer 0; it can be ignored if the windows are right; pass --ignore-config-key layer_types
        /layer_types | ["full_attention"] | `layer_types` describes 1 layer, `num_hidden_layers` is 3, and the files hold 3: give `layer_types` 3 entries
        /model_type | "gpt_oss" | `block_configs` can be ignored if all layers are alike; pass --ignore-config-key block_configs
        /per_layer_config | {"0": {}} | `per_layer_config` must be {}, found {"0":{}}: others change layers
        /rope_scaling/factor | null | lacks the key `rope_scaling.factor`"#;
    for [pointer, value, sentence] in cases(table) {
        let home = with(|config, _| {
            let (object, key) = pointer.rsplit_once('/').unwrap();
            let object = config.pointer_mut(object).unwrap();
            let value: Value = value.parse().unwrap();
            match object {
                Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
                object => object[key] = value,
            }
        });
        assert_contains(&failure(&["inspect", text(&home.checkpoint())]), sentence);
    }
    // A key of several blocks is one, and can be ignored as one.
    let home = with(|config, _| {
        for at in 0..3 {
            config["block_configs"][at]["ffn"] = json!({"no_op": false});
        }
    });
    let (checkpoint, key) = (home.checkpoint(), "block_configs.*.ffn");
    let sentence = failure(&["inspect", text(&checkpoint)]);
    assert_contains(&sentence, &format!("an unknown key `{key}`, which"));
    assert_contains(&sentence, &format!("; pass --ignore-config-key '{key}'"));
    export(&["inspect", text(&checkpoint), "--ignore-config-key", key]);
    let home = with(|config, _| config["layer_types"] = json!(["none"]));
    export(&["inspect", text(&home.checkpoint()), "--ignore-config-key", "layer_types"]);
}

/// Calibration for a cache in FP8, under the names that NVIDIA and others give it.
#[test]
fn accepts_scales_of_a_cache() {
    let insert = |tensors: &mut Tensors, name: &str| {
        tensors.insert(name.to_owned(), (Dtype::F32, vec![], vec![0; 4]));
    };
    let attention = "model.layers.1.self_attn.";
    let expected = with(|_, _| {}).fingerprint();
    let names = "q_scale k_scale v_scale q_proj.q_scale k_proj.k_scale v_proj.v_scale";
    let home = with(|_, tensors| {
        words(names).iter().for_each(|name| insert(tensors, &format!("{attention}{name}")));
    });
    assert_eq!(home.fingerprint(), expected);
    for name in [
        "k_scales",
        "k_scale.weight",
        "o_scale",
        "k_proj.v_scale",
        "k_proj.weight_scale",
        "k_proj.input_scale",
        "attn.scale",
    ] {
        let name = format!("{attention}{name}");
        let home = with(|_, tensors| insert(tensors, &name));
        assert_contains(&home.refusal("m", &[]), &format!("`{name}`"));
    }
    let home = with(|_, tensors| insert(tensors, "model.layers.1.mlp.k_scale"));
    assert_contains(&home.refusal("m", &[]), "`model.layers.1.mlp.k_scale`");
}

/// transformers.js has no type of its own for it.
#[test]
fn packages_describe_the_layers() {
    let home = with(|_, _| {});
    let options = ["--transformers-js", "--layers", "2"];
    home.export("web/onnx/model", &options);
    let config = read_json(&home.join("web/config.json"));
    assert_eq!(
        (&config["model_type"], &config["num_hidden_layers"]),
        (&json!("gpt_oss"), &json!(2))
    );
    assert_eq!(config["block_configs"], Value::Null);

    let tokens = json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}).to_string();
    std::fs::write(home.join("checkpoint/generation_config.json"), tokens).unwrap();
    home.export("genai/model", &["--genai", "--target", "ort"]);
    let model = &read_json(&home.join("genai/genai_config.json"))["model"];
    assert_eq!(model["type"], "gptoss");
    // onnxruntime-genai knows one window for all layers: the largest.
    let window = &model["decoder"]["sliding_window"];
    assert_eq!((&window["window_size"], &window["layers"]), (&json!(16), &json!([0, 1])));
}

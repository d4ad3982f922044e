//! Refusals of adapters: one sentence that says what is wrong, and what to do.

use std::fs;

use gpt_oss_export::checkpoint::IgnoredNames;
use gpt_oss_export::error::{Error, Setting};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::adapters::{
    CONFIG, WEIGHTS, copied, edit_config, edit_tensors, fitted, refusal, with_unknown_names,
};
use crate::inspect::inspect;
use crate::layout_fixtures::{Tensors, config, home, in_layout, renamed};
use crate::support::{
    Home, assert_contains, assert_starts, binary, cases, copy_folder, export_args, failure,
    fixture, open, printed, resize, text, words,
};

#[test]
fn refuses_configs_of_other_methods_and_wrong_values() {
    let table = r#"peft_type | "IA3" | key `peft_type` must be "LORA", found "IA3": merge it into its base model (merge_and_unload
        peft_type | "ADALORA" | must be "LORA", found "ADALORA"
        peft_type | "XLORA" | it mixes adapters anew for each text, which no weights can hold; export one of these adapters, or train
        task_type | "SEQ_CLS" | key `task_type` is "SEQ_CLS": the adapter is for a model with another head, and only language models can be exported
        peft_type | "lora" | must be "LORA", found "lora": write it in capitals
        lora_parameters | {"rank": 4} | adapter_config.json` is mlx-lm's config of an adapter, with the key `lora_parameters`: merge it into its base model with mlx_lm.fuse
        use_dora | true | key `use_dora` is set: DoRA scales the rows of the adapted matrices, which is not supported; merge it into
        alora_invocation_tokens | [1, 2] | activated LoRA leaves the tokens before an invocation as they are, which is not supported; PEFT cannot merge it either: train a LoRA adapter without it instead
        arrow_config | {"top_k": 2} | Arrow chooses among adapters for each token, which is not supported; PEFT cannot
        layer_replication | [[0, 2], [1, 3]] | repeats layers of the base, which is not supported; PEFT cannot
        use_qalora | true | QALoRA pools the inputs of its factors, which is not supported; PEFT cannot
        use_bdlora | {"nblocks": 2} | BD-LoRA has factors of blocks, which is not supported; merge it
        kasa_config | {"beta": 0.1} | KaSA truncates
        monteclora_config | {"n": 2} | MonteCLoRA draws
        fan_in_fan_out | true | stored input-major
        megatron_config | {"a": 1} | parallel layers of Megatron
        init_lora_weights | "pissa" | key `init_lora_weights` is "pissa": the adapter belongs to a base that this initialization changed; merge it
        init_lora_weights | "pissa_niter_4" | is "pissa_niter_4": the adapter belongs to a base
        init_lora_weights | "olora" | a base that this initialization changed
        init_lora_weights | "corda" | a base that this initialization changed
        init_lora_weights | "loftq" | a base that this initialization changed
        init_lora_weights | "lora_ga" | a base that this initialization changed
        init_lora_weights | "of next year" | a base that this initialization changed
        r | "4" | key `r` must be a whole number from 1, found "4"
        r | 0 | key `r` must be a whole number from 1, found 0
        r | 8 | `model.layers.0.self_attn.k_proj` has factors of rank 4, and key `r` of adapter_config.json says 8: use the adapter_config.json that was saved with the file, or set `r` to 4, with the `lora_alpha` of its training; also wrong: 11 modules
        rank_pattern | {"q_proj": 2} | `model.layers.0.self_attn.q_proj` has factors of rank 4, and key `rank_pattern` of adapter_config.json says 2: use the adapter_config.json that was saved with the file, or set `q_proj` in `rank_pattern` to 4, with the `lora_alpha` of its training; also wrong: 2 modules
        lora_alpha | "8" | key `lora_alpha` must be a number, found "8"
        lora_alpha | null | adapter_config.json lacks the key `lora_alpha`
        use_rslora | 1 | key `use_rslora` must be true or false, found 1
        alpha_pattern | {"q_proj": "a"} | key `alpha_pattern` must be an object of numbers, found "a"
        alpha_pattern | [1] | adapter_config.json` is invalid: invalid type: sequence, expected an object at
        alpha_pattern | {"(?=q)q_proj": 2} | key `alpha_pattern` has the regular expression "(?=q)q_proj", which is invalid or has lookaround
        alpha_pattern | {"q_proj)": 2} | has the regular expression "q_proj)", which is invalid
        target_parameters | 3 | key `target_parameters` must be a list of names, found 3
        trainable_token_indices | [-1] | key `trainable_token_indices` must be lists of tokens, found [-1]
        base_model_name_or_path | 3 | key `base_model_name_or_path` must be a string, found 3"#;
    for [key, value, expected] in cases(table) {
        let home = copied("attention");
        edit_config(&home, key, value.parse().unwrap());
        let sentence = refusal(&home).to_string();
        assert_contains(&sentence, expected);
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
    assert_contains(&refusal(&copied("dora")).to_string(), "key `use_dora` is set");
    let home = copied("attention");
    let path = home.join("adapter").join(CONFIG);
    let infinite =
        fs::read_to_string(&path).unwrap().replace("\"lora_alpha\": 8", "\"lora_alpha\": NaN");
    fs::write(&path, infinite).unwrap();
    assert_contains(&refusal(&home).to_string(), "adapter_config.json` is not valid JSON");
}

/// Their tensors and keys are those of the method: one sentence says it.
#[test]
fn other_methods_are_one_fault() {
    let table = "IA3 | k_proj.ia3_l | merge it into its base model
        LOHA | q_proj.hada_w1_a | merge it into its base model
        VERA | q_proj.vera_lambda_b | merge it into its base model
        OFT | q_proj.oft_R.weight | merge it into its base model
        PROMPT_TUNING | prompt_embeddings | it adds learned values to prompts, which no weights can hold; train a LoRA adapter
        PREFIX_TUNING | prompt_embeddings | it adds learned values to prompts, which no weights can hold; train a LoRA adapter
        P_TUNING | prompt_embeddings | it adds learned values to prompts, which no weights can hold; train a LoRA adapter";
    for [kind, tensor, expected] in cases(table) {
        let home = copied("attention");
        edit_config(&home, "peft_type", json!(kind));
        edit_config(&home, "num_virtual_tokens", json!(8));
        edit_tensors(&home, |tensors| {
            *tensors = [(tensor.to_owned(), (Dtype::F32, vec![1], vec![0; 4]))].into();
        });
        let error = refusal(&home);
        assert_eq!(error.each().count(), 1, "{error}");
        assert_contains(
            error.sentence(),
            &format!("must be \"LORA\", found \"{kind}\": {expected}"),
        );
    }
    assert_eq!(refusal(&copied("dora")).each().count(), 1);
}

#[test]
fn says_all_that_is_wrong_at_once() {
    let home = copied("attention");
    edit_config(&home, "use_dora", json!(true));
    edit_config(&home, "init_lora_weights", json!("pissa"));
    edit_config(&home, "kasa_config", json!({"a": 1}));
    assert_eq!(refusal(&home).each().count(), 3);

    let home = copied("attention");
    edit_config(&home, "lora_magic", json!(1));
    edit_config(&home, "lora_trick", json!({"a": 1}));
    edit_tensors(&home, |tensors| {
        for name in ["score.weight", "model.vision_tower.0.q_proj.lora_A.weight"] {
            tensors.insert(format!("base_model.model.{name}"), (Dtype::F32, vec![1], vec![0; 4]));
        }
        tensors.retain(|name, _| !name.contains("layers.0.self_attn.q_proj.lora_B"));
    });
    let error = refusal(&home);
    let sentences: Vec<&str> = error.each().map(Error::sentence).collect();
    let expected = [
        "has unknown keys `lora_magic` and `lora_trick`, which can be ignored if they do not change what the model computes",
        "adapts modules that no GPT-OSS model has, such as `base_model.model.model.vision_tower.0.q_proj.lora_A.weight`: use an adapter",
        "holds tensors that adapt nothing in a GPT-OSS model: `base_model.model.score.weight`; use an adapter",
        "has `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` without the factor B of its module: the file is incomplete",
    ];
    assert_eq!(sentences.len(), expected.len(), "{error}");
    expected.iter().zip(sentences).for_each(|(part, sentence)| assert_contains(sentence, part));
    let keys = ["lora_magic", "lora_trick"].map(|key| (Setting::IgnoreConfigKey, key.to_owned()));
    assert_eq!(error.remedies(), [keys]);

    let home = with_unknown_names();
    let ignored = IgnoredNames {
        config_keys: vec!["lora_*".into()],
        tensors: vec!["score.*".into()],
        ..IgnoredNames::default()
    };
    let base = open(&home.checkpoint());
    fitted(&home.join("adapter"), &base, &ignored, None).unwrap();
}

/// `exchange` gives the two factors each other's names, `transpose` turns each. `drop PART` removes the tensors with a part in their names, `rename FROM TO` replaces it,
/// `copy FROM TO` adds renamed copies, `shape END SIZES` cuts or fills a tensor, `dtype END`
/// makes integers of it.
fn apply(edit: &str, tensors: &mut Tensors) {
    let words = words(edit);
    if words[0] == "exchange" {
        let other = |name: &str| {
            let is_a = name.contains("lora_A");
            let [from, to] = if is_a { ["lora_A", "lora_B"] } else { ["lora_B", "lora_A"] };
            name.replace(from, to)
        };
        *tensors = tensors.iter().map(|(name, it)| (other(name), it.clone())).collect();
        return;
    }
    if words[0] == "transpose" {
        return tensors.values_mut().for_each(|(_, shape, _)| shape.reverse());
    }
    if words[0] == "drop" {
        return tensors.retain(|name, _| !name.contains(words[1]));
    }
    if ["rename", "copy"].contains(&words[0]) {
        let renamed = renamed(tensors, |name| name.replace(words[1], words[2]));
        tensors.retain(|name, _| words[0] == "copy" || !name.contains(words[1]));
        return tensors.extend(renamed);
    }
    let mut found = tensors.iter_mut().filter(|(name, _)| name.ends_with(words[1]));
    let (dtype, shape, data) = found.next().unwrap().1;
    if words[0] == "dtype" {
        *dtype = Dtype::I32;
        return;
    }
    let size = data.len() / shape.iter().product::<usize>();
    *shape = words[2..].iter().map(|size| size.parse().unwrap()).collect();
    data.resize(shape.iter().product::<usize>() * size, 0);
}

#[test]
fn refuses_tensors_that_do_not_fit() {
    let table = "attention | drop layers.0.self_attn.q_proj.lora_A | q_proj.lora_B.weight` without the factor A of its module: the file is incomplete, copy it again
        biases | drop lora_A | o_proj.lora_B.weight` without the factor A of its module: the file is incomplete, copy it again; also incomplete: 5 modules
        attention | shape 0.self_attn.q_proj.lora_B.weight 256 3 | q_proj.lora_A.weight` has shape [4, 96] and `base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight` [256, 3], which have different ranks, 4 and 3: use the file that was saved after training
        attention | shape 0.self_attn.q_proj.lora_A.weight 0 | q_proj.lora_A.weight` is empty (shape [0]), as DeepSpeed ZeRO-3 saves weights that were not gathered: save again with `stage3_gather
        attention | exchange | `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight` has shape [64, 4] and `base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight` [4, 96], expected [rank, inputs] and [outputs, rank]: exchange their names if lora_A and lora_B are exchanged, or transpose both; also wrong: 11 modules
        attention | transpose | has shape [96, 4] and `base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight` [4, 64], expected [rank, inputs]
        attention | dtype 0.self_attn.q_proj.lora_A.weight | q_proj.lora_A.weight` must be bf16, f16 or f32, found i32: save the adapter in one of these
        attention | rename .weight .default.weight | has names that are not PEFT's: save the adapter with save_pretrained, of the model inside all wrappers, or rename `base_model.model.model.layers.0.self_attn.k_proj.lora_A.default.weight` to `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`, and the 23 others alike
        attention | rename lora_A lora_down | or rename `base_model.model.model.layers.0.self_attn.k_proj.lora_down.weight` to `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`, and the 11 others alike
        attention | rename base_model.model. base_model.model.base_model.model. | or rename `base_model.model.base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight` to `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`, and the 23 others alike
        whole-modules | rename lm_head.weight lm_head.modules_to_save.default.weight | or rename `base_model.model.lm_head.modules_to_save.default.weight` to `base_model.model.lm_head.weight`
        tokens | rename tokens_delta tokens_delta.default | or rename `base_model.model.lm_head.token_adapter.trainable_tokens_delta.default` to `base_model.model.lm_head.token_adapter.trainable_tokens_delta`, and the 1 other alike
        whole-modules | rename lm_head.weight lm_head.original_module.weight | holds weights of its base model too, in
        embedding | rename embedding_A embedding_A.mine | or rename `base_model.model.model.embed_tokens.lora_embedding_A.mine` to `base_model.model.model.embed_tokens.lora_embedding_A`
        attention | rename base_model. module.base_model. | or rename `module.base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight` to `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`, and the 23 others
        attention | rename self_attn _fsdp_wrapped_module._checkpoint_wrapped_module.self_attn | or rename `base_model.model.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.k_proj.lora_A.weight` to `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`
        attention | rename lora_A loraA | or rename `base_model.model.model.layers.0.self_attn.k_proj.loraA.weight` to `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`, and the 11 others
        attention | rename lora_B lora_b | or rename `base_model.model.model.layers.0.self_attn.k_proj.lora_b.weight` to
        attention | drop lora_ | adapter_model.safetensors` holds no tensors: use the file that was saved after training
        attention | rename layers.2. layers.7. | it adapts `model.layers.7.self_attn.k_proj`, and the given base has 3 layers; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 3 modules
        attention | rename self_attn.q_proj mlp.gate_proj | gate_proj.lora_A.weight` (its config names the base `tiny-hf-bf16`): use an adapter of this base, as save_pretrained of PEFT writes it, or ignore these tensors by name
        attention | rename model.layers model.language_model.layers | adapter_model.safetensors` adapts modules that no GPT-OSS model has, such as `base_model.model.model.language_model.layers.0.self_attn.k_proj.lora_A.weight` (its config names the base `tiny-hf-bf16`): use an adapter of this base, as save_pretrained of PEFT writes it
        attention | rename base_model. lora_unet_ | such as `lora_unet_model.model.layers.0.self_attn.k_proj.lora_A.weight` (its config names the base `tiny-hf-bf16`): use an adapter of this base, as save_pretrained of PEFT writes it
        attention | rename q_proj q_porj | or rename `base_model.model.model.layers.0.self_attn.q_porj.lora_A.weight` to `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, and the 5 others alike
        attention | rename self_attn self_atn | or rename `base_model.model.model.layers.0.self_atn.k_proj.lora_A.weight` to `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`, and the 23 others
        attention | copy q_proj.lora_A mlp.experts.base_layer.gate_up_proj | holds weights of its base model too, in 3 of 27 tensors, such as `
        attention | rename .lora_ .base_layer.lora_ | v_proj.base_layer.lora_B.weight` and 16 more: merge it into
        attention | rename q_proj.lora_A.weight q_proj.ia3_l | q_proj.ia3_l`; use
        attention | rename q_proj.lora_A.weight q_proj.lora_magnitude_vector | q_proj.lora_magnitude_vector`: merge it into
        attention | rename self_attn.q_proj mlp.experts.gate_up_proj | gate_up_proj.lora_A.weight` (its config names the base `tiny-hf-bf16`): use
        embedding | rename lora_embedding_A lora_A.weight | embed_tokens.lora_A.weight`: merge it into
        whole-modules | shape lm_head.weight 330 96 | `base_model.model.lm_head.weight` has shape [330, 96], and the base has a vocabulary of 320, which an adapter cannot resize: call resize_token_embeddings(330) of transformers on the base, load the adapter onto it, merge it
        embedding | shape lora_embedding_A 2 384 | has shape [2, 384], and the base has a vocabulary of 320, which an adapter cannot resize: call resize_token_embeddings(384)
        router-head | shape lm_head.lora_B.weight 384 4 | has shape [384, 4], and the base has a vocabulary of 320
        whole-modules | rename mlp.router.bias mlp.router.gain | mlp.router.gain`; use
        whole-modules | rename lm_head.weight lm_head.bias | the given base has no bias that `base_model.model.lm_head.bias` could replace; give the base
        split | drop down_projs.3. | `model.layers.1.mlp.experts.down_projs.0` is adapted, and not each expert of its layer in the same way: merge it
        split | shape down_projs.3.lora_A.weight 2 128 | down_projs.3.lora_A.weight` has shape [2, 128]
        split | rename down_projs.3. down_projs.9. | `model.layers.1.mlp.experts.down_projs.0` is adapted in up to 10 experts, and the given base has 8; give the base that it was trained on, which it calls `tiny-hf-bf16`
        split | drop down_projs.7. | `model.layers.1.mlp.experts.down_projs.0` is adapted in the first 7 experts, and the given base has 8; give the base that it was trained on, which it calls `tiny-hf-bf16`, or, if that is the given one, merge it into
        tinker-peft | drop experts.0. | `model.layers.1.mlp.experts.1.down_proj` is adapted, and not each expert
        tinker-peft | drop experts.7. | `model.layers.1.mlp.experts.0.down_proj` is adapted in the first 7 experts
        tinker | shape w2.lora_A.weight 4 2 128 | w2.lora_A.weight` must have shape [8, 2, 128] to fit the given base, found [4, 2, 128]
        tokens | shape lm_head.token_adapter.trainable_tokens_delta | lm_head.token_adapter.trainable_tokens_delta` must have shape [1, 96] to fit the given base, found []
        tokens | shape lm_head.token_adapter.trainable_tokens_delta 2 96 | key `trainable_token_indices` of adapter_config.json must list 2 different tokens for `lm_head`, one for each row of the file, found 1: use the adapter_config.json that was saved with the file
        router-head | copy router. router.linear. | `model.layers.0.mlp.router` and `model.layers.0.mlp.router.linear` are the same, keep one of them; also unfit: 2 modules
        tinker | copy experts.w2 experts.0.down_proj | `model.layers.1.mlp.experts.0.down_proj` and `model.layers.1.mlp.experts.w2` are the same";
    for [adapter, edit, expected] in cases(table) {
        let home = copied(adapter);
        edit_tensors(&home, |tensors| apply(edit, tensors));
        assert_contains(refusal(&home).sentence(), expected);
    }
}

#[test]
fn refuses_tokens_and_patterns_that_do_not_fit() {
    let table = r#"tokens | trainable_token_indices | {"embed_tokens": [5, 42, 320], "lm_head": [7]} | lists token 320 for `model.embed_tokens`, and the given base has a vocabulary of 320; give the base
        tokens | trainable_token_indices | {"embed_tokens": [5, 42, 5], "lm_head": [7]} | must list 3 different tokens for `model.embed_tokens`, one for each row of the file, found 2: use
        tokens | trainable_token_indices | [5, 42, 17] | must list 1 different tokens for `lm_head`, one for each row of the file, found 0
        tokens | trainable_token_indices | null | must list 3 different tokens for `model.embed_tokens`, one for each row of the file, found 0: use the adapter_config.json that was saved with the file; also wrong: 1 module
        split | alpha_pattern | {"down_projs.3": 3} | key `alpha_pattern` scales the experts of `layers.1.mlp.experts.down` differently: merge it
        experts | rank_pattern | {"experts.down_proj": 2} | `model.layers.1.mlp.experts.down_proj` has factors of 32 ranks in all, by key `rank_pattern` of adapter_config.json 2 for each of 16 experts, and the given base has 8; give the base that it was trained on, which it calls `tiny-hf-bf16`, or, if that is the given one, the adapter_config.json that was saved with the file, in which the rank is 4; also unfit: 1 module
        experts | rank_pattern | {"experts.down_proj": 5} | `model.layers.1.mlp.experts.down_proj` has factors of 32 ranks for all experts together, no multiple of 5, which key `rank_pattern` of adapter_config.json says: use
        experts | target_parameters | null | has factors for 2 parameters of `model.layers.1.mlp.experts`, and key `target_parameters` of adapter_config.json names 0 of them
        experts | target_parameters | ["1.mlp.experts.down_proj", "2.mlp.experts.down_proj"] | names 1 of them
        experts | target_parameters | ["experts.down_proj", "experts.gate_up_proj_bias"] | adapts a bias of `model.layers.1.mlp.experts` (key `target_parameters` of adapter_config.json), which is not supported
        one-parameter-each | target_parameters | ["1.mlp.experts.gate_up_proj", "0.mlp.experts.down_proj"] | experts.lora_A.weight` must have shape [16, 128] to fit the given base, found [16, 96]; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 1 module
        one-parameter-each | target_parameters | ["experts.gate_up_proj", "experts.down_proj"] | has factors for 1 parameters"#;
    for [adapter, key, value, expected] in cases(table) {
        let home = copied(adapter);
        edit_config(&home, key, value.parse().unwrap());
        assert_contains(refusal(&home).sentence(), expected);
    }
}

#[test]
fn refuses_other_bases() {
    for (base, expected) in [
        (
            "tiny-3-heads",
            "adapter_model.safetensors`: `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight` must have shape [4, 32] to fit the given base, found [4, 96]; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 11 modules",
        ),
        (
            "tiny-1-kv",
            "must have shape [4, 64] to fit the given base, found [4, 96]; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 11 modules",
        ),
        (
            "tiny-128",
            "must have shape [4, 128] to fit the given base, found [4, 96]; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 11 modules",
        ),
        (
            "tiny-square",
            "it adapts `model.layers.2.self_attn.k_proj`, and the given base has 2 layers; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 3 modules",
        ),
    ] {
        let (folder, base) = (fixture("lora/attention"), open(&fixture(base)));
        let error = fitted(&folder, &base, &IgnoredNames::default(), None).unwrap_err();
        assert_contains(&error.to_string(), expected);
    }
    let (mut config, mut tensors) = (config(), in_layout("bf16"));
    config["tie_word_embeddings"] = json!(true);
    tensors.remove("lm_head.weight");
    let base = open(&home(&config, &tensors).checkpoint());
    for (adapter, is_refused) in [
        ("attention", false),
        ("embedding", true),
        ("router-head", true),
        ("tokens", true),
        ("whole-modules", true),
    ] {
        let found = fitted(&fixture("lora").join(adapter), &base, &IgnoredNames::default(), None);
        let expected = "and the base ties its embedding to lm_head: programs differ in whether both change; save the base";
        assert!(
            found.err().map_or(!is_refused, |it| is_refused && it.to_string().contains(expected))
        );
    }
}

#[test]
fn names_what_is_no_adapter() {
    let table = "| | holds no adapter_config.json; an adapter is a folder with adapter_config.json and adapter_model.safetensors
        adapter_config.json | | holds no adapter_model.safetensors; an adapter is
        adapter_config.json adapter_model.bin | | adapter_model.bin` is PyTorch's format, which can run code when it is read: load it in PEFT and save it as SafeTensors
        adapter_config.json adapters.safetensors | | adapters.safetensors` is mlx-lm's format of adapters: merge it into its base model with mlx_lm.fuse
        adapter_config.json 0000100_adapters.safetensors | | `ADAPTER/0000100_adapters.safetensors` is mlx-lm's format
        adapter_config.json adapter_model.pt training_args.bin | | adapter_model.pt` is PyTorch's format, which can run code when it is read: load it in PEFT
        adapter_config.json training_args.bin | | holds no adapter_model.safetensors; an adapter is
        adapter_config.json adapter_model-00001-of-00002.safetensors | | is one of several files of a LoRA adapter, which is read from one: join them
        Adapter_config.json adapter_model.safetensors | | `ADAPTER` holds no adapter_config.json, but `Adapter_config.json`: rename it
        adapter_config.json adapter_model(1).safetensors | | `ADAPTER` holds no adapter_model.safetensors, but `adapter_model(1).safetensors`: rename it
        adapter_config.json adapter.gguf | | adapter.gguf` is GGUF, llama.cpp's format: use the adapter that it was converted from
        adapter_config.json tf_model.h5 | | tf_model.h5` is TensorFlow's format: use the adapter that PEFT saved
        adapter_config.json adapter_model.safetensors.incomplete | | is an unfinished download: download it again
        adapter_config.json adapter.zip | | adapter.zip` is an archive or a compressed file: unpack it
        adapter_config.json adapter.tar.gz | | adapter.tar.gz` is an archive or a compressed file: unpack it
        config.json model.safetensors | | holds no adapter_config.json; it holds a whole model
        config.json model.safetensors logits.npy | | holds no adapter_config.json; it holds a whole model
        adapter_config.json adapter_model.safetensors | | adapter_config.json` is empty, expected an object of JSON";
    for [files, _, expected] in cases(table) {
        let home = Home::with("tiny-hf");
        fs::create_dir(home.join("adapter")).unwrap();
        for file in files.split_whitespace() {
            fs::write(home.join("adapter").join(file), "").unwrap();
        }
        let expected = expected.replace("ADAPTER", text(&home.join("adapter")));
        assert_contains(refusal(&home).sentence(), &expected);
    }
    let table = "checkpoint-9 checkpoint-50 | -50`: choose one, such as the last, `HOME/adapter/checkpoint-50`
        checkpoint-50 final | several folders in it hold LoRA adapters, `HOME/adapter/checkpoint-50`, `HOME/adapter/final`: choose one
        final | `HOME/adapter/final` in it holds a LoRA adapter: use it
        run/final | `HOME/adapter/run/final` in it holds a LoRA adapter: use it
        a b | several folders in it hold LoRA adapters, `HOME/adapter/a`, `HOME/adapter/b`: choose one";
    for [folders, expected] in cases(table) {
        let home = Home::with("tiny-hf");
        for folder in words(folders) {
            copy_folder(&fixture("lora/attention"), &home.join("adapter").join(folder));
        }
        let expected = expected.replace("HOME", text(&home));
        assert_contains(refusal(&home).sentence(), &expected);
        // As a checkpoint it is refused with what to type.
        let said = failure(&["inspect", text(&home.join("adapter"))]);
        let (_, adapter) = said.rsplit_once("--checkpoint BASE --adapter ").unwrap();
        home.export("m", &["--adapter", adapter]);
    }
    // Other weights beside an adapter's are none of it.
    for other in
        ["value_head.safetensors", "._adapter_model.safetensors", "adapter_model(1).safetensors"]
    {
        let home = copied("attention");
        let adapter = home.join("adapter");
        fs::copy(adapter.join(WEIGHTS), adapter.join(other)).unwrap();
        assert_contains(&printed(&mut binary(&["inspect", text(&adapter)])), "24 tensors");
        home.export("m", &["--adapter", text(&adapter)]);
    }
    let home = Home::with("tiny-hf");
    assert_starts(refusal(&home).sentence(), "there is no folder `");
    let home = copied("attention");
    resize(&home.join("adapter").join(WEIGHTS), |length| length - 1);
    assert_contains(refusal(&home).sentence(), "but its header describes 52184: download it again");
    fs::write(home.join("adapter").join(WEIGHTS), "<!DOCTYPE html>").unwrap();
    assert_contains(refusal(&home).sentence(), "is an HTML page, not the file itself");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n";
    fs::write(home.join("adapter").join(WEIGHTS), pointer).unwrap();
    assert_contains(refusal(&home).sentence(), "is a Git LFS pointer, not the file itself: run");
    fs::write(home.join("adapter").join(WEIGHTS), "").unwrap();
    assert_contains(refusal(&home).sentence(), "has 0 bytes, too few for a SafeTensors file");
}

#[test]
fn config_in_the_place_of_an_adapter_is_told() {
    let home = copied("attention");
    let (base, adapter) = (home.checkpoint(), home.join("adapter"));
    let config = adapter.join(CONFIG);
    let model = home.join("m.onnx");
    let sentence = failure(&export_args(&base, &model, &["--adapter", text(&config)]));
    let expected = format!(
        "`{}` is the config of an adapter: give its folder; pass --adapter {}",
        config.display(),
        adapter.display()
    );
    assert_eq!(sentence, expected);
}

/// An export asks for what `inspect` says to be undecided.
#[test]
fn inspect_tells_that_factors_fit_in_two_orders() {
    for (adapter, module) in [
        ("square-down", json!("model.layers.0.mlp.experts.down_proj")),
        ("square", Value::Null),
        ("experts", Value::Null),
        ("attention", Value::Null),
    ] {
        assert_eq!(inspect(&fixture("lora").join(adapter), &[])["undecided"], module, "{adapter}");
    }
    let printed = printed(&mut binary(&["inspect", text(&fixture("lora/square-down"))]));
    assert_contains(&printed, "fit in two orders: an export asks for one");
}

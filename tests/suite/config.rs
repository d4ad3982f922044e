//! The configs of one model in both dialects, edited.

use gpt_oss_export::checkpoint::{Config, ConfigFile, Dialect, IgnoredNames};
use gpt_oss_export::error::{Result, Setting};
use serde_json::{Map, Value, json};

use crate::support::{assert_contains, cases, fixture, read_json};

pub fn openai() -> Value {
    read_json(&fixture("tiny/config.json"))
}

pub fn hugging_face() -> Value {
    read_json(&fixture("tiny-hf/config.json"))
}

pub fn read_file(config: &Value, ignored: &[&str]) -> Result<ConfigFile> {
    let config_keys = ignored.iter().map(|name| (*name).to_owned()).collect();
    let ignored = IgnoredNames { config_keys, ..IgnoredNames::default() };
    let file = ConfigFile::read("config.json", config.to_string().as_bytes(), &ignored, None)?;
    file.unknown.map_or(Ok(ConfigFile { unknown: None, ..file }), Err)
}

pub fn read(config: &Value, ignored: &[&str]) -> Result<Config> {
    Ok(read_file(config, ignored)?.config)
}

/// Sets the value at a path, as `rope_scaling.factor`.
pub fn edited(mut config: Value, path: &str, value: Value) -> Value {
    let pointer = format!("/{}", path.replace('.', "/"));
    let (object, key) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(object).unwrap()[key] = value;
    config
}

/// Edits a config in several ways, each of which is refused in a sentence: paths, values and
/// parts of sentences.
fn refuses(config: fn() -> Value, table: &str) {
    for [path, value, sentence] in cases(table) {
        let config = edited(config(), path, value.parse().unwrap());
        assert_contains(&read(&config, &[]).unwrap_err().to_string(), sentence);
    }
}

#[test]
fn both_dialects_define_the_same_model() {
    let ConfigFile { config, dialect, .. } = read_file(&openai(), &[]).unwrap();
    assert_eq!(dialect, Dialect::OpenAi);
    assert_eq!(read(&hugging_face(), &[]).unwrap(), config);
    assert_eq!(config.windows, [Some(8), None, Some(8)]);
    // As in the released models.
    let [low, high] = config.rope.bounds(64);
    assert!((low - 8.0928).abs() < 1e-4 && (high - 17.3980).abs() < 1e-4, "{low} {high}");
}

#[test]
fn accepts_repeated_and_newer_keys() {
    let expected = read(&hugging_face(), &[]).unwrap();
    let mut rope = hugging_face()["rope_scaling"].clone();
    rope["rope_theta"] = json!(150_000);
    rope["type"] = json!("yarn");
    let mut version_5 = edited(hugging_face(), "rope_parameters", rope.clone());
    for key in ["rope_scaling", "rope_theta"] {
        version_5[key] = json!(null);
    }
    let rounded = edited(hugging_face(), "rope_scaling.factor", json!(32.000_001));
    assert!((read(&rounded, &[]).unwrap().rope.factor - 32.0).abs() < 1e-5);
    for config in [
        edited(version_5, "dtype", json!("bfloat16")),
        edited(hugging_face(), "rope_parameters", rope.clone()),
        edited(hugging_face(), "rope_scaling", rope),
        edited(hugging_face(), "layer_types", json!(null)),
        edited(hugging_face(), "swiglu_alpha", json!(1.702)),
        edited(hugging_face(), "quantization", json!(null)),
        edited(hugging_face(), "quantization_config.modules_to_not_convert", json!(["lm_head"])),
    ] {
        assert_eq!(read(&config, &[]).unwrap(), expected, "{config}");
    }
}

#[test]
fn reads_windows() {
    let openai = read(&edited(openai(), "sliding_window", json!(0)), &[]).unwrap();
    assert!(openai.windows.iter().all(Option::is_none));
    let [sliding, full] = ["sliding_attention", "full_attention"];
    let types = json!([full, sliding, full]);
    let config = read(&edited(hugging_face(), "layer_types", types), &[]).unwrap();
    assert_eq!(config.windows, [None, Some(8), None]);
}

#[test]
fn reads_unscaled_rope() {
    let default = json!({"rope_type": "default"});
    let version_4 = edited(hugging_face(), "rope_scaling", default.clone());
    let both = edited(version_4.clone(), "rope_parameters", default);
    for config in [version_4, both] {
        let rope = read(&config, &[]).unwrap().rope;
        assert_eq!((rope.factor, rope.context()), (1.0, 131_072));
    }
}

#[test]
fn ignores_keys_by_full_name() {
    let mut config = edited(hugging_face(), "max_position_embeddings", json!(262_144));
    config["rope_scaling"]["mscale"] = json!(0.7);
    let names = ["max_position_embeddings", "rope_scaling.mscale"];
    assert_eq!(read(&config, &names).unwrap(), read(&hugging_face(), &[]).unwrap());
    assert!(read(&config, &names[..1]).is_err());
    let error = read(&config, &names[1..]).unwrap_err();
    // The other way is to set it.
    let remedies = [vec![(Setting::IgnoreConfigKey, names[0].to_owned())], Vec::new()];
    assert_eq!(error.remedies(), remedies);
    assert!(read(&edited(openai(), "extra", json!(1)), &["extra"]).is_ok());
    for unused in ["head_dim", "absent"] {
        let sentence = read(&openai(), &[unused]).unwrap_err().to_string();
        assert!(sentence.starts_with("nothing to ignore: `config.json` has no"), "{sentence}");
    }
}

/// By name or by pattern, and the line to pass names each of them.
#[test]
fn names_all_unknown_keys_at_once() {
    let mut config = edited(hugging_face(), "rope_scaling.mscale", json!(0.7));
    for key in ["qk_norm", "my_a", "my_b", "a[b]"] {
        config[key] = json!(1);
    }
    let table = "| a[b] my_a my_b qk_norm rope_scaling.mscale
        my_? | a[b] qk_norm rope_scaling.mscale
        my_* *norm a[b] | rope_scaling.mscale
        my_* rope_scaling.* | a[b] qk_norm
        * |";
    for [ignored, unknown] in cases(table) {
        let ignored: Vec<&str> = ignored.split_whitespace().collect();
        let unknown: Vec<String> = unknown.split_whitespace().map(str::to_owned).collect();
        let Err(error) = read(&config, &ignored) else {
            assert!(unknown.is_empty(), "{ignored:?}");
            continue;
        };
        // A pattern for that key alone.
        let typed = |key: &String| key.replace("a[b]", "a[[]b[]]");
        let together = unknown.iter().map(|key| (Setting::IgnoreConfigKey, typed(key)));
        assert_eq!(error.remedies(), [together.collect::<Vec<_>>()]);
        let names: Vec<String> = unknown.iter().map(|key| format!("`{key}`")).collect();
        let (last, others) = names.split_last().unwrap();
        let names = match others {
            [] => format!("an unknown key {last}"),
            _ => format!("unknown keys {} and {last}", others.join(", ")),
        };
        assert_contains(&error.to_string(), &format!("has {names}, which can be ignored"));
    }
    let sentence = read(&config, &["*", "my_c*"]).unwrap_err().to_string();
    assert_contains(&sentence, "has no unknown key `my_c*`");
    // What a pattern has to leave are keys that define the model.
    assert_eq!(read(&config, &["*"]).unwrap(), read(&hugging_face(), &[]).unwrap());
}

/// All that `GptOssConfig().to_dict()` of transformers 4.57.1 has beside the model's own keys,
/// and what versions 4 and 5 write if it is set. Values that no default has change nothing
/// either, but for keys that could make another model.
#[test]
fn accepts_whole_configs_of_transformers() {
    let expected = read(&hugging_face(), &[]).unwrap();
    let defaults = r#"{
        "add_cross_attention": false, "bad_words_ids": null, "begin_suppress_tokens": null,
        "chunk_size_feed_forward": 0, "cross_attention_hidden_size": null,
        "decoder_start_token_id": null, "diversity_penalty": 0.0, "do_sample": false,
        "early_stopping": false, "encoder_no_repeat_ngram_size": 0,
        "exponential_decay_length_penalty": null, "finetuning_task": null,
        "forced_bos_token_id": null, "forced_eos_token_id": null, "is_decoder": false,
        "is_encoder_decoder": false, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
        "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1,
        "num_return_sequences": 1, "output_attentions": false, "output_hidden_states": false,
        "output_scores": false, "prefix": null, "problem_type": null, "pruned_heads": {},
        "remove_invalid_values": false, "repetition_penalty": 1.0, "return_dict": true,
        "return_dict_in_generate": false, "sep_token_id": null, "suppress_tokens": null,
        "task_specific_params": null, "temperature": 1.0, "tf_legacy_loss": false,
        "tie_encoder_decoder": false, "tokenizer_class": null, "top_k": 50, "top_p": 1.0,
        "torchscript": false, "typical_p": 1.0, "use_bfloat16": false
    }"#;
    let set = r#"{
        "_attn_implementation": "eager", "_attn_implementation_autoset": true,
        "_experts_implementation": "grouped_mm", "is_causal": true, "partial_rotary_factor": 1,
        "tie_last_hidden_states": true, "auto_map": {"AutoConfig": "own.OwnConfig"},
        "bad_words_ids": [[1]], "cls_token_id": 3, "decoder_start_token_id": 1,
        "do_sample": true, "finetuning_task": "mnli", "max_length": 4096, "num_labels": 2,
        "output_hidden_states": true, "prefix": "a", "problem_type": "regression",
        "return_dict": false, "sep_token_id": 2, "task_specific_params": {"a": {"b": 1}},
        "temperature": 0.6, "tokenizer_class": "PreTrainedTokenizerFast", "top_p": 0.9
    }"#;
    for keys in [defaults, set] {
        let mut config = hugging_face();
        let keys: Map<String, Value> = serde_json::from_str(keys).unwrap();
        config.as_object_mut().unwrap().extend(keys);
        assert_eq!(read(&config, &[]).unwrap(), expected);
    }
    let table = r#"add_cross_attention | true | `add_cross_attention` (only false is known:
        chunk_size_feed_forward | 64 | `chunk_size_feed_forward` (only 0 is known:
        is_decoder | true | `is_decoder` (only false is known:
        is_encoder_decoder | true | `is_encoder_decoder` (only false is known:
        pruned_heads | {"1": [0]} | `pruned_heads` (only {} is known:
        tie_encoder_decoder | true | `tie_encoder_decoder` (only false is known:
        torchscript | true | `torchscript` (only false is known:
        norm_topk_prob | false | `norm_topk_prob` (only true is known:
        use_bfloat16 | true | `use_bfloat16` (only false is known:
        cross_attention_hidden_size | 8 | an unknown key `cross_attention_hidden_size`"#;
    refuses(hugging_face, table);
    for [key, value, _] in cases(table) {
        let config = edited(hugging_face(), key, value.parse().unwrap());
        assert_eq!(read(&config, &[key]).unwrap(), expected);
    }
}

/// Either of two names of one value can be ignored, and is not read then, whatever it has.
#[test]
fn chooses_between_two_names_of_one_value() {
    let table = r#"num_experts_per_tok experts_per_token | 4 | 2 | num_experts_per_tok experts_per_token
        num_local_experts num_experts | 8 | 6 | num_local_experts num_experts
        rope_theta rope_scaling.rope_theta | 150000 | 10000 | rope_theta rope_scaling.rope_theta
        rope_scaling.rope_type rope_scaling.type | "yarn" | "default" | rope_scaling.rope_type rope_scaling.type
        rope_scaling rope_parameters | YARN | {"rope_type": "default"} | rope_scaling.* rope_parameters.*"#;
    let expected = read(&hugging_face(), &[]).unwrap();
    let yarn = &hugging_face()["rope_scaling"];
    for [names, right, wrong, patterns] in cases(table) {
        let [first, second] = [names, patterns].map(|it| it.split_once(' ').unwrap());
        let right = if right == "YARN" { yarn.clone() } else { right.parse().unwrap() };
        let wrong: Value = wrong.parse().unwrap();
        for ((name, other), (keep, ignore)) in
            [(first, second), ((first.1, first.0), (second.1, second.0))]
        {
            let config = |wrong| edited(edited(hugging_face(), name, right.clone()), other, wrong);
            let error = read(&config(wrong.clone()), &[]).unwrap_err();
            assert_contains(&error.to_string(), "; ignore the one that is wrong");
            let mut remedies = [keep, ignore].map(|it| [(Setting::IgnoreConfigKey, it.to_owned())]);
            remedies.sort_by_key(|it| it[0].1 == second.0);
            assert_eq!(error.remedies(), remedies);
            // Ignoring both decides nothing.
            assert!(read(&config(wrong.clone()), &[keep, ignore]).is_err());
            let invalid = if wrong.is_object() { json!({"rope_type": 1}) } else { json!([1]) };
            for wrong in [wrong.clone(), invalid] {
                assert_eq!(read(&config(wrong), &[ignore]).unwrap(), expected, "{names}");
            }
        }
        // Names that agree, or one name alone, are read as before.
        let same = edited(hugging_face(), first.1, right.clone());
        assert_eq!(read(&same, &[second.1]).unwrap(), expected);
        let alone = edited(hugging_face(), first.1, Value::Null);
        let sentence = read(&alone, &[second.0]).unwrap_err().to_string();
        assert!(sentence.starts_with("nothing to ignore"), "{names}: {sentence}");
    }
}

#[test]
fn refuses_inconsistent_or_unsupported_values() {
    let table = r#"num_experts | null | `config.json` lacks the key `num_experts`
        num_experts | 3 | must be at most the number of experts, found 4 of 3
        rope_theta | "x" | key `rope_theta` must be a positive number, found "x"
        rope_theta | 1 | `rope_theta` must be above 1, found 1
        initial_context_length | 10 | YaRN's bounds must satisfy
        attention_dropout | 0.5 | has an unknown key `attention_dropout`, which can be ignored if"#;
    refuses(openai, table);
    let table = r#"hidden_act | "gelu" | `hidden_act` must be "silu", found "gelu"
        swiglu_alpha | 2.0 | `swiglu_alpha` must be 1.702, found 2.0
        attention_bias | "yes" | `attention_bias` must be true or false, found "yes"
        use_qk_norm | true | has an unknown key `use_qk_norm`
        experts_per_token | 2 | must be 4, as `num_experts_per_tok`, found 2
        swiglu_limit | null | key `swiglu_limit` must be a positive number, found null
        rms_norm_eps | null | key `rms_norm_eps` must be a positive number, found null
        attention_bias | null | key `attention_bias` must be true or false, found null, which transformers 4 takes for false
        sliding_window | null | lacks the key `sliding_window`
        sliding_window | 0 | must be a whole number from 1 to 4294967295, found 0
        layer_types | ["none", "none", "none"] | and "full_attention", found "none"
        layer_types | ["full_attention"] | `layer_types` describes 1 layer, `num_hidden_layers` is 3, and both must be equal: write the value
        rope_scaling | {} | `rope_scaling` must be an object, found {}: write {"rope_type": "yarn",
        rope_parameters | {} | has an unknown key `rope_parameters`
        rope_parameters | {"rope_type": "default"} | must be the same as `rope_scaling`
        rope_scaling.truncate | true | `rope_scaling.truncate` must be false, found true
        rope_scaling.truncate | null | lacks the key `rope_scaling.truncate`, which must be false: transformers rounds
        rope_scaling.factor | 0.5 | `rope_scaling.factor` must be a number of at least 1, found 0.5
        rope_scaling.factor | 0 | `rope_scaling.factor` must be a number of at least 1, found 0
        rope_parameters | {"full_attention": {"rope_type": "default"}} | `rope_parameters` has an object for each kind of layer
        rope_scaling.sliding_attention | {"rope_type": "yarn"} | `rope_scaling` has an object for each kind of layer
        rope_scaling.rope_type | "llama3" | must be "yarn" or "default"
        rope_scaling.type | "linear" | must be "yarn", as `rope_scaling.rope_type`
        rope_scaling.mscale | 0.7 | has an unknown key `rope_scaling.mscale`
        rope_scaling.rope_theta | 10000 | must be 150000.0, as `rope_theta`, found 10000
        initial_context_length | 8192 | must be 4096 (as `original_max_position_emb
        max_position_embeddings | 131073 | must be 131072 (`original_max_position_emb
        quantization_config.quant_method | "gptq" | quantized with "gptq" cannot be
        quantization | {"bits": 4} | quantized with "mlx" cannot be read
        quantization_config | {"bits": 4} | lacks the key `quantization_config.quant_method`"#;
    refuses(hugging_face, table);
}

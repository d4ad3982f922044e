//! Configs that can be read in two ways, or that say something of another model: both readings are
//! said, and what is recommended makes the one that it says.

use gpt_oss_export::checkpoint::{ConfigFile, IgnoredNames};
use gpt_oss_export::error::Setting;
use serde_json::{Value, json};

use crate::config::{edited, hugging_face, read, read_file};
use crate::layout_fixtures::{config, home, in_layout};
use crate::support::{
    Home, assert_contains, assert_ends, binary, cases, edit_json, export, export_args,
    model_metadata, printed, text, words,
};

/// A value that changes what a GPT-OSS model computes is refused, and nothing is recommended that
/// would leave it out.
#[test]
fn refuses_values_that_change_the_model() {
    let table = r#"is_causal | false | true | must be true, found false: otherwise tokens see later ones
        partial_rotary_factor | 0.5 | 1 | must be 1.0, found 0.5: others rotate a part of each head
        rope_scaling.partial_rotary_factor | 0.25 | 1.0 | must be 1.0, found 0.25: others rotate
        per_layer_config | {"0": {"sliding_window": 4}} | {} | others change layers
        hidden_act | "gelu" | "silu" | must be "silu", found "gelu": others compute experts otherwise
        swiglu_alpha | 1.5 | 1.702 | must be 1.702, found 1.5: others compute experts otherwise
        rope_scaling.attention_factor | 2.0 | 1.3465735902799727 | `rope_scaling.attention_factor` makes the factor of cos and sin 2.00000, expected 1.34657 (1 + 0.1 ln `factor`): remove it unless the model was trained so; if it was, it cannot be exported
        rope_scaling.attention_factor | 1 | 1.3465735902799727 | cos and sin 1.00000, expected 1.34657"#;
    let expected = read(&hugging_face(), &[]).unwrap();
    for [key, wrong, usual, sentence] in cases(table) {
        let config = |value: &str| edited(hugging_face(), key, value.parse().unwrap());
        assert_eq!(read(&config(usual), &[]).unwrap(), expected, "{key}");
        for ignored in [&[][..], &[key], &["*"]] {
            let error = read(&config(wrong), ignored).unwrap_err();
            assert_contains(&error.to_string(), sentence);
            assert!(error.remedies().is_empty(), "{key}: {error:?}");
        }
    }
    // Only their ratio counts, of 1 + 0.1 ln(32) times either, and only if both are there.
    let scales = |over: f64, under: f64| {
        let config = edited(hugging_face(), "rope_scaling.mscale", json!(over));
        edited(config, "rope_scaling.mscale_all_dim", json!(under))
    };
    // All that are named have to go.
    let factor = |config, value: f64| edited(config, "rope_scaling.attention_factor", json!(value));
    let alone = edited(hugging_face(), "rope_scaling.mscale", json!(1.0));
    for (config, names) in [
        (scales(1.0, 1.0), "mscale mscale_all_dim"),
        (factor(scales(1.0, 1.0), 1.0), "attention_factor mscale mscale_all_dim"),
        (factor(alone, 1.0), "attention_factor mscale"),
    ] {
        let sentence = read(&config, &[]).unwrap_err().to_string();
        let mut rest = config;
        for name in names.split(' ') {
            assert_contains(&sentence, &format!("`rope_scaling.{name}`"));
            rest["rope_scaling"].as_object_mut().unwrap().remove(name);
        }
        assert_eq!(sentence.matches("`rope_scaling.").count(), names.split(' ').count());
        assert_eq!(read(&rest, &[]).unwrap(), expected);
    }
    let given = edited(scales(1.0, 1.0), "rope_scaling.attention_factor", json!(1.346_573_590_28));
    assert_eq!(read(&given, &[]).unwrap(), expected);
}

/// Without an object that says how positions are scaled, versions of transformers differ. Both
/// objects that the sentence offers are read as what it says.
#[test]
fn offers_both_readings_of_a_missing_scaling() {
    let table = r#"absent | lacks the key `rope_scaling` (`rope_parameters` in transformers 5): without it transformers 5 takes
        null | `rope_scaling` must be an object, found null, which transformers 4 reads as no scaling, and
        {} | `rope_scaling` must be an object, found {}: write
        "yarn" | `rope_scaling` must be an object, found "yarn": write
        [] | `rope_scaling` must be an object, found []: write"#;
    for [value, sentence] in cases(table) {
        let mut config = hugging_face();
        let object = config.as_object_mut().unwrap();
        match value {
            "absent" => drop(object.remove("rope_scaling")),
            value => drop(object.insert("rope_scaling".to_owned(), value.parse().unwrap())),
        }
        let error = read(&config, &[]).unwrap_err();
        assert_contains(&error.to_string(), sentence);
        assert!(error.remedies().is_empty());
        let sentence = error.to_string();
        let (_, offers) = sentence.split_once("write ").unwrap();
        let (released, unscaled) = offers.split_once(" for the scaling of the released").unwrap();
        let unscaled = unscaled.split_once(", or ").unwrap().1.trim_end_matches(" for none");
        let factor = |offer: &str| {
            let config = edited(config.clone(), "rope_scaling", offer.parse().unwrap());
            read(&config, &[]).unwrap().rope.factor
        };
        assert_eq!([factor(released), factor(unscaled)], [32.0, 1.0]);
    }
}

/// A slip is to be corrected: no line to paste leaves out what was meant.
#[test]
fn recommends_to_rename_slips() {
    let table = "swiglu_limt | 3.0 | swiglu_limit
        sliding_windows | 3 | sliding_window
        tie_word_embedding | true | tie_word_embeddings
        rope_scaling.beta_fats | 16.0 | beta_fast
        rope_scaling.attention_factr | 2.0 | attention_factor
        RMS_norm_eps | 0.1 | rms_norm_eps";
    for [slip, value, meant] in cases(table) {
        let config = edited(hugging_face(), slip, value.parse().unwrap());
        let error = read(&config, &[]).unwrap_err();
        let sentence = format!(
            "an unknown key `{slip}` (did you mean `{meant}`?): rename it to use its value {value}, or ignore it"
        );
        assert_contains(&error.to_string(), &sentence);
        let remedies = [vec![(Setting::IgnoreConfigKey, slip.to_owned())], Vec::new()];
        assert_eq!(error.remedies(), remedies);
        assert_eq!(read(&config, &[slip]).unwrap(), read(&hugging_face(), &[]).unwrap());
    }
    let mut missing =
        edited(hugging_face(), "rope_scalings", hugging_face()["rope_scaling"].clone());
    missing.as_object_mut().unwrap().remove("rope_scaling");
    let error = read(&missing, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`config.json` lacks the key `rope_scaling`: add it as saved with the weights\n`config.json` has an unknown key `rope_scalings` (did you mean `rope_scaling`?): rename it"
    );
    assert!(error.each().all(|it| it.remedies().is_empty()));
}

/// Each remedy of two readings, followed as it stands, decides for one of them.
#[test]
fn remedies_of_two_thetas_work() {
    let objects = |scaling: Value, parameters: Value| {
        let mut scaled = hugging_face()["rope_scaling"].clone();
        let mut parameterized = scaled.clone();
        scaled["rope_theta"] = scaling;
        parameterized["rope_theta"] = parameters;
        let config = edited(hugging_face(), "rope_scaling", scaled);
        edited(config, "rope_parameters", parameterized)
    };
    let [none, other] = [json!(null), json!(10_000)];
    let third = json!(5000);
    for (config, thetas) in [
        (objects(none.clone(), other.clone()), &[150_000.0, 10_000.0][..]),
        (objects(other.clone(), none.clone()), &[150_000.0, 10_000.0]),
        (objects(other.clone(), other.clone()), &[150_000.0, 10_000.0]),
        (objects(json!(150_000), other.clone()), &[150_000.0, 10_000.0]),
        (objects(other, third), &[150_000.0, 10_000.0, 5000.0]),
    ] {
        let error = read(&config, &[]).unwrap_err();
        assert_eq!(error.each().count(), 1, "{error}");
        let found: Vec<f64> = error
            .remedies()
            .iter()
            .map(|remedy| {
                let ignored: Vec<&str> = remedy.iter().map(|(_, key)| &**key).collect();
                read(&config, &ignored).unwrap().rope.theta
            })
            .collect();
        assert_eq!(found, thetas);
    }
    // The base is in the object that is ignored.
    let mut config = objects(none, json!(150_000));
    config["rope_theta"] = json!(null);
    config["rope_scaling"]["factor"] = json!(16);
    config["max_position_embeddings"] = json!(65_536);
    let error = read(&config, &["max_position_embeddings"]).unwrap_err();
    assert_contains(
        &error.to_string(),
        "must be the same as `rope_scaling`: `factor` is 32 instead of 16",
    );
    let factors = error.remedies().iter().map(|remedy| {
        let ignored = [&*remedy[0].1, "max_position_embeddings"];
        read(&config, &ignored).unwrap().rope.factor
    });
    assert_eq!(factors.collect::<Vec<_>>(), [16.0, 32.0]);
}

/// Two programs read two numbers: both are said, and each way works.
#[test]
fn tells_both_readings_of_a_length() {
    let table = "max_position_embeddings | 262144 | rope_scaling.factor | 64
        max_position_embeddings | 65536 | rope_scaling.factor | 16
        initial_context_length | 8192 | rope_scaling.original_max_position_embeddings | 8192";
    for [key, found, other, value] in cases(table) {
        let config = edited(hugging_face(), key, found.parse().unwrap());
        let error = read(&config, &[]).unwrap_err();
        assert_contains(&error.to_string(), &format!("`{key}` must be "));
        let remedies = [vec![(Setting::IgnoreConfigKey, key.to_owned())], Vec::new()];
        assert_eq!(error.remedies(), remedies);
        let ignoring = read_file(&config, &[key]).unwrap();
        assert_eq!(ignoring.config, read(&hugging_face(), &[]).unwrap());
        assert_eq!(ignoring.ignored, [key]);
        let set = edited(config, other, value.parse().unwrap());
        let set = match key {
            "initial_context_length" => edited(set, "max_position_embeddings", json!(262_144)),
            _ => set,
        };
        assert!(read(&set, &[]).is_ok(), "{key}");
    }
}

/// A stretch below 1 is no way out.
#[test]
fn offers_no_stretch_below_1() {
    for found in [2048.0_f64, 1024.0, 4094.0] {
        let config = edited(hugging_face(), "max_position_embeddings", json!(found));
        let error = read(&config, &[]).unwrap_err();
        let stretch = found / 4096.0;
        assert_ends(
            &error.to_string(),
            &format!(
                "a model that was trained with {stretch}, below 1, cannot be exported; to stretch by 32, set this key to 131072 or ignore it"
            ),
        );
        assert!(read(&config, &["max_position_embeddings"]).is_ok());
    }
}

/// Code that comes with a checkpoint may compute otherwise than the model whose type it has.
#[test]
fn doubts_classes_of_others() {
    let table = r#"["GptOssForCausalLM"] |
        ["GptOssModel"] |
        [] |
        ["MyGptOssForCausalLM"] | key `architectures` (only
        ["GptOssForCausalLM", "GptOssWithMemory"] | key `architectures` (only
        "MyGptOss" | key `architectures` (only"#;
    for [value, sentence] in cases(table) {
        let config = edited(hugging_face(), "architectures", value.parse().unwrap());
        let config = edited(config, "auto_map", json!({"AutoModelForCausalLM": "own.MyGptOss"}));
        if sentence.is_empty() {
            assert!(read_file(&config, &[]).unwrap().ignored.is_empty());
            continue;
        }
        let error = read(&config, &[]).unwrap_err();
        assert_contains(&error.to_string(), sentence);
        assert_contains(&error.to_string(), "others may be code that computes otherwise");
        let remedy = vec![(Setting::IgnoreConfigKey, "architectures".to_owned())];
        assert_eq!(error.remedies(), [remedy]);
        assert_eq!(read_file(&config, &["architectures"]).unwrap().ignored, ["architectures"]);
    }
}

/// A model in a larger one is named by the key of its config.
#[test]
fn names_the_part_of_a_larger_model() {
    for (key, outer) in [
        ("text_config", json!({"model_type": "internvl", "architectures": ["InternVL"]})),
        (
            "llm_config",
            json!({"architectures": ["Own"], "vision_config": {"model_type": "siglip"}}),
        ),
        ("language_config", json!({})),
    ] {
        let config = edited(outer, key, hugging_face());
        assert_ends(
            &read(&config, &[]).unwrap_err().to_string(),
            &format!(
                "` is the config of a larger model, and `{key}` in it that of its GPT-OSS model: only the latter can be exported; save it alone, with `{key}` as its config.json"
            ),
        );
    }
}

/// Ignored keys that could change something are told, and no others.
#[test]
fn tells_what_is_ignored() {
    let mut config = edited(hugging_face(), "experts_per_token", json!(2));
    config["my_a"] = json!(1);
    let read = |config: &Value, ignored: &[&str]| read_file(config, ignored).unwrap().ignored;
    assert_eq!(read(&config, &["experts_per_token", "my_*"]), ["experts_per_token", "my_a"]);
    assert!(read(&hugging_face(), &["*"]).is_empty());
    assert_eq!(read(&edited(hugging_face(), "is_decoder", json!(true)), &["*"]), ["is_decoder"]);
}

#[test]
fn names_models_of_other_families() {
    let table = r#"llama | LlamaForCausalLM | is of a "llama" model (LlamaForCausalLM): only GPT-OSS can be exported
        qwen3_moe | | is of a "qwen3_moe" model: only GPT-OSS can be exported
        gpt2 | GPT2LMHeadModel | is of a "gpt2" model (GPT2LMHeadModel): only
        gpt_neox | GPTNeoXForCausalLM | is of a "gpt_neox" model
        gpt-oss | Other | must be "gpt_oss" or "gpt_oss_puzzle", found "gpt-oss" (did you mean "gpt_oss"?)
        GPT_OSS | | found "GPT_OSS" (did you mean "gpt_oss"?)
        gptoss | | found "gptoss" (did you mean "gpt_oss"?)
        my_model | GptOssForCausalLM | must be "gpt_oss" or "gpt_oss_puzzle", found "my_model""#;
    for [model_type, architecture, sentence] in cases(table) {
        let architectures: Vec<&str> = architecture.split_whitespace().collect();
        let config = edited(hugging_face(), "architectures", json!(architectures));
        let config = edited(config, "model_type", json!(model_type));
        assert_contains(&read(&config, &[]).unwrap_err().to_string(), sentence);
    }
}

#[test]
fn suggests_mxfp4_for_slips_alone() {
    let table = r#"mxpf4 | must be "mxfp4", found "mxpf4" (did you mean "mxfp4"?)
        MXFP4 | must be "mxfp4", found "MXFP4" (did you mean
        mx_fp4 | must be "mxfp4", found "mx_fp4" (did you mean
        mxfp8 | quantized with "mxfp8" cannot be read
        nvfp4 | quantized with "nvfp4" cannot be read
        fp4 | quantized with "fp4" cannot be read"#;
    for [method, sentence] in cases(table) {
        let config = edited(hugging_face(), "quantization_config.quant_method", json!(method));
        assert_contains(&read(&config, &[]).unwrap_err().to_string(), sentence);
    }
}

#[test]
fn refuses_what_is_no_config() {
    let table = r#" | is empty, expected an object of JSON
        [] | is invalid: it must be an object of JSON, found a list
        "a" | it must be an object of JSON, found a text
        -7 | it must be an object of JSON, found a number
        {} | is no config of a model: it has neither the key `model_type`
        {"eos_token_id": 1, "vocab_size": 2} | is no config of a model: it has neither the key
        {"num_local_experts": 8} | lacks the keys `model_type`, `num_hidden_layers`"#;
    for [text, sentence] in cases(table) {
        for text in [text.to_owned(), format!("\n {text}\n")] {
            let error =
                ConfigFile::read("config.json", text.as_bytes(), &IgnoredNames::default(), None)
                    .unwrap_err();
            assert_contains(&error.to_string(), sentence);
        }
    }
}

/// What was ignored of a checkpoint is told by the export, the model and the inspection of either.
#[test]
fn tells_what_was_ignored_of_a_checkpoint() {
    let home = Home::with("tiny-hf");
    let config = home.checkpoint().join("config.json");
    edit_json(&config, |config| config["my_a"] = json!(1));
    let (checkpoint, model) = (home.checkpoint(), home.join("model.onnx"));
    let ignore = ["--ignore-config-key", "my_*"];
    let line = home.printed_summary("model", &ignore);
    assert_contains(&line, "ignored  the config key `my_a`");
    assert_contains(&line, "the checkpoint's apart from the config key `my_a`, but for");
    let expected = json!({"config_keys": ["my_a"], "tensors": []});
    assert_eq!(model_metadata(&model)["ignored"], expected);
    assert_eq!(export(&["inspect", text(&model)])["ignored"], expected);
    let inspected = export(&[&["inspect", text(&checkpoint)][..], &ignore].concat());
    assert_eq!(inspected["ignored"], expected);
    // Nothing is said where there is nothing to say.
    edit_json(&config, |config| drop(config.as_object_mut().unwrap().remove("my_a")));
    let line = home.printed_summary("model", &[]);
    assert!(!line.contains("ignored") && !line.contains("apart from"), "{line}");
    assert_eq!(model_metadata(&model)["ignored"], Value::Null);
}

/// Of names that a pattern fits the pattern and their number are told.
#[test]
fn tells_patterns_of_what_was_ignored() {
    let mut tensors = in_layout("hf");
    let norm = tensors["model.norm.weight"].clone();
    let names = ["vision.a", "vision.b.c", "vision.b.d", "mtp.fc.weight", "head.x", "head.y"];
    tensors.extend(names.map(|name| (name.to_owned(), norm.clone())));
    let mut config = config();
    ["my_a", "my_b", "note"].into_iter().for_each(|key| config[key] = json!(1));
    let home = home(&config, &tensors);
    let keys = "--ignore-config-key my_* --ignore-config-key note";
    // The patterns, and what is said.
    let table = "--ignore-tensor vision.* --ignore-tensor mtp.* --ignore-tensor head.? | the config keys `my_*` (2), `note` and the tensors `vision.*` (3), `head.?` (2), `mtp.fc.weight`
        --ignore-tensor vision.b.* --ignore-tensor vision.* --ignore-tensor mtp.fc.weight --ignore-tensor head* | the tensors `vision.b.*` (2), `vision.a`, `head*` (2), `mtp.fc.weight`
        --ignore-tensor *.? --ignore-tensor mtp.fc.weight | the tensors `*.?` (5), `mtp.fc.weight`";
    for [options, expected] in cases(table) {
        let options = words(options).into_iter().chain(words(keys)).collect::<Vec<_>>();
        let (model, summary) = home.export("m", &options);
        let checkpoint = home.checkpoint();
        for arguments in [
            &[&export_args(&checkpoint, &model, &[])[..], &options].concat(),
            &[&["inspect", text(&checkpoint)][..], &options].concat(),
            &vec!["inspect", text(&model)],
        ] {
            assert_contains(&printed(&mut binary(arguments)), expected);
        }
        // Programs get the names.
        assert_eq!(summary["ignored"]["tensors"].as_array().unwrap().len(), names.len());
    }
}

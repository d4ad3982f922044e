//! What is said of a wrong config: all at once, with names that were meant, and a line to paste.

use std::fs;

use serde_json::{Value, json};

use crate::layout_fixtures::{config, home, in_layout};
use crate::support::{
    Home, assert_contains, assert_same, assert_starts, cases, export_args, failure, run, text,
    words,
};

/// The tiny model with an edited config.
fn edited(edit: impl FnOnce(&mut Value)) -> Home {
    let mut config = config();
    edit(&mut config);
    home(&config, &in_layout("hf"))
}

/// Sets keys to values, `null` for none, as `rope_scaling.factor=2 extra=1`.
fn set(config: &mut Value, edits: &str) {
    for (path, value) in edits.split(' ').filter_map(|edit| edit.split_once('=')) {
        let pointer = format!("/{}", path.replace('.', "/"));
        let (object, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(object).unwrap()[key] = value.parse().unwrap();
    }
}

/// The lines that refuse a config, without the path.
fn refusal(home: &Home) -> Vec<String> {
    let checkpoint = home.checkpoint();
    let found = failure(&["inspect", text(&checkpoint)]);
    let path = checkpoint.join("config.json");
    let lines = found.lines().map(|line| line.trim_start_matches("error: "));
    lines.map(|line| line.replace(&format!("`{}`", text(&path)), "CONFIG")).collect()
}

#[test]
fn says_all_errors_at_once() {
    let table = r#"head_dim="x" vocab_size=null extra=1 | CONFIG lacks the key `vocab_size` // CONFIG: key `head_dim` must be a whole number // an unknown key `extra`, which
        num_hidden_layers=0 layer_types=[] rope_theta=-1 | key `num_hidden_layers` must be // key `rope_theta` must be a positive number
        num_hidden_layers=null | lacks the key `num_hidden_layers`
        rope_scaling.factor="x" max_position_embeddings=7 | key `rope_scaling.factor` must be a number of at least 1
        rope_scaling.factor=null rope_scaling.truncate=null | lacks the key `rope_scaling.factor` // lacks the key `rope_scaling.truncate`, which must be false
        rope_scaling={"rope_type":"llama3","low_freq_factor":1} hidden_act="gelu" | `hidden_act` must be "silu" // `rope_scaling.rope_type` must be "yarn" or "default", found "llama3": models that were trained with another scaling cannot be exported
        rope_scaling="yarn" | `rope_scaling` must be an object, found "yarn": write
        rope_scaling=null rope_theta=null | lacks the key `rope_theta` // `rope_scaling` must be an object, found null
        quantization_config={"quant_method":"gptq"} swiglu_alpha=2 | `swiglu_alpha` must be 1.702 // quantized with "gptq" cannot be read
        quantization_config={"bits":4} | lacks the key `quantization_config.quant_method`
        head_dim=31 num_key_value_heads=3 num_experts_per_tok=9 experts_per_token=9 | `num_attention_heads` must be a multiple // `head_dim` must be even, found 31 // the number of experts per token must be at most
        max_position_embeddings=8192 extra=1 | key `max_position_embeddings` must be 131072 (`original_max // an unknown key `extra`, which
        num_experts_per_tok=2 initial_context_length=1 extra=1 | `initial_context_length` must be 4096 // `experts_per_token` must be 2, as `num_experts_per_tok`, found 4 // unknown key `extra`
        swiglu_limt=3 extra=1 | `swiglu_limt` (did you mean `swiglu_limit`?): rename it // unknown key `extra`
        model_type="llama" head_dim=null extra=1 | `model_type` must be "gpt_oss" or "gpt_oss_puzzle", found "llama"
        model_type=null extra=1 | lacks the key `model_type` // unknown key `extra`
        rope_theta=-1 rope_parameters={"rope_type":"default"} | key `rope_theta` must be a positive number // must be the same as `rope_scaling`: `rope_type` is "default" instead of "yarn"
        rope_scaling.a=1 my_a=1 | has unknown keys `my_a` and `rope_scaling.a`, which can be ignored if they do not"#;
    for [edits, expected] in cases(table) {
        let found = refusal(&edited(|config| set(config, edits)));
        let expected: Vec<&str> = expected.split(" // ").collect();
        assert_eq!(found.len(), expected.len(), "{edits}: {found:#?}");
        for part in expected {
            assert!(found.iter().any(|line| line.contains(part)), "{part}: {found:#?}");
        }
    }
    let openai = Home::with("tiny");
    fs::write(openai.join("checkpoint/config.json"), r#"{"num_experts": 0, "a": 1}"#).unwrap();
    let found = refusal(&openai);
    let keys = "num_hidden_layers sliding_window experts_per_token rope_theta rope_scaling_factor \
        initial_context_length rope_ntk_alpha rope_ntk_beta vocab_size hidden_size \
        intermediate_size num_attention_heads num_key_value_heads head_dim";
    let keys = format!("`{}`", words(keys).join("`, `")).replace(", `head_dim`", " and `head_dim`");
    assert_eq!(
        found[0],
        format!("CONFIG lacks the keys {keys}: add them as saved with the weights")
    );
    assert_starts(&found[1], "CONFIG: key `num_experts` must be a whole number");
    assert_starts(&found[2], "CONFIG has an unknown key `a`, which");
    assert_eq!(found.len(), 3);
}

/// Python writes words that are not JSON.
#[test]
fn numbers_that_json_has_not_are_named() {
    for (value, word) in
        [("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "Infinity"), ("[1, NaN]", "NaN")]
    {
        let home = edited(|_| ());
        let text = format!("{{\n\"a\": {value}\n}}");
        fs::write(home.checkpoint().join("config.json"), text).unwrap();
        let found = refusal(&home);
        assert_starts(
            &found[0],
            &format!("CONFIG is not valid JSON: found `{word}` at line 2 column "),
        );
        assert_contains(
            &found[0],
            ", and JSON has neither NaN nor infinity; correct it, or download it again",
        );
    }
}

/// A key under a wrong name is said with the name that was meant.
#[test]
fn suggests_known_names() {
    let table = "num_hidden_layers | num_hidden_layer | num_hidden_layers
        sliding_window | sliding_windows | sliding_window
        rope_theta | rope_tetha | rope_theta
        hidden_size | hiddenSize | hidden_size
        num_attention_heads | num_atention_heads | num_attention_heads
        swiglu_limit | swiglu_limits | swiglu_limit
        tie_word_embeddings | tied_word_embeddings | tie_word_embeddings
        layer_types | layers_types | layer_types
        rope_scaling.beta_fast | rope_scaling.beta_fats | beta_fast
        rope_scaling | rope_scalings | rope_scaling
        use_cache | use_caches | use_cache
        model_type | model_typ | model_type
        max_position_embeddings | max_positions_embeddings | max_position_embeddings
        head_dim | qk_norm |
        rms_norm_eps | mscale | ";
    for [name, typed, meant] in cases(table) {
        let found = refusal(&edited(|config| {
            let at = |name: &str| format!("/{}", name.replace('.', "/"));
            let value = config.pointer_mut(&at(name)).unwrap().take();
            let (object, key) = typed.rsplit_once('.').unwrap_or(("", typed));
            let object = if object.is_empty() { String::new() } else { at(object) };
            config.pointer_mut(&object).unwrap()[key] = value;
        }));
        let line = found.iter().find(|line| line.contains("an unknown key")).unwrap();
        let then = match meant {
            "" => ", which can".to_owned(),
            meant => format!(" (did you mean `{meant}`?): rename it"),
        };
        assert_starts(line, &format!("CONFIG has an unknown key `{typed}`{then}"));
    }
}

/// The options at the end of the sentence, pasted into a shell, ignore that key and no other.
#[cfg(unix)]
#[test]
fn options_to_paste_work() {
    use crate::support::shell;
    let keys = [
        "transformers_weights",
        "-x",
        "--",
        "--layers",
        "a b",
        "it's",
        "$HOME",
        "`id`",
        "\"",
        "\\",
        "#",
        "~",
        "*",
        "a?",
        "[a]",
        "[",
        "]",
        "!",
        "ü",
        "a=b",
        "a;b",
        "a\nb",
        "\u{1b}[31m",
        "x.y",
        "",
    ];
    for key in keys {
        let home = edited(|config| config[key] = json!(1));
        let lines = refusal(&home);
        let (_, options) = lines[0].rsplit_once("; pass ").unwrap();
        let pasted = |home: &Home| {
            let line = format!("\"$0\" inspect checkpoint {options}");
            shell(&line, home)
        };
        let (status, _, error) = pasted(&home);
        assert_eq!(status, Some(0), "{key:?}: {options}: {error}");
        let other = edited(|config| {
            config[key] = json!(1);
            config["another_key"] = json!(1);
        });
        assert_contains(&pasted(&other).2, "an unknown key `another_key`");
    }
    let all: Vec<&str> = keys.into_iter().filter(|key| !key.is_empty()).collect();
    let home = edited(|config| all.iter().for_each(|key| config[*key] = json!(1)));
    let (_, options) =
        refusal(&home)[0].rsplit_once("; pass ").map(|it| (it.0.len(), it.1.to_owned())).unwrap();
    assert_eq!(shell(&format!("\"$0\" inspect checkpoint {options}"), &home).0, Some(0));
}

/// Two objects for positions that differ: all keys at once, and nothing else of them. Each advice is
/// followed, and what it leads to is about other keys.
#[test]
fn objects_that_differ_are_told_before_they_are_judged() {
    let table = r#"rope_parameters.factor=16 | `factor` is 16 instead of 32
        rope_parameters.factor=16 max_position_embeddings=7 | `factor` is 16 instead of 32
        rope_parameters.factor=16 rope_parameters.rope_theta=10000 rope_scaling.rope_theta=150000 | `factor` is 16 instead of 32 and `rope_theta` is 10000 instead of 150000
        rope_parameters.original_max_position_embeddings=8192 rope_parameters.beta_slow=2 | `original_max_position_embeddings` is 8192 instead of 4096 and `beta_slow` is 2 instead of 1
        rope_parameters.factor=0.5 | `factor` is 0.5 instead of 32
        rope_parameters.rope_type="linear" rope_parameters.factor=8 | `rope_type` is "linear" instead of "yarn"
        rope_parameters.factor="32" rope_parameters.truncate=true | `factor` is "32" instead of 32"#;
    for [edits, differences] in cases(table) {
        let home = edited(|config| {
            config["rope_parameters"] = config["rope_scaling"].clone();
            set(config, edits);
        });
        let expected = format!(
            "CONFIG: `rope_parameters` must be the same as `rope_scaling`: {differences}; ignore the one that is wrong; pass --ignore-config-key 'rope_parameters.*' or --ignore-config-key 'rope_scaling.*'"
        );
        assert_same(&refusal(&home).join("\n"), &expected);
        for object in ["rope_parameters.*", "rope_scaling.*"] {
            let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
            let options = ["--ignore-config-key", object];
            let output = run(&export_args(&checkpoint, &model, &options));
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(!error.contains("must be the same as"), "{error}");
            let judged = edits.contains("max_position") || object == "rope_scaling.*";
            assert!(output.status.success() || judged, "{edits}: {error}");
        }
    }
}

/// What three sources say of the number of layers, and the edit that is advised.
#[test]
fn numbers_of_layers_are_told_with_what_the_files_hold() {
    let [sliding, full] = ["\"sliding_attention\"", "\"full_attention\""];
    let types = |count: usize| [sliding, full].repeat(count)[..count].join(",");
    let table = "3 2 | describes 3 layers, `num_hidden_layers` is 2, and the files hold 3: set `num_hidden_layers` to 3, and limit the export too if the first alone are wanted; pass --layers 2 | 3 3
        3 1 | set `num_hidden_layers` to 3, and limit the export too if the first alone are wanted; pass --layers 1 | 3 3
        3 5 | describes 3 layers, `num_hidden_layers` is 5, and the files hold 3: set `num_hidden_layers` to 3 | 3 3
        2 3 | describes 2 layers, `num_hidden_layers` is 3, and the files hold 3: give `layer_types` 3 entries, those that were saved with the weights | 3 3
        4 3 | describes 4 layers, `num_hidden_layers` is 3, and the files hold 3: give `layer_types` 3 entries | 3 3
        4 2 | describes 4 layers, `num_hidden_layers` is 2, and the files hold 3: use the config.json that was saved with the weights | 3 3";
    for [found, sentence, followed] in cases(table) {
        let home_of = |counts: &str| {
            let (entries, layers) = counts.split_once(' ').unwrap();
            let types = types(entries.parse().unwrap());
            edited(|config| {
                set(config, &format!("num_hidden_layers={layers} layer_types=[{types}]"));
            })
        };
        let home = home_of(found);
        let lines = refusal(&home);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(sentence), "{}\nlacks: {sentence}", lines[0]);
        let home = home_of(followed);
        let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
        let layers = sentence.split_once("--layers ").map(|(_, it)| ["--layers", it]);
        let options = layers.iter().flatten().copied().collect::<Vec<_>>();
        assert!(run(&export_args(&checkpoint, &model, &options)).status.success());
    }
}

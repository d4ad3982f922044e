//! Generation before a model is loaded: what its files and prompts have to be.

use std::fs;
use std::time::{Duration, Instant};

use gpt_oss_export::text::{ChatTemplate, Message};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::layout_fixtures::edit_tensors;
use crate::support::{
    Home, assert_contains, binary, cases, edit_json, fixture, read_json, resize, sentence, shell,
    words,
};

/// A model of 1,024 tokens in a folder with its tokenizer.
fn trained(options: &str) -> Home {
    let home = Home::with("trained");
    home.export("checkpoint/m", &words(options));
    home
}

#[track_caller]
fn assert_refused(home: &Home, arguments: &[&str], expected: &str) {
    let mut command = binary(&[&["generate"], arguments].concat());
    assert_contains(&sentence(command.current_dir(&**home)), expected);
}

#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn refuses_prompts_that_the_model_cannot_take() {
    let home = trained("");
    let model = "checkpoint/m.onnx";
    for (arguments, expected) in [
        (
            &["--ids", "1,1024,5,70000"][..],
            "the model's vocabulary has 1,024 tokens, and no `1024`, `70000`: give ids from 0 to 1023",
        ),
        (&["--prompt", ""], "the prompt is empty: give a text, or token ids"),
        (&["--chat", ""], "the prompt is empty"),
    ] {
        assert_refused(&home, &[&[model], arguments].concat(), expected);
    }
    for (input, expected) in [
        ("printf ''", "the prompt is empty"),
        ("printf '\\n'", "the prompt is empty"),
        ("printf 'ab\\377'", "standard input is not UTF-8 from byte 2 on: convert it"),
        (
            "head -c 17000000 /dev/zero",
            "standard input has more than 16777216 bytes: give a shorter prompt",
        ),
    ] {
        let (status, _, error) = shell(&format!("{input} | \"$0\" generate {model}"), &home);
        assert_eq!(status, Some(1));
        assert_contains(&error, expected);
    }
    // Longer than the model's context, or than its fixed length.
    edit_json(&home.join("checkpoint/config.json"), |config| {
        config["max_position_embeddings"] = json!(4096);
        config["rope_scaling"]["factor"] = json!(1.0);
    });
    for (name, options, longest, least) in
        [("fixed", "--seq-len 10", "11", 11), ("short", "", "4,096", 4096)]
    {
        home.export(name, &words(options));
        let ids = vec!["7"; least].join(",");
        let expected = format!(
            "tokens, and `{name}.onnx` takes texts of up to {longest}, of which one is new: shorten it"
        );
        assert_refused(&home, &[&format!("{name}.onnx"), "--ids", &ids], &expected);
    }
}

#[test]
fn refuses_what_is_no_model_to_generate_with() {
    let home = trained("");
    home.export("cuda", &["--target", "ort", "--ep", "cuda"]);
    home.export("bf16", &["--compute", "bf16"]);
    fs::create_dir(home.join("empty")).unwrap();
    home.export("repository/cpu/int4/m", &[]);
    let table = "none.onnx | there is no file `none.onnx`
        empty | `empty` holds no ONNX model: export one, or name another folder
        repository | `repository` holds no ONNX model: `repository/cpu/int4` in it holds a model: use it
        checkpoint/model.safetensors | `checkpoint/model.safetensors` is not an ONNX model: give a file whose name ends in .onnx
        . | `.` holds several models, `./bf16.onnx`, `./cuda.onnx`: name one of them
        checkpoint/config.json | `checkpoint/config.json` is not an ONNX model: give a file whose name ends in .onnx
        cuda.onnx | `cuda.onnx` is for the execution provider `cuda`, and texts are generated on a CPU: export another model for that; export with --ep cpu --compute f32 --output OTHER.onnx
        bf16.onnx | `bf16.onnx` computes in bf16, for which onnxruntime has no kernels on a CPU: export another model that computes in f32; export with --compute f32";
    for [model, expected] in cases(table) {
        assert_refused(&home, &[model, "--ids", "1"], expected);
    }
    assert_refused(
        &home,
        &["checkpoint/m.onnx", "--ids", "1", "--adapter", "a.onnx_adapter"],
        "`checkpoint/m.onnx` takes no adapters: export it with room for them; export with --adapter-as swappable",
    );
    // A trainer has saved again.
    let weights = home.join("checkpoint/model.safetensors");
    edit_tensors(&home.checkpoint(), |tensors| {
        tensors.insert("model.layers.9.extra".into(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    let changed = "`checkpoint/m.onnx`: its data `model.safetensors`: it was changed since the export: restore it, or export again";
    assert_refused(&home, &["checkpoint/m.onnx", "--ids", "1"], changed);
    resize(&weights, |_| 1000);
    assert_refused(&home, &["checkpoint/m.onnx", "--ids", "1"], "cannot read its weights from");
}

/// Folders where companions are looked for, and what is said where they are not.
#[test]
fn finds_tokenizers_beside_models_and_their_checkpoints() {
    let home = Home::with("trained");
    let copied = ["--external-data", "copy"];
    home.export("in-place", &[]);
    home.export("out/copied", &copied);
    home.export("web/onnx/model", &["--transformers-js"]);
    fs::create_dir(home.join("named")).unwrap();
    fs::copy(home.join("checkpoint/tokenizer.json"), home.join("named/tokenizer.json")).unwrap();
    // The prompt is tokenized before a runtime is looked for, and this file is none.
    for arguments in [
        &["in-place.onnx"][..],
        &["web"],
        &["web/onnx"],
        &["out/copied.onnx", "--tokenizer", "named"],
        &["checkpoint/../in-place.onnx"],
    ] {
        let runtime = ["--prompt", "In", "--onnxruntime", "checkpoint/config.json"];
        assert_refused(&home, &[arguments, &runtime].concat(), "is not a library");
    }
    let none = "`out/copied.onnx` has no tokenizer.json in `out`: put the checkpoint's there, name the folder that has it, or give a prompt of token ids; pass --tokenizer DIR";
    assert_refused(&home, &["out/copied.onnx", "--prompt", "In"], none);
    let file = "`named/tokenizer.json` is no folder: name the one that has tokenizer.json";
    let of_file = ["--prompt", "In", "--tokenizer", "named/tokenizer.json"];
    assert_refused(&home, &[&["out/copied.onnx"], &of_file[..]].concat(), file);
    let none = "`out/copied.onnx` has no chat template (chat_template.jinja, or in tokenizer_config.json) in `named`: put";
    assert_refused(&home, &["out/copied.onnx", "--tokenizer", "named", "--chat", "In"], none);
}

/// Each replaces the value at a place in tokenizer.json.
fn broken_tokenizers() -> Vec<(&'static str, Value, &'static str)> {
    let replace =
        |content: &str| json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
    let sequence =
        |key: &str, step: Value, count| json!({"type": "Sequence", key: vec![step; count]});
    let long = "can make a text";
    vec![
        ("/model", json!(3), "is invalid"),
        ("/model/type", json!("Unknown"), "is no tokenizer"),
        ("/model/vocab", json!({}), "is no tokenizer"),
        (
            "/added_tokens/0",
            json!({"id": 1024, "content": "new", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}),
            "has ids up to 1,024, and the model's end at 1,023: put this model's tokenizer in its place",
        ),
        (
            "/model/dropout",
            json!(0.1),
            "`dropout` leaves out merges at random, expected none: set it to null",
        ),
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "`Precompiled`",
        ),
        ("/normalizer", json!({"type": "Odd"}), "is no tokenizer"),
        ("/normalizer", replace(&"a".repeat(1000)), long),
        ("/normalizer", sequence("normalizers", replace("aa"), 40), long),
        ("/normalizer", sequence("normalizers", json!({"type": "ByteLevel"}), 40), long),
        (
            "/normalizer",
            sequence("normalizers", sequence("normalizers", replace("aa"), 3), 3),
            long,
        ),
        ("/decoder", sequence("decoders", replace("aaaa"), 20), long),
        (
            "/pre_tokenizer",
            sequence(
                "pretokenizers",
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
                30,
            ),
            long,
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            "is no tokenizer",
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(".repeat(50_000)}, "behavior": "Isolated", "invert": false}),
            "is no tokenizer",
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "((a{1000}){1000}){1000}"}, "behavior": "Isolated", "invert": false}),
            "is no tokenizer",
        ),
        (
            "/post_processor",
            json!({"type": "TemplateProcessing", "single": vec![json!({"Sequence": {"id": "A", "type_id": 0}}); 1000], "pair": [], "special_tokens": {}}),
            long,
        ),
    ]
}

#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn refuses_broken_and_hostile_tokenizers_quickly_with_little_memory() {
    let home = trained("");
    let path = home.join("checkpoint/tokenizer.json");
    let whole = read_json(&path);
    let line = "ulimit -v 1000000; exec \"$0\" generate checkpoint/m.onnx --prompt aaaaaaaaaaaaaaaaaaaaaaaa --onnxruntime checkpoint/config.json";
    let refused = |expected: &str| {
        let began = Instant::now();
        let (status, _, error) = shell(line, &home);
        assert_eq!(status, Some(1), "{expected}: {error}");
        assert_contains(&error, expected);
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(began.elapsed() < Duration::from_secs(10), "{expected}");
    };
    for (place, value, expected) in broken_tokenizers() {
        let mut broken = whole.clone();
        *broken.pointer_mut(place).unwrap() = value;
        fs::write(&path, broken.to_string()).unwrap();
        refused(expected);
    }
    for (contents, expected) in [
        ("", "is empty"),
        ("{", "is not valid JSON"),
        ("[]", "is invalid: it must be an object of JSON, found a list"),
        ("version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        ("{\"model\": 1, \"model\": 2}", "is not valid JSON: duplicate key"),
    ] {
        fs::write(&path, contents).unwrap();
        refused(&format!("tokenizer.json` {expected}"));
    }
    // Nothing but this fails: a pattern that tries very many ways ends.
    let mut slow = whole.clone();
    slow["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(?=(a+)+b)(a|aa)+\\1$"}, "behavior": "Isolated", "invert": false});
    fs::write(&path, slow.to_string()).unwrap();
    refused("is not a library");
    // One that tries many ways at each character takes hours.
    slow["pre_tokenizer"]["pattern"]["Regex"] = json!("(?=(a|aa){16}\\1c)c|a");
    fs::write(&path, slow.to_string()).unwrap();
    let long = line.replace("--prompt aaaaaaaaaaaaaaaaaaaaaaaa", "");
    let long = format!("head -c 100000 /dev/zero | tr '\\0' a > text; {long} < text");
    let (status, _, error) = shell(&long, &home);
    assert_eq!(status, Some(1), "{error}");
    assert_contains(&error, "takes longer than 6 s to split a text of 100 kB into tokens");
    resize(&path, |_| 65 << 20);
    refused("has 68157440 bytes, expected at most 67 MB");
}

#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn refuses_broken_and_hostile_templates_quickly_with_little_memory() {
    let home = trained("");
    let path = home.join("checkpoint/chat_template.jinja");
    let line = "ulimit -v 1000000; exec \"$0\" generate checkpoint/m.onnx --chat Hi --onnxruntime checkpoint/config.json";
    let endless = "cannot be applied to the chat: it does not end, or makes too long a text";
    for (template, expected) in [
        (
            "{{ raise_exception('no users') }}",
            "cannot be applied to the chat: no users in line 1; correct it, or give the whole prompt as text",
        ),
        (" \n", "chat_template.jinja` is empty: download it again, or delete it"),
        (
            "{% if false %}a{% endif %}",
            "makes no text of the chat: correct it, or give the whole prompt as text",
        ),
        ("a\n{% for %}", "in line 2"),
        ("{{ nothing.at.all }}", "cannot be applied to the chat"),
        ("{{ messages | unknown }}", "cannot be applied to the chat"),
        ("{% include 'other' %}", "cannot be applied to the chat"),
        ("{{ strftime_now('%Q!') }}", "`%Q!` is no format of a time in line 1"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", endless),
        (
            "{% set n = namespace(s='aa') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
            endless,
        ),
        (
            "{% set n = namespace(s=[1]) %}{% for a in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
            "cannot be applied to the chat",
        ),
        (
            "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
            "cannot be applied to the chat",
        ),
        ("{{ 'a'.replace('a', 'a' * 90000000) * 1000 }}", "cannot be applied to the chat"),
        ("", "chat_template.jinja` is empty"),
    ] {
        fs::write(&path, template).unwrap();
        let began = Instant::now();
        let (status, _, error) = shell(line, &home);
        assert_eq!(status, Some(1), "{template}: {error}");
        assert_contains(&error, expected);
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(began.elapsed() < Duration::from_secs(10), "{template}");
    }
}

/// Templates, and what transformers 5.24 makes of them for a user's message `Hi <b> "you"`.
#[test]
fn renders_templates_as_transformers() {
    let table = [
        (
            "{% for m in messages %}\n  {%- if m['role'] == 'user' %}\n[{{ m.content | trim }}]\n  {% endif %}\n{% endfor %}\n",
            "[Hi <b> \"you\"]\n",
        ),
        (
            "{{ bos_token }}{% for m in messages %}{{ loop.index0 }}{{ m.content|tojson }}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ eos_token }}",
            "<|startoftext|>0\"Hi <b> \\\"you\\\"\"<|return|>",
        ),
        (
            "{% set n = namespace(c=0) %}{% for m in messages + messages %}{% set n.c = n.c + m.content|length %}{% endfor %}{{ n.c }} {{ true }} {{ none }} {{ 1 / 2 }} {{ [1, 'a'] }}",
            "24 True None 0.5 [1, 'a']",
        ),
        (
            "{{ messages[0].content.split(' ')[1:] | join('-') }} {{ messages[-1]['content'].startswith('Hi') }} {{ messages[0].get('name', 'x') }} {{ 'a  '.rstrip() ~ 'B'.lower() }}",
            "<b>-\"you\" True x ab",
        ),
        (
            "{%- macro f(a, b='!') -%}{{ a }}{{ b }}{%- endmacro -%}{{ f('x') }}{{ f('x', b='?') }}{% if add_generation_prompt %} go{% endif %}{{ undefined_name }}{% if tools is defined and tools %}T{% endif %}",
            "x!x? go",
        ),
        (
            "{# note #}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% if messages[1:] %}more{% else %}one{% endif %}",
            "role=user;content=Hi <b> \"you\";one",
        ),
        (
            "{% for m in messages %}\n  {%- generation %}\n{{ m.content }}\n  {%- endgeneration -%}\n  .{% endfor %}",
            "Hi <b> \"you\".",
        ),
    ];
    let home = Home::new();
    let config = fixture("trained/tokenizer_config.json");
    fs::copy(config, home.join("tokenizer_config.json")).unwrap();
    let message = Message { role: "user", content: "Hi <b> \"you\"" };
    for (template, expected) in table {
        fs::write(home.join("chat_template.jinja"), template).unwrap();
        let read = ChatTemplate::read(&home).unwrap().unwrap();
        assert_eq!(read.render(&[message]).unwrap(), expected, "{template}");
    }
    // Otherwise the config has it, or several.
    fs::remove_file(home.join("chat_template.jinja")).unwrap();
    let rendered = |template: Value| {
        fs::write(
            home.join("tokenizer_config.json"),
            json!({"chat_template": template}).to_string(),
        )
        .unwrap();
        ChatTemplate::read(&home).and_then(|it| it.unwrap().render(&[message]))
    };
    assert_eq!(rendered(json!("{{ 1 }}")).unwrap(), "1");
    let [tools, default] = [("tool_use", "2"), ("default", "3")]
        .map(|(name, text)| json!({"name": name, "template": text}));
    assert_eq!(rendered(json!([tools, default])).unwrap(), "3");
    let error = rendered(json!([tools])).unwrap_err().to_string();
    assert_contains(
        &error,
        "no `chat_template` is called `default` among tool_use: rename the one to use",
    );
    assert_contains(&rendered(json!(5)).unwrap_err().to_string(), "must be a text or a list");
}

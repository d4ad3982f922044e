//! Exports with adapters: where weights are read, what is said of them, what is refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::adapters::{copied, edit_config, with_unknown_names};
use crate::genai::with_tokenizer;
use crate::layout_fixtures::in_folder;
use crate::support::{
    Home, assert_contains, assert_starts, binary, cases, contents, copy_folder, edit_json, export,
    export_args, failure, fixture, model_metadata, printed, staged_args, text, words,
};

/// A checkpoint in `checkpoint`, and these adapters beside it.
pub fn with_adapters(base: &str, adapters: &[&str]) -> Home {
    let home = Home::with(base);
    for adapter in adapters {
        copy_folder(&fixture("lora").join(adapter), &home.join(adapter));
    }
    home
}

/// Exports the checkpoint of a folder, with paths relative to it.
pub fn export_in(home: &Path, options: &str) -> Result<Value, String> {
    let mut command = binary(&words("--checkpoint checkpoint --json"));
    let output = command.args(words(options)).current_dir(home).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    Err(text(output.stderr).trim_end().trim_start_matches("error: ").to_owned())
}

#[test]
fn adapters_are_read_in_place() {
    let home = with_adapters("tiny", &["experts", "attention"]);
    let before = contents(&home);
    let options = "--output m.onnx --target ort --adapter experts --adapter attention/adapter_model.safetensors=0.5";
    let summary = export_in(&home, options).unwrap();
    let weights = &summary["weights"];
    let files = ["attention/adapter_model", "checkpoint/model", "experts/adapter_model"]
        .map(|file| format!("{file}.safetensors"));
    assert_eq!(weights["files"], json!(files));
    assert_eq!([&weights["in_place"], &weights["bytes_written"]], [&json!(true), &json!(0)]);
    let after = contents(&home);
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.iter().all(|it| after.contains(it)));

    // The model's own experts stay in QMoE but for layers that an adapter changes.
    assert_eq!(summary["model"]["slowed_layers"], json!([1, 2]));
    let operators = |name: &str| {
        let found = export(&["inspect", text(&home.join(name))])["operators"].clone();
        ["com.microsoft.QMoE", "Loop", "com.microsoft.GroupQueryAttention"]
            .map(|it| found[it].as_u64().unwrap_or(0))
    };
    assert_eq!(operators("m.onnx"), [1, 2, 3]);
    let summary = export_in(&home, "--output a.onnx --target ort --adapter attention").unwrap();
    assert_eq!(summary["model"]["slowed_layers"], Value::Null);
    assert_eq!(operators("a.onnx"), [3, 0, 3]);
    let summary = export_in(&home, "--output p.onnx --adapter experts").unwrap();
    assert_eq!(summary["model"]["slowed_layers"], Value::Null);
}

/// An adapter that a model cannot read in place is copied without the checkpoint.
#[test]
fn adapters_are_copied_by_themselves() {
    let home = Home::new();
    copy_folder(&fixture("tiny-hf"), &home.join("out/checkpoint"));
    let (checkpoint, model) = (home.join("out/checkpoint"), home.join("out/m.onnx"));
    let adapter = fixture("lora/attention");
    let export_with = |more: &[&str]| {
        export(&export_args(&checkpoint, &model, &[&["--adapter", text(&adapter)], more].concat()))
    };
    let weights = &export_with(&[])["weights"];
    assert!(weights["bytes_written"].as_u64().unwrap() < 60_000, "{weights}");
    assert_eq!(weights["files"].as_array().unwrap().len(), 2);
    assert_contains(
        weights["obstacle"].as_str().unwrap(),
        "attention/adapter_model.safetensors`: it is outside",
    );
    assert_eq!(export_with(&[])["weights"]["bytes_written"], 0);
    let options = ["--adapter", text(&adapter), "--external-data", "in-place"];
    let sentence = failure(&export_args(&checkpoint, &model, &options));
    assert_contains(
        &sentence,
        "attention/adapter_model.safetensors` in place: it is outside the model's folder",
    );
    assert_contains(&sentence, "; pass --external-data auto");

    // The file of a model is no checkpoint.
    let weights = &export_with(&["--external-data", "copy"])["weights"]["written"][0];
    let sentence = failure(&staged_args(Path::new(weights.as_str().unwrap()), &model, &[]));
    assert_contains(
        &sentence,
        "` holds the weights of a model with the adapter `attention`, and no checkpoint: export the checkpoint itself",
    );
}

#[test]
fn summaries_and_models_list_adapters() {
    let home = with_adapters("tiny-hf", &["experts", "whole-modules", "square"]);
    let plain = export_in(&home, "--output plain.onnx").unwrap();
    assert_eq!(plain["adapters"], Value::Null);
    let one = export_in(&home, "--output one.onnx --adapter experts").unwrap();
    let half = export_in(&home, "--output half.onnx --adapter experts=0.5").unwrap();
    let cut = export_in(&home, "--output cut.onnx --adapter experts --layers 1").unwrap();
    let adapter = &one["adapters"][0];
    assert_eq!([&adapter["name"], &adapter["weight"]], [&json!("experts"), &json!(1.0)]);
    let down = json!({"module": "mlp.experts.down", "layers": [1, 2], "ranks": [4], "scales": [2.0], "is_replaced": false});
    assert!(adapter["modules"].as_array().unwrap().contains(&down), "{adapter}");
    assert!(!cut["adapters"].to_string().contains("mlp.experts"), "{cut}");
    let fingerprints = [&plain, &one, &half].map(|it| it["fingerprint"].as_str().unwrap());
    assert_ne!(fingerprints[0], fingerprints[1]);
    assert_ne!(fingerprints[1], fingerprints[2]);
    let listed = &model_metadata(&home.join("half.onnx"))["adapters"];
    let fingerprint = &adapter["fingerprint"];
    assert_eq!(listed, &json!([{"name": "experts", "fingerprint": fingerprint, "weight": 0.5}]));
    let shown = printed(&mut binary(&["inspect", text(&home.join("half.onnx"))]));
    assert_contains(
        &shown,
        &format!("adapter   experts, weight 0.5, fingerprint {}\n", fingerprint.as_str().unwrap()),
    );

    let [whole, experts] = ["whole-modules", "experts"].map(|it| text(&home.join(it)).to_owned());
    let options = ["--target", "ort", "--adapter", &whole, "--adapter", &experts];
    let shown = home.printed_summary("shown", &options);
    for part in [
        "kB, trained on tiny-hf-bf16\n",
        "\n  mlp.router          replaced, layers 0-2\n",
        "\n  experts of layers 1-2 run in a Loop, several times slower than the others: the operator for experts takes no adapter\n",
        "\nlogits   those of the checkpoint with the adapters, but for the noise of float32\n",
    ] {
        assert_contains(&shown, part);
    }
}

/// Of an embedding or lm_head with factors, PEFT stores the base's own values too.
#[test]
fn copies_of_the_base_replace_nothing() {
    let home = with_adapters("tiny-hf", &["router-head", "embedding"]);
    let options = "--output m.onnx --adapter router-head=0.5 --adapter embedding=0.5 --external-data in-place";
    assert_eq!(export_in(&home, options).unwrap()["weights"]["in_place"], true);
    let listed = export(&["inspect", text(&home.join("m.onnx")), "--tensors", "*"]);
    for name in ["lm_head.weight", "embedding.weight"] {
        let mut tensors = listed["tensors"].as_array().unwrap().iter();
        let tensor = tensors.find(|it| it["name"] == name).unwrap();
        assert_starts(tensor["places"][0]["file"].as_str().unwrap(), "checkpoint/");
    }
}

/// A copy of the base's values is told by the base, whatever another adapter has replaced.
#[test]
fn copies_of_the_base_go_with_replacements_in_any_order() {
    let home = with_adapters("tiny-hf", &["router-head", "whole-modules"]);
    for [one, other] in [["router-head", "whole-modules"], ["whole-modules", "router-head"]] {
        let options = format!("--output m.onnx --adapter {one} --adapter {other}");
        export_in(&home, &options).unwrap();
        let listed =
            export(&["inspect", text(&home.join("m.onnx")), "--tensors", "lm_head.weight"]);
        let file = listed["tensors"][0]["places"][0]["file"].as_str().unwrap();
        assert!(file.contains("whole-modules"), "{listed}");
    }
}

#[test]
fn refuses_adapters_that_cannot_be_added() {
    let all = ["experts", "attention", "whole-modules", "tokens", "dora", "square-down"];
    let home = with_adapters("tiny-hf", &all);
    for copy in ["copy", "a=2"] {
        copy_folder(&fixture("lora/tokens"), &home.join(copy));
    }
    fs::create_dir(home.join("empty")).unwrap();
    let before = contents(&home);
    let table = "experts=0 | adapter `experts` has the weight 0, expected a number other than 0, such as 0.5: leave the adapter out to add nothing
        experts=-0.0 | has the weight -0, expected
        experts=nan | adapter `experts` has the weight NaN, expected a number
        experts=inf | has the weight inf, expected
        experts=1e999 | has the weight inf, expected
        experts=1e39 | scales what it adds to `layers.0.attn.k` by 2e39, more than float32 holds: use a smaller weight
        experts= | the weight `` is not a number: write experts=0.7
        experts=half | the weight `half` is not a number: write experts=0.7
        experts=0,5 | the weight `0,5` is not a number: write experts=0.5
        x=experts=0,5 | the weight `0,5` is not a number: write x=experts=0.5
        nowhere=half | there is no folder `nowhere=half`; an adapter is a folder with adapter_config.json and adapter_model.safetensors, or owner/name of a repository on the hub
        nowhere=0.5 | there is no folder `nowhere`
        experts/adapter | there is no folder `experts/adapter`; for the repository on the hub, pass --adapter hf:experts/adapter
        a=2=0.5 | `a=2/adapter_model.safetensors` replaces values of `embedding`, and a weight multiplies only what an adapter adds: give it the weight 1, found 0.5
        empty | `empty` holds no adapter_config.json
        checkpoint | `checkpoint` holds no adapter_config.json; it holds a whole model
        experts experts | adapter `experts` is there twice: give it once, with the sum of the weights
        experts=0.5 ./experts/adapter_model.safetensors=0.5 | adapter `./experts/adapter_model.safetensors` is there twice
        whole-modules=2 | replaces values of `embedding`, and a weight multiplies only what an adapter adds
        tokens copy | `tokens/adapter_model.safetensors` and `copy/adapter_model.safetensors` both replace values of `embedding`, and a model has one of them: leave one adapter out
        whole-modules tokens | both replace values of `embedding`
        dora | key `use_dora` is set: DoRA
        square-down | adapter_model.safetensors`: `base_model.model.model.layers.0.mlp.experts.lora_A.weight` must have shape [16, 128] to fit the given base, found [16, 96]; give the base that it was trained on, which it calls `tiny-square`; also unfit: 1 module
        experts --save-weights w.safetensors | a staged weights file holds a checkpoint without adapters: stage the checkpoint alone, then export from the staged file with its adapters
        experts --for cuda | execution provider `cuda` does not support an adapter of experts: its operator takes none; merge it into the weights; pass --adapter-as merge or --ep cpu
        experts --for webgpu | execution provider `webgpu` does not support an adapter of experts
        experts --ignore-tensor score.* | nothing to ignore: `checkpoint` has no unknown tensor `score.*`
        experts --ignore-config-key r | has no unknown key `r`";
    for [adapters, expected] in cases(table) {
        let (adapters, options) =
            adapters.split_once(" --").map_or((adapters, ""), |(it, rest)| (it, rest));
        let adapters = words(adapters).into_iter().map(|it| format!(" --adapter {it}"));
        let options = if options.is_empty() { String::new() } else { format!(" --{options}") };
        let arguments = format!("--output m.onnx{}{options}", adapters.collect::<String>());
        let Err(sentence) = export_in(&home, &arguments) else { panic!("{arguments}") };
        assert_contains(&sentence, expected);
        assert!(contents(&home) == before, "{arguments}");
    }
    // A folder with the sign in its name.
    export_in(&home, "--output m.onnx --adapter a=2").unwrap();
    // Attention alone needs no operator for experts.
    export_in(&home, "--output c.onnx --adapter attention --for cuda").unwrap();
}

/// One option ignores names in the checkpoint and in adapters.
#[test]
fn ignores_names_in_all_files() {
    let home = with_unknown_names();
    let options = "--output m.onnx --adapter adapter";
    let sentence = export_in(&home, options).unwrap_err();
    assert_eq!(sentence.lines().count(), 3, "{sentence}");
    assert_contains(
        &sentence,
        "help: all of these can be passed together: --ignore-config-key lora_magic --ignore-tensor score.weight",
    );
    let ignoring = format!("{options} --ignore-config-key lora_* --ignore-tensor score.weight");
    export_in(&home, &ignoring).unwrap();
    let sentence = export_in(&home, &format!("{ignoring} --ignore-tensor nothing")).unwrap_err();
    assert_contains(&sentence, "nothing to ignore: `checkpoint` has no unknown tensor `nothing`");
    // What is wrong with the checkpoint is said at once.
    let config = home.checkpoint().join("config.json");
    edit_json(&config, |config| config["lora_trick"] = json!(1));
    let sentence = export_in(&home, options).unwrap_err();
    assert_contains(
        &sentence,
        "--ignore-config-key lora_magic --ignore-tensor score.weight --ignore-config-key lora_trick",
    );
    let summary = export_in(&home, &ignoring).unwrap();
    let ignored = json!({"config_keys": ["lora_magic"], "tensors": ["score.weight"]});
    let model = home.join("m.onnx");
    assert_eq!(summary["adapters"][0]["ignored"], ignored);
    assert_eq!(model_metadata(&model)["adapters"][0]["ignored"], ignored);
    assert_eq!(model_metadata(&model)["ignored"]["config_keys"], json!(["lora_trick"]));

    let apart = "apart from the config key `lora_magic` and the tensor `score.weight`";
    let ignoring = words("--ignore-config-key lora_* --ignore-tensor score.weight");
    let adapter = text(&home.join("adapter")).to_owned();
    let options = [&["--adapter", &adapter], &ignoring[..]].concat();
    let shown = home.printed_summary("m", &options);
    assert_contains(&shown, &format!("\nadapter  adapter, {apart}, weight 1, fingerprint "));
    assert_contains(
        &shown,
        &format!(
            "\nlogits   those of the checkpoint apart from the config key `lora_trick`, with the adapter {apart}, but"
        ),
    );
    let shown = printed(&mut binary(&["inspect", text(&model)]));
    assert_contains(&shown, &format!("adapter   adapter, {apart}, weight 1, fingerprint "));
    let shown = printed(binary(&["inspect", &adapter]).args(&ignoring));
    assert_contains(
        &shown,
        "\nignored  the config key `lora_magic` and the tensor `score.weight`\n",
    );

    // A staged file has no unknown names; its adapters may.
    let home = copied("attention");
    edit_config(&home, "lora_magic", json!(1));
    let (staged, _) = home.stage("w", &[]);
    let adapter = text(&home.join("adapter")).to_owned();
    let ignoring = ["--adapter", &adapter, "--ignore-config-key", "lora_magic"];
    home.export_staged(&staged, "m", &ignoring);
    let sentence = failure(&staged_args(&staged, &home.join("m.onnx"), &["--ignore-tensor", "a"]));
    assert_contains(&sentence, "w.safetensors` has no unknown key or tensor `a`");
}

/// Bases that were staged or converted before, and companion files.
#[test]
fn adapters_go_with_every_source() {
    for base in ["hf", "bf16", "split"] {
        let home = in_folder(base);
        copy_folder(&fixture("lora/experts"), &home.join("adapter"));
        let adapter = text(&home.join("adapter")).to_owned();
        for format in ["int8", "int4", "f32"] {
            let (staged, _) = home.stage(format, &["--experts", format, "--dense", format]);
            let (_, summary) = home.export_staged(&staged, "m", &["--adapter", &adapter]);
            assert_eq!(summary["weights"]["bytes_written"], 0);
            assert_eq!(summary["experts"]["format"], format);
        }
    }
    let home = with_tokenizer();
    copy_folder(&fixture("lora/experts"), &home.join("adapter"));
    let adapter = text(&home.join("adapter")).to_owned();
    home.export("genai", &["--for", "genai", "--adapter", &adapter]);
    fs::create_dir_all(home.join("js/onnx")).unwrap();
    fs::copy(fixture("tiny-hf/config.json"), home.join("js/config.json")).unwrap();
    let options = ["--transformers-js", "--adapter", &adapter];
    let summary =
        export(&export_args(&home.checkpoint(), &home.join("js/onnx/model.onnx"), &options));
    assert_eq!(summary["weights"]["files"], json!(["model.onnx_data"]));
}

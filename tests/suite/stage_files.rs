//! What a host needs of a model in stages: its files, its shards on the hub, its adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::fake_hub::{FakeHub, REPOSITORY, files};
use crate::layout_fixtures::{config, in_layout, read, write, write_index};
use crate::stages::{stage_paths, tied};
use crate::support::{
    Home, assert_contains, binary, cases, contents, copy_folder, edit_json, export, export_args,
    fixture, printed, run, text, words,
};

/// The tensors of a weights file.
fn tensors(path: &Path) -> BTreeSet<String> {
    read(path).into_keys().collect()
}

#[test]
fn each_stage_has_a_file_of_its_own_weights() {
    for options in [&[][..], &["--experts", "int4"], &["--target", "ort", "--dense", "f32"]] {
        for source in [Home::with("tiny"), tied()] {
            let copied = [options, &["--external-data", "copy", "--stages", "3"]].concat();
            let (model, summary) = source.export("m", &copied);
            let stages = summary["stages"].as_array().unwrap();
            let mut written = 0;
            for (path, stage) in stage_paths(&model, 3).iter().zip(stages) {
                let files = stage["stage"]["files"].as_array().unwrap();
                let [file] = &files[..] else { panic!("{files:?}") };
                let file = source.join(file.as_str().unwrap());
                written += file.metadata().unwrap().len();
                let read = export(&["inspect", text(path), "--tensors", "*"]);
                let read = read["tensors"].as_array().unwrap();
                let whole: BTreeSet<String> = read
                    .iter()
                    .filter(|it| !it["places"].as_array().unwrap().is_empty())
                    .map(|it| it["name"].as_str().unwrap().to_owned())
                    .collect();
                assert_eq!(tensors(&file), whole);
                // A stage runs with its own two files alone.
                let host = Home::new();
                for needed in [path, &file] {
                    fs::copy(needed, host.join(needed.file_name().unwrap())).unwrap();
                }
                let there = host.join(path.file_name().unwrap());
                assert_eq!(export(&["inspect", text(&there)])["whole"], true);
            }
            assert_eq!(summary["weights"]["bytes_written"], written);

            // Again, and one stage alone: what is there is used.
            let before = contents(&source);
            for (more, reused) in [(&[][..], 3), (&["--only-stage", "2"], 1)] {
                let (_, again) = source.export("m", &[&copied[..], more].concat());
                assert_eq!(again["weights"]["bytes_written"], 0);
                assert_eq!(again["weights"]["reused"].as_array().unwrap().len(), reused);
                assert_eq!(again["stages"].as_array().unwrap().len(), reused);
                assert_eq!(
                    again["stages"][0]["stage"]["files"],
                    stages[usize::from(reused == 1)]["stage"]["files"]
                );
            }
            if options.is_empty() {
                assert!(contents(&source) == before);
            }
        }
    }
}

#[test]
fn staged_weights_serve_all_stages() {
    let home = Home::with("tiny");
    let staged = home.join("w.safetensors");
    let options = ["--experts", "int4", "--stages", "2", "--save-weights", text(&staged)];
    let (model, summary) = home.export("m", &options);
    let file = json!(["w.safetensors"]);
    for stage in summary["stages"].as_array().unwrap() {
        assert_eq!(stage["stage"]["files"], file);
    }
    let written = contents(&home);
    stage_paths(&model, 2).iter().for_each(|path| fs::remove_file(path).unwrap());
    let (_, again) = home.export_staged(&staged, "m", &["--stages", "2"]);
    assert_eq!(again["weights"]["files"], file);
    assert!(contents(&home).iter().map(|it| &it.0).eq(written.iter().map(|it| &it.0)));
}

/// A repository whose shards have the embedding, a layer each, and the rest.
fn by_layer() -> Home {
    let root = Home::new();
    fs::write(root.join("config.json"), config().to_string()).unwrap();
    let shard = |name: &str| match name.strip_prefix("model.layers.") {
        Some(rest) => format!("layer-{}.safetensors", &rest[..1]),
        None if name.contains("embed") => "embedding.safetensors".to_owned(),
        None => "head.safetensors".to_owned(),
    };
    let (mut shards, mut map) = (BTreeMap::new(), BTreeMap::new());
    for (name, tensor) in in_layout("hf") {
        map.insert(name.clone(), shard(&name));
        shards.entry(shard(&name)).or_insert_with(BTreeMap::new).insert(name, tensor);
    }
    shards.iter().for_each(|(file, tensors)| write(&root.join(file), tensors));
    write_index(&root, map);
    root
}

#[test]
fn one_stage_fetches_its_own_shards() {
    let table = "--stages 3 --only-stage 1 | embedding layer-0
        --stages 3 --only-stage 2 | layer-1
        --stages 3 --only-stage 3 | head layer-2
        --stages 0..1,1..3 --only-stage 2 | head layer-1 layer-2
        --layers 1..2 | layer-1
        --stages 3 --only-stage 2 --external-data copy | layer-1
        --stages 3 --only-stage 2 --experts int4 | layer-1
        --stages 3 --only-stage 2 --save-weights W | embedding head layer-0 layer-1 layer-2
        --stages 3 | embedding head layer-0 layer-1 layer-2
        --stages 3 --headers-only |
        --stages 3 --only-stage 2 --headers-only |";
    let repository = by_layer();
    for [options, expected] in cases(table) {
        let (hub, here) = (FakeHub::serving_as(REPOSITORY, &repository), Home::new());
        let (model, staged) = (here.join("m.onnx"), here.join("w.safetensors"));
        let options = options.replace('W', text(&staged));
        let options = words(&options);
        let arguments = export_args(Path::new(REPOSITORY), &model, &options);
        let summary = hub.export(&arguments);
        let folder = here.join("owner--tiny");
        let entries = folder.read_dir().unwrap().map(|it| it.unwrap().path());
        let shards = entries.filter(|it| it.extension().is_some_and(|end| end == "safetensors"));
        let mut shards: Vec<String> =
            shards.map(|it| it.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        shards.sort();
        assert_eq!(shards.join(" "), expected, "{options:?}");
        let is_all = expected.split(' ').count() == 5;
        assert_eq!(summary["fingerprint"].is_string(), is_all, "{options:?}");
        let headers_only = options.contains(&"--headers-only");
        let awaited = summary["hub"]["awaited"].as_array().unwrap().len();
        let is_one = options.contains(&"--only-stage");
        assert_eq!(
            awaited,
            if !headers_only {
                0
            } else if is_one {
                1
            } else {
                5
            },
            "{options:?}"
        );
        for model in here.read_dir().unwrap().map(|it| it.unwrap().path()) {
            if model.extension().is_some_and(|end| end == "onnx") {
                let inspected = run(&["inspect", text(&model), "--json"]).stdout;
                let inspected: Value = serde_json::from_slice(&inspected).unwrap();
                assert_eq!(inspected["whole"], !headers_only);
                let metadata = inspected["properties"]["gpt_oss_export"].as_str().unwrap();
                let metadata: Value = serde_json::from_str(metadata).unwrap();
                assert_eq!(metadata["data"].is_object(), !headers_only);
            }
        }
        // What one stage has not fetched, another one fetches.
        if !is_all && !headers_only {
            let whole =
                hub.export(&export_args(Path::new(REPOSITORY), &here.join("all.onnx"), &[]));
            assert!(whole["fingerprint"].is_string());
            let fetched = whole["hub"]["fetched"].as_array().unwrap().len();
            assert_eq!(fetched, 5 - expected.split(' ').count());
        }
    }
}

#[test]
fn one_stage_of_a_local_checkpoint_needs_all_of_it() {
    let home = Home::new();
    copy_folder(&by_layer(), &home.checkpoint());
    fs::remove_file(home.checkpoint().join("layer-2.safetensors")).unwrap();
    let sentence = home.refusal("m", &["--stages", "3", "--only-stage", "1"]);
    assert_contains(&sentence, "layer-2.safetensors");
}

#[test]
fn swappable_adapters_have_files_for_the_stages_that_they_change() {
    let home = Home::with("tiny-hf");
    let adapter = text(&fixture("lora/attention")).to_owned();
    let options = ["--adapter-as", "swappable", "--adapter", &adapter, "--kv-cache"];
    let (model, summary) = home.export("m", &[&options[..], &["--stages", "3"]].concat());
    let files = summary["adapters"][0]["files"].as_array().unwrap();
    let slots = |model: &Path| export(&["inspect", text(model)])["swappable"].clone();
    for (at, path) in stage_paths(&model, 3).iter().enumerate() {
        let layers = slots(path);
        for module in layers.as_array().unwrap() {
            assert_eq!(module["layers"], json!([at]));
        }
        let file = home.join(format!("attention.stage-{}-of-3.onnx_adapter", at + 1));
        let expected = home.join("later.onnx_adapter");
        if layers == json!([]) {
            assert!(!file.exists());
            continue;
        }
        assert!(files.contains(&json!(file)));
        // The same as for a stage that exists.
        let arguments = ["adapter", &adapter, "--for", text(path), "-o", text(&expected)];
        let part =
            format!("part     stage {} of 3, layer {at} (the model has 3): write a file", at + 1);
        assert_contains(&printed(&mut binary(&arguments)), &part);
        assert_eq!(fs::read(&file).unwrap(), fs::read(&expected).unwrap());
    }
    // All that it changes is in some stage, and said of all as one.
    let (whole, expected) = home.export("whole", &options);
    assert_eq!(slots(&whole), expected["model"]["swappable"]);
    let printed =
        run(&export_args(&home.checkpoint(), &model, &[&options[..], &["--stages", "3"]].concat()));
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert_contains(&printed, "part     ");
    assert_contains(&printed, "swappable");
}

/// Whether lm_head is the embedding decides what the last stage computes, so that both are compared; no
/// other stage needs that.
#[test]
fn a_stored_lm_head_is_compared_with_the_embedding_by_the_last_stage() {
    for is_copy in [true, false] {
        let repository = by_layer();
        edit_json(&repository.join("config.json"), |it| it["tie_word_embeddings"] = json!(true));
        let mut head = read(&repository.join("head.safetensors"));
        if is_copy {
            let embedding = read(&repository.join("embedding.safetensors"));
            let embedding = embedding["model.embed_tokens.weight"].clone();
            head.insert("lm_head.weight".to_owned(), embedding);
            write(&repository.join("head.safetensors"), &head);
        }
        for (stage, shards) in [("1", 2), ("2", 1), ("3", 3)] {
            let (hub, here) = (FakeHub::serving_as(REPOSITORY, &repository), Home::new());
            let model = here.join("m.onnx");
            let options = ["--stages", "3", "--only-stage", stage];
            let arguments = export_args(Path::new(REPOSITORY), &model, &options);
            if stage == "3" && !is_copy {
                assert_contains(&hub.failure(&arguments), "ties lm_head to the embedding");
                continue;
            }
            hub.export(&arguments);
            let fetched = files(&here).into_iter().filter(|it| it.ends_with(".safetensors"));
            assert_eq!(fetched.count(), shards, "{stage}");
        }
    }
}

/// By its headers.
#[test]
fn cuts_are_refused_before_weights_are_fetched() {
    let repository = by_layer();
    let (hub, here) = (FakeHub::serving_as(REPOSITORY, &repository), Home::new());
    let model = here.join("m.onnx");
    let arguments = export_args(Path::new(REPOSITORY), &model, &["--stages", "4"]);
    assert_contains(&hub.failure(&arguments), "a model of 3 layers cannot be cut into 4 stages");
    assert!(!files(&here).iter().any(|it| it.ends_with(".safetensors")));
}

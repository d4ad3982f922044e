//! Models as several graphs: how they are cut, what each reads and says, and what a host gets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use gpt_oss_export::checkpoint::Checkpoint;
use gpt_oss_export::model::{Part, cut};
use gpt_oss_export::weights::Weight;
use serde_json::{Value, json};

use crate::fake_hub::{FakeHub, REPOSITORY, files};
use crate::layout_fixtures::{config, home, in_layout, read, write, write_index};
use crate::puzzle::puzzle;
use crate::sizes::sparse;
use crate::support::{
    Home, assert_contains, cases, contents, copy_folder, export, export_args, fixture,
    model_metadata, open, run, text, words,
};

/// The files of a model's stages.
pub fn stage_paths(model: &Path, count: usize) -> Vec<PathBuf> {
    let stem = model.file_stem().unwrap().to_str().unwrap();
    let name = |number| format!("{stem}.stage-{number}-of-{count}.onnx");
    (1..=count).map(|number| model.with_file_name(name(number))).collect()
}

/// A checkpoint whose lm_head is the embedding.
fn tied() -> Home {
    let (mut config, mut tensors) = (config(), in_layout("hf"));
    config["tie_word_embeddings"] = json!(true);
    tensors.remove("lm_head.weight");
    home(&config, &tensors)
}

fn names(values: &Value) -> Vec<&str> {
    values.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect()
}

/// The bytes that models read, by file, each once.
fn bytes_read(models: &[PathBuf]) -> BTreeMap<(String, u64), u64> {
    let reads = models.iter().flat_map(|model| {
        let reads = export(&["inspect", text(model)])["reads"].take();
        serde_json::from_value::<Vec<Value>>(reads).unwrap()
    });
    let mut all: Vec<(String, u64, u64)> = reads
        .map(|it| {
            let number = |key: &str| it[key].as_u64().unwrap();
            (it["file"].as_str().unwrap().to_owned(), number("offset"), number("length"))
        })
        .collect();
    all.sort();
    let mut joined: Vec<(String, u64, u64)> = Vec::new();
    for (file, offset, length) in all {
        match joined.last_mut() {
            Some((last, start, so_far)) if *last == file && offset <= *start + *so_far => {
                *so_far = (*so_far).max(offset + length - *start);
            }
            _ => joined.push((file, offset, length)),
        }
    }
    joined.into_iter().map(|(file, offset, length)| ((file, offset), length)).collect()
}

#[test]
fn stages_share_the_work_and_the_bytes_of_a_model() {
    let table = "2 | 0..2 2..3
        3 | 0..1 1..2 2..3
        1 | 0..3
        0..1,1..3 | 0..1 1..3";
    for home in [Home::with("tiny"), Home::with("tiny-hf"), tied()] {
        for target in [&["--kv-cache"][..], &["--target", "ort", "--last-logits"]] {
            let (whole, expected) = home.export("whole", target);
            for [stages, layers] in cases(table) {
                let (model, summary) = home.export("m", &[target, &["--stages", stages]].concat());
                assert!(!model.exists());
                assert_eq!(summary["model"], json!(null));
                assert_eq!(summary["weights"]["in_place"], true);
                assert_eq!(summary["weights"]["bytes_written"], 0);
                assert_eq!(
                    summary["weights"]["bytes_referenced"],
                    expected["weights"]["bytes_referenced"]
                );
                let paths = stage_paths(&model, words(layers).len());
                let stages = summary["stages"].as_array().unwrap();
                assert_eq!(stages.len(), paths.len());
                for (at, (path, range)) in paths.iter().zip(words(layers)).enumerate() {
                    let bounds: Vec<usize> =
                        range.split("..").map(|it| it.parse().unwrap()).collect();
                    assert_stage(path, &stages[at], [at + 1, paths.len()], &bounds, &expected);
                }
                // Together they read what the whole model reads.
                assert_eq!(bytes_read(&paths), bytes_read(&[whole.clone()]));
                paths.iter().for_each(|path| fs::remove_file(path).unwrap());
            }
        }
    }
}

/// What a stage says of itself, takes and gives.
fn assert_stage(
    path: &Path,
    summary: &Value,
    [number, of]: [usize; 2],
    layers: &[usize],
    whole: &Value,
) {
    let [start, end] = *layers else { panic!("{layers:?}") };
    let stage = json!({
        "number": number, "of": of, "layers": {"start": start, "end": end}, "all_layers": 3,
    });
    let metadata = model_metadata(path);
    assert_eq!(metadata["stage"], stage);
    assert_eq!(metadata["fingerprint"], whole["fingerprint"]);
    assert_eq!(metadata["layers"], 3);
    let inspection = export(&["inspect", text(path)]);
    assert_eq!(inspection["stage"], stage);
    assert_eq!(inspection["whole"], true);
    assert_eq!(summary["path"], text(path));
    for (key, value) in stage.as_object().unwrap() {
        assert_eq!(&summary["stage"][key], value);
    }
    // The embedding, and then after each layer.
    let residuals = metadata["residuals"].as_array().unwrap().len();
    assert_eq!(residuals, end - start + usize::from(start == 0));
    assert_eq!(metadata["routers"].as_array().unwrap().len(), end - start);

    let first = if start == 0 { "input_ids" } else { &format!("hidden_states.{start}") };
    let last = if end == 3 { "logits" } else { &format!("hidden_states.{end}") };
    for (kind, own, cache) in [("inputs", first, "past_key_values."), ("outputs", last, "present.")]
    {
        let found = names(&inspection[kind]);
        assert_eq!(found[0], own);
        // What the whole model has, but for the tokens, and the caches of other layers.
        let is_own = |name: &&str| match name.strip_prefix(cache) {
            Some(rest) => (start..end).contains(&rest.split('.').next().unwrap().parse().unwrap()),
            None => *name == "attention_mask",
        };
        let expected: Vec<&str> = names(&whole["model"][kind]).into_iter().filter(is_own).collect();
        assert_eq!(found[1..], expected);
    }
    let shape = |kind: &str| inspection[kind][0]["shape"].clone();
    let hidden = json!(["B", "T", 96]);
    assert!(start == 0 || shape("inputs") == hidden);
    assert!(end == 3 || shape("outputs") == hidden);
}

#[test]
fn a_part_by_itself_is_at_the_output() {
    let home = Home::with("tiny");
    for (range, first, last) in [
        ("0..1", "input_ids", "hidden_states.1"),
        ("1..2", "hidden_states.1", "hidden_states.2"),
        ("1..3", "hidden_states.1", "logits"),
    ] {
        let (model, summary) = home.export("part", &["--kv-cache", "--layers", range]);
        assert_eq!(names(&summary["model"]["inputs"])[0], first);
        assert_eq!(names(&summary["model"]["outputs"])[0], last);
        let stage = &model_metadata(&model)["stage"];
        assert_eq!((&stage["number"], &stage["all_layers"]), (&json!(null), &json!(3)));
        assert_eq!(summary["stages"], json!(null));
    }
    // All layers are the whole model, and what a whole model is says nothing of stages.
    let (whole, _) = home.export("whole", &[]);
    let (part, _) = home.export("part", &["--layers", "0..3"]);
    assert_eq!(fs::read(&whole).unwrap(), fs::read(&part).unwrap());
    assert_eq!(model_metadata(&whole)["stage"], json!(null));
}

/// All ways to cut layers into parts.
fn all_cuts(start: usize, end: usize, parts: usize) -> Vec<Vec<Range<usize>>> {
    if parts == 1 {
        return vec![vec![start..end]];
    }
    let middles = (start + 1)..=(end + 1 - parts);
    let with_first = |middle| {
        let rest = all_cuts(middle, end, parts - 1).into_iter();
        rest.map(move |rest| [vec![start..middle], rest].concat())
    };
    middles.flat_map(with_first).collect()
}

/// What an optimal cut has the least of: the largest part, then the sum of squares.
fn cost(checkpoint: &Checkpoint, cut: &[Range<usize>]) -> (u64, u128) {
    let all_layers = checkpoint.config.num_layers();
    let bytes = cut.iter().map(|layers| {
        let part = Part { stage: None, layers: layers.clone(), all_layers };
        part.weights(&checkpoint.weights).map(Weight::bytes).sum::<u64>()
    });
    let squares = bytes.clone().map(|it| u128::from(it).pow(2)).sum();
    (bytes.max().unwrap(), squares)
}

#[test]
fn cuts_are_optimal() {
    let large = Home::new();
    sparse(&large.checkpoint(), 12, 4, 1);
    // Layers of 8, 4 and 8 experts.
    let (config, tensors) = puzzle();
    let homes = [large, home(&config, &tensors), tied(), Home::with("trained")];
    for checkpoint in homes.iter().map(|home| open(&home.checkpoint())) {
        let layers = checkpoint.config.num_layers();
        for parts in 1..=layers.min(6) {
            let found = cut(&checkpoint.weights, parts);
            assert_eq!(found.len(), parts);
            assert!(found.iter().all(|it| !it.is_empty()));
            let ends = found.iter().map(|it| it.end);
            assert!(
                [0].into_iter().chain(ends).eq(found.iter().map(|it| it.start).chain([layers]))
            );
            let all = all_cuts(0, layers, parts).into_iter();
            let least = all.map(|cut| cost(&checkpoint, &cut)).min().unwrap();
            assert_eq!(cost(&checkpoint, &found), least);
        }
    }
}

#[test]
fn refuses_cuts_that_are_none() {
    let table = "--stages 4 | a model of 3 layers cannot be cut into 4 stages: each needs a layer of its own; pass --stages 3
        --layers 2 --stages 3 | a model of 2 layers cannot be cut into 3 stages
        --stages 0..2,2..4 | the stages end before layer 4, and the model has 3 layers: end the last stage with 3
        --stages 0..1,1..2 | the stages end before layer 2, and the model has 3 layers: end the last stage with 3
        --stages 0..1,2..3 | the stage 2..3 begins with layer 2, expected 1: stages have all layers, each once and in order
        --stages 0..2,1..3 | the stage 1..3 begins with layer 1, expected 2
        --stages 1..3 | the stage 1..3 begins with layer 1, expected 0
        --stages 1..3,0..1 | the stage 1..3 begins with layer 1, expected 0
        --stages 0..0,0..3 | 0..0 has no layer: write the first layer, and that behind the last one
        --stages 0..3,3..3 | 3..3 has no layer
        --stages 3..0 | 3..0 has no layer
        --layers 2..2 | 2..2 has no layer
        --layers 1..4 | the part ends before layer 4, and the model has 3 layers: end it with 3 at most
        --stages 2 --only-stage 3 | there is no stage 3 of 2: stages count from 1
        --stages 0..1,1..3 --only-stage 3 | there is no stage 3 of 2
        --stages 2 --for genai | onnxruntime-genai runs a model in one graph, and not its stages: export the whole model for it
        --stages 2 --genai | onnxruntime-genai runs a model in one graph
        --layers 1..2 --genai | onnxruntime-genai runs a model in one graph
        --stages 2 --transformers-js | transformers.js runs a model in one graph
        --stages 2 --layers 1..2 | --layers A..B is one part of a model, and --stages cuts all of it: pass one of them
        --stages 2 --only-stage 1 --verify | --verify runs all layers: leave out --only-stage and --layers A..B
        --layers 1..2 --verify | --verify runs all layers";
    let home = Home::with("tiny");
    for [options, expected] in cases(table) {
        assert_contains(&home.refusal("m", &words(options)), expected);
    }
    let staged = home.join("w.safetensors");
    let table =
        "--output m.onnx --stages 0 | expected a whole number from 1, or layers such as 0..6,6..12
        --output m.onnx --stages 2,3 | expected a whole number from 1, or layers
        --output m.onnx --stages ..3 | expected a whole number from 1, or layers
        --output m.onnx --stages 0..=3 | expected a whole number from 1, or layers
        --output m.onnx --stages 0..99999999999999999999 | expected a whole number from 1, or layers
        --output m.onnx --layers 1.. | expected a whole number from 1, or A..B
        --output m.onnx --only-stage 1 | --stages
        --output m.onnx --stages 2 --only-stage 0 | expected a whole number from 1
        --save-weights W --skip-onnx --stages 2 | cannot be used with";
    for [options, expected] in cases(table) {
        let options: Vec<&str> = words(options)
            .into_iter()
            .map(|it| if it == "W" { text(&staged) } else { it })
            .collect();
        let output = run(&[&["--checkpoint", text(&home.checkpoint())], &*options].concat());
        assert_eq!(output.status.code(), Some(2));
        assert_contains(&String::from_utf8(output.stderr).unwrap(), expected);
    }
}

#[test]
fn one_stage_that_cannot_be_written_keeps_all_from_appearing() {
    let home = Home::with("tiny");
    fs::create_dir(home.join("m.stage-2-of-3.onnx")).unwrap();
    let sentence = home.refusal("m", &["--stages", "3", "--external-data", "copy"]);
    assert_contains(&sentence, "m.stage-2-of-3.onnx`");
}

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
        let options: Vec<&str> = words(options)
            .into_iter()
            .map(|it| if it == "W" { text(&staged) } else { it })
            .collect();
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
        assert!(run(&arguments).status.success());
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

#[test]
fn stages_of_released_sizes_are_even_and_in_place() {
    for (layers, experts, stages) in [(24, 32, 2), (36, 128, 4)] {
        let home = Home::new();
        let total = sparse(&home.checkpoint(), layers, experts, 7);
        let stages_text = stages.to_string();
        let options = ["--target", "ort", "--stages", &stages_text];
        let (_, summary) = home.export("m", &options);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_eq!(summary["weights"]["bytes_referenced"], total);
        let mean = total as f64 / stages as f64;
        for stage in summary["stages"].as_array().unwrap() {
            let bytes = stage["stage"]["weights_bytes"].as_f64().unwrap();
            assert!((bytes / mean - 1.0).abs() < 0.1, "{bytes} of {mean}");
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

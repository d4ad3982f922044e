//! Models as several graphs: how they are cut, what each reads and says, and what a host gets.

use std::collections::BTreeMap;
use std::fs;
use std::iter::once;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use gpt_oss_export::checkpoint::Checkpoint;
use gpt_oss_export::model::{ModelPart, cut};
use gpt_oss_export::weights::Weight;
use serde_json::{Value, json};

use crate::layout_fixtures::{config, home, in_layout};
use crate::puzzle::puzzle;
use crate::sizes::sparse;
use crate::support::{
    Home, assert_contains, cases, export, model_metadata, open, run, text, words,
};

/// The files of a model's stages.
pub fn stage_paths(model: &Path, count: usize) -> Vec<PathBuf> {
    let stem = model.file_stem().unwrap().to_str().unwrap();
    let name = |number| format!("{stem}.stage-{number}-of-{count}.onnx");
    (1..=count).map(|number| model.with_file_name(name(number))).collect()
}

/// A checkpoint whose lm_head is the embedding.
pub fn tied() -> Home {
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
                assert_eq!(bytes_read(&paths), bytes_read(from_ref(&whole)));
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
        return vec![once(start..end).collect()];
    }
    let middles = (start + 1)..=(end + 1 - parts);
    let with_first = |middle| {
        let rest = all_cuts(middle, end, parts - 1).into_iter();
        rest.map(move |rest| once(start..middle).chain(rest).collect())
    };
    middles.flat_map(with_first).collect()
}

/// What an optimal cut has the least of: the largest part, then the sum of squares.
fn cost(checkpoint: &Checkpoint, cut: &[Range<usize>]) -> (u64, u128) {
    let all_layers = checkpoint.config.num_layers();
    let bytes = cut.iter().map(|layers| {
        let part = ModelPart { stage: None, layers: layers.clone(), all_layers };
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
        --stages 2 --only-stage 1 --verify | --verify runs all layers: leave it out, and run `verify` once all stages are written
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
        let options = options.replace('W', text(&staged));
        let options = words(&options);
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

#[test]
fn stages_of_released_sizes_are_even_and_in_place() {
    for (layers, experts, stages) in [(24, 32, 2u32), (36, 128, 4)] {
        let home = Home::new();
        let total = sparse(&home.checkpoint(), layers, experts, 7);
        let stages_text = stages.to_string();
        let options = ["--target", "ort", "--stages", &stages_text];
        let (_, summary) = home.export("m", &options);
        assert_eq!(summary["weights"]["bytes_written"], 0);
        assert_eq!(summary["weights"]["bytes_referenced"], total);
        let mean = total as f64 / f64::from(stages);
        for stage in summary["stages"].as_array().unwrap() {
            let bytes = stage["stage"]["weights_bytes"].as_f64().unwrap();
            assert!((bytes / mean - 1.0).abs() < 0.1, "{bytes} of {mean}");
        }
    }
}

//! Dense matrices in two digits of 8 bits: what that costs, in every graph, and what reads them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::environment::{OPENVINO, assert_steps, assert_within, reference};
use super::lossless_experts::{exported_in, ways};
use super::verify::passes;
use crate::layout_fixtures::edit_tensors;
use crate::support::{Home, assert_contains, edit_json, fixture, text, words};

fn models(home: &Home, options: &[&str]) -> Vec<PathBuf> {
    exported_in(home, "dense", "int8x2", options).into_iter().map(|it| it.0).collect()
}

/// Compares with the reference in steps of at most 60 tokens, and of more.
fn verified(model: &Path, checkpoint: &Path, options: &[&str]) {
    for tokens in ["20", "100"] {
        passes(model, checkpoint, &[&["--tokens", tokens], options].concat());
    }
}

/// Of few tokens and of many, with queries, keys and values fused and apart.
#[test]
fn logits_are_nearly_those_of_openais_implementation() {
    let options = [
        "",
        "--kv-cache --functions",
        "--target ort",
        "--target ort --functions --experts f32",
        "--target ort --keep-activations",
        "--target ort --external-data copy --max-shard-size 600kB",
    ];
    for (fixture, names) in [("tiny", &["2x40", "1x300"][..]), ("tiny-hf", &["2x40"])] {
        let home = Home::with(fixture);
        let names: Vec<Value> = names.iter().copied().map(reference).collect();
        assert_within(1e-4, &models(&home, &options), "onnxruntime", &names);
    }
    let home = Home::with("trained");
    assert_within(2e-4, &models(&home, &options), "onnxruntime", &[reference("trained")]);
    let home = Home::with("tiny");
    assert_within(1e-4, &models(&home, &[""]), OPENVINO, &[reference("2x40")]);
    let home = Home::with("tiny-3-heads");
    let sentence = home.refusal("m", &["--dense", "int8x2"]);
    assert_contains(
        &sentence,
        "rows of 72 elements, and conversions to int8x2 need a multiple of 32",
    );
}

/// Steps past the window of 8, of rows of unequal length, of more than 64 tokens and fewer.
#[test]
fn steps_are_nearly_exact() {
    let home = Home::with("tiny");
    let models = models(&home, &["--target ort", "--kv-cache"]);
    assert_steps(1e-4, &models, &["2x40", "1x300"], ways());
}

/// `verify` compares with the model's own values, and so knows what multiplying digits costs.
#[test]
fn staged_files_are_read_and_converted() {
    for fixture in ["tiny", "tiny-hf"] {
        let home = Home::with(fixture);
        let (staged, summary) = home.stage("staged", &["--dense", "int8x2"]);
        assert_eq!(summary["dense"]["format"], "int8x2");
        for options in ["--target ort", "--kv-cache", "--target ort --keep-activations"] {
            let (model, summary) = home.export_staged(&staged, "m", &words(options));
            assert_eq!(summary["weights"]["bytes_written"], 0);
            for source in [&staged, &home.checkpoint()] {
                let report = passes(&model, source, &[]);
                assert_eq!(report["weights"]["different"], json!([]), "{options}");
            }
        }
        // Sixteen bits are numbers of f32, and little is lost on the way to 8.
        for (format, most) in [("f32", 0.0), ("int8", 0.02)] {
            let (model, summary) =
                home.export_staged(&staged, "again", &["--dense", format, "--kv-cache"]);
            let error = summary["dense"]["converted"]["relative_error"].as_f64().unwrap();
            assert!(error <= most && (most == 0.0 || error > 0.0), "{format}: {summary}");
            passes(&model, &staged, &[]);
        }
    }
}

/// Vocabularies of a prime number of tokens fill no blocks of rows; lm_head may be the embedding.
#[test]
fn rows_that_fill_no_block_are_multiplied() {
    for (vocabulary, is_tied) in [(331, false), (521, true), (257, false), (3, true)] {
        let home = Home::with("tiny-hf");
        edit_json(&home.checkpoint().join("config.json"), |config| {
            config["vocab_size"] = vocabulary.into();
            config["tie_word_embeddings"] = is_tied.into();
        });
        edit_tensors(&home.checkpoint(), |tensors| {
            if is_tied {
                tensors.remove("lm_head.weight");
            }
            for name in ["model.embed_tokens.weight", "lm_head.weight"] {
                let Some((_, shape, bytes)) = tensors.get_mut(name) else { continue };
                let row = bytes.len() / shape[0];
                *bytes = bytes.iter().copied().cycle().take(row * vocabulary).collect();
                shape[0] = vocabulary;
            }
        });
        for model in models(&home, &["--target ort"]) {
            verified(&model, &home.checkpoint(), &[]);
        }
    }
}

#[test]
fn adapters_change_products_of_digits() {
    let adapter = fixture("lora").join("attention");
    let home = Home::with("tiny-hf");
    for way in ["inline", "swappable", "merge"] {
        let options =
            ["--target", "ort", "--dense", "int8x2", "--adapter", text(&adapter), "--adapter-as"];
        let (model, _) = home.export(way, &[&options[..], &[way]].concat());
        verified(&model, &home.checkpoint(), &["--adapter", text(&adapter)]);
    }
}

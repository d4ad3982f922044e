//! A model that was trained on text: its routers decide, its weights are no noise, and what
//! rounding costs can be measured in likelihood. Expected values are of transformers in float32.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::environment::{assert_within, python, reference};
use crate::support::{Home, fixture, read_json};

fn exported(home: &Home, formats: &[&[&str]]) -> Vec<PathBuf> {
    let export = |(at, options): (usize, &&[&str])| home.export(&at.to_string(), options).0;
    formats.iter().enumerate().map(export).collect()
}

/// For each window, and each model: mean negative log-likelihood of a text that training did not
/// see, divergence from the first model, and share of equal likeliest tokens.
fn measured(models: &[PathBuf], windows: &[usize]) -> Vec<Vec<[f64; 3]>> {
    let ids = fixture("trained/held-out.ids.npy");
    let request = json!({"models": models, "ids": ids, "windows": windows});
    serde_json::from_value(python("perplexity.py", &[], &request)).unwrap()
}

#[test]
fn text_is_as_likely_as_in_transformers() {
    const WINDOWS: [usize; 3] = [128, 512, 2048];
    let home = Home::with("trained");
    let exact = [&[][..], &["--target", "ort"], &["--experts", "bf16", "--functions"]];
    let models = exported(&home, &exact);
    assert_within(5e-5, &models, "onnxruntime", &[reference("trained")]);
    let expected = read_json(&fixture("trained/expected.json"));
    for (window, found) in WINDOWS.iter().zip(measured(&models, &WINDOWS)) {
        let expected = &expected["perplexity_by_window"][window.to_string()]["mean_nll"];
        for [cost, divergence, same] in found {
            let difference = cost - expected.as_f64().unwrap();
            let context = format!("window {window}: {difference:e}, {divergence:e}, {same}");
            assert!(difference.abs() < 1e-6 && divergence < 1e-10 && same > 0.999, "{context}");
        }
    }
}

/// Integer formats change the likelihood of text, each within its own bounds: not so much as a
/// wrong code or scale would, and not so little as if nothing had been rounded.
#[test]
fn integer_formats_cost_what_their_rounding_does() {
    let int4 = ["--experts", "int4", "--dense", "int4"];
    let formats: [(&[&str], [f64; 2]); 7] = [
        (&["--dense", "int8x2"], [1e-14, 1e-10]),
        (&["--dense", "int8x2", "--target", "ort"], [1e-14, 1e-10]),
        (&["--dense", "int8", "--keep-activations"], [1e-7, 1e-4]),
        // Experts in int8 are exact; onnxruntime rounds activations.
        (&["--experts", "int8", "--target", "ort"], [1e-5, 4e-4]),
        (&["--experts", "int8", "--dense", "int8", "--target", "ort"], [1e-5, 1e-3]),
        (&["--experts", "int4"], [5e-4, 5e-3]),
        (&int4, [1e-3, 1e-2]),
    ];
    let home = Home::with("trained");
    let options: Vec<&[&str]> = [&[][..]].into_iter().chain(formats.map(|it| it.0)).collect();
    let found = measured(&exported(&home, &options), &[512]).remove(0);
    for ((options, [least, most]), [_, divergence, same]) in formats.iter().zip(&found[1..]) {
        let within = *least < *divergence && divergence < most && *same > 0.9;
        assert!(within, "{options:?}: {divergence:e} {same}");
    }
}

/// Prompts continued by the likeliest token; the closest decision is won by 0.0011.
#[test]
fn greedy_continuations_are_those_of_transformers() {
    let home = Home::with("trained");
    let models = exported(&home, &[&["--kv-cache"], &["--target", "ort"]]);
    let expected = read_json(&fixture("trained/expected.json"));
    for case in expected["greedy"].as_array().unwrap() {
        let request = json!({"models": models, "prompt": case["prompt_ids"], "tokens": 48});
        let found: Value = python("greedy.py", &[], &request);
        assert_eq!(found, json!([case["ids"], case["ids"]]), "{}", case["prompt"]);
    }
}

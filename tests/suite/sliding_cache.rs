//! Caches of sliding layers that keep the last tokens: where they are the default, what is said of
//! them, and what is refused.

use std::fs;

use serde_json::{Value, json};

use crate::genai::{generation, package};
use crate::inspect::inspect;
use crate::sizes::sparse;
use crate::support::{
    Home, assert_contains, binary, cases, edit_json, printed, read_json, text, words,
};

/// A model of three layers with these windows.
pub fn with_windows(windows: [Option<u64>; 3]) -> Home {
    let home = Home::with("tiny-hf");
    edit_json(&home.checkpoint().join("config.json"), |config| {
        let sizes: Vec<u64> = windows.iter().flatten().copied().collect();
        let kind = |window: &Option<u64>| {
            if window.is_some() { "sliding_attention" } else { "full_attention" }
        };
        config["layer_types"] = json!(windows.each_ref().map(kind));
        config["sliding_window"] = json!(sizes.first().unwrap_or(&8));
        // One window for all is what the format has; others are of a Puzzle model.
        if sizes.iter().any(|size| *size != sizes[0]) {
            let experts = config["num_local_experts"].take();
            let block = |window| json!({"num_local_experts": experts, "sliding_window": window});
            config["block_configs"] = json!(windows.map(block));
            config["model_type"] = json!("gpt_oss_puzzle");
            config["architectures"] = json!(["GptOssPuzzleForCausalLM"]);
            let keys = config.as_object_mut().unwrap();
            keys.retain(|key, _| !["num_local_experts", "sliding_window"].contains(&&**key));
        }
    });
    fs::write(home.checkpoint().join("generation_config.json"), generation()).unwrap();
    home
}

/// A cache has the window less one, and 16 tokens that can be taken back.
#[test]
fn caches_are_limited_where_nothing_is_lost() {
    let table = " | -
        --last-logits | -
        --kv-cache | 23 in 0 2
        --kv-cache --functions --seq-len 2 --batch-size 3 | 23 in 0 2
        --kv-cache --sliding-cache full | -
        --target ort | 23 in 0 2
        --target ort --sliding-cache full | -
        --target ort --ep cuda | 23 in 0 2
        --target ort --ep webgpu --experts int4 | 23 in 0 2
        --for openvino | 23 in 0 2
        --for genai | 23 in 0 2
        --for genai --sliding-cache full | -
        --genai | -";
    let home = with_windows([Some(8), None, Some(8)]);
    for [options, expected] in cases(table) {
        let (model, summary) = home.export("model", &words(options));
        let limited = summary["model"]["limited_caches"].as_array().cloned().unwrap_or_default();
        let layers = |it: &Value| {
            let layers = it["layers"].as_array().unwrap().iter().map(Value::to_string);
            layers.collect::<Vec<_>>().join(" ")
        };
        let shown: Vec<String> =
            limited.iter().map(|it| format!("{} in {}", it["tokens"], layers(it))).collect();
        assert_eq!(shown.join(", "), expected.replace('-', ""), "{options}");
        let inspected = inspect(&model, &[]);
        assert_eq!(inspected.get("limited_caches"), summary["model"].get("limited_caches"));
    }
}

#[test]
fn what_is_kept_is_said() {
    let keep = "can be taken back: the last places of every cache; keep full caches to go back further; pass --sliding-cache full";
    for (windows, options, lines) in [
        (
            [Some(8), None, Some(8)],
            "--target ort",
            &[
                "cache    2 layers keep the last 23 tokens of each row (window 8)\n  up to 16 tokens ",
                keep,
            ][..],
        ),
        (
            [Some(1), Some(8), None],
            "--kv-cache",
            &[
                "cache    1 layer keeps the last 16 tokens of each row (window 1)\ncache    1 layer keeps the last 23 tokens of each row (window 8)\n",
                keep,
            ],
        ),
        (
            [Some(8), None, None],
            "--for genai",
            &[
                "  onnxruntime-genai does not rewind longer texts; keep full caches to go back further; pass --sliding-cache full\n",
            ],
        ),
        (
            [None; 3],
            "--target ort",
            &["  output present.0.key … present.2.value f32 [B, 2, P+T, 32]\nneeds"],
        ),
    ] {
        let home = with_windows(windows);
        let model = home.join("model.onnx");
        let summary = home.printed_summary("model", &words(options));
        lines.iter().for_each(|line| assert_contains(&summary, line));
        let inspected = printed(&mut binary(&["inspect", text(&model)]));
        for line in summary.lines().filter(|line| line.starts_with("cache ")) {
            assert_contains(&inspected, line.trim_start_matches("cache").trim());
        }
        assert_eq!(summary.contains("\ncache "), windows != [None; 3], "{summary}");
    }
}

#[test]
fn refuses_caches_that_a_runtime_cannot_use() {
    let no_cache =
        "what caches keep applies to a model with a cache alone; pass --kv-cache or --target ort";
    let no_buffer = "onnxruntime-genai does not support target `onnx` with caches that are limited to the window: it would go back in a text to the wrong tokens; pass --sliding-cache full or --target ort";
    let no_length = "transformers.js takes the length of a text from the first cache, and no layer of this model keeps all tokens: keep full caches; pass --sliding-cache full";
    let home = with_windows([Some(8); 3]);
    for (output, options, sentence) in [
        ("model", "--sliding-cache full", no_cache),
        ("model", "--sliding-cache window --last-logits", no_cache),
        ("model", "--genai --sliding-cache window", no_buffer),
        ("onnx/model", "--transformers-js --sliding-cache window", no_length),
    ] {
        assert_eq!(home.refusal(output, &words(options)), sentence, "{options}");
    }
    let limited = |(_, summary): (_, Value)| !summary["model"]["limited_caches"].is_null();
    assert!(!limited(home.export("onnx/model", &["--transformers-js"])));
    assert!(limited(home.export("model", &["--target", "ort"])));
}

/// A place of a layer has 2 · 8 · 64 · 4 bytes. By onnxruntime-genai's documentation, sliding layers
/// have places for the window and a chunk less one, or the slack if it is larger.
#[test]
fn sizes_of_genai_count_the_window() {
    let home = Home::new();
    sparse(&home.checkpoint(), 24, 32, 1);
    // Scores of 64 heads take 1 GiB for 2^22 pairs of a token and a place.
    let table = "--target ort | 16384 | null | 144
        --target ort --batch-size 1 | 16384 | 256 | 383
        --target ort --batch-size 1 --max-length 131072 | 131072 | 32 | 159
        --target ort --batch-size 1 --max-length 8192 | 8192 | 512 | 639
        --target ort --max-length 100 | 100 | null | 100
        --target ort --sliding-cache full | 8192 | null | 8192
        --target ort --sliding-cache full --batch-size 1 | 8192 | 512 | 8192
        --target onnx | 8192 | null | 8192
        --target onnx --batch-size 1 --max-length 131072 | 131072 | 32 | 131072";
    for [options, length, chunk, places] in cases(table) {
        let summary = package(&home, "checkpoint/model", &words(options));
        let found = read_json(&home.join("checkpoint/genai_config.json"));
        let [length, places]: [u64; 2] = [length, places].map(|it| it.parse().unwrap());
        assert_eq!(summary["genai"]["cache_bytes"], 12 * (length + places) * 4096, "{options}");
        assert_eq!(found["search"]["max_length"], length, "{options}");
        assert_eq!(found["search"]["chunk_size"].to_string(), chunk, "{options}");
        let is_full = options.contains("full") || options.contains("onnx");
        assert_eq!(found["model"]["decoder"]["sliding_window"].is_null(), is_full, "{options}");
        // Standard operators share no buffer.
        let shares = !options.contains("onnx");
        assert_eq!(found["search"]["past_present_share_buffer"], shares, "{options}");
    }
}

//! Folders whose generators in onnxruntime-genai draft tokens.

use serde_json::json;

use crate::genai::{package, with_tokenizer};
use crate::sizes::sparse;
use crate::support::{Home, cases, read_json, words};

/// Drafts are verified by the logits of all tokens, and rejected ones are dropped from full caches.
#[test]
fn speculative_folders_have_all_logits_and_full_caches() {
    let home = Home::new();
    sparse(&home.checkpoint(), 24, 32, 1);
    let table = "--for genai --speculative | 8192 128
        --genai --speculative | 8192 128
        --for onnxruntime --genai --speculative --batch-size 1 | 8192 128
        --genai --speculative --target ort --sliding-cache full | 8192 128
        --genai --speculative --max-length 512 | 512 128
        --for genai --speculative --max-length 65536 | 65536 64
        --for genai --speculative --max-length 131072 | 131072 32";
    for [options, sizes] in cases(table) {
        let (_, summary) = home.export("checkpoint/model", &words(options));
        let model = &summary["model"];
        assert_eq!(model["outputs"][0]["shape"], json!([1, "T", 201_088]), "{options}");
        assert_eq!(model.get("limited_caches"), None, "{options}");
        assert_eq!(summary["genai"]["speculative"], true);
        let found = read_json(&home.join("checkpoint/genai_config.json"));
        let [search, decoder] = [&found["search"], &found["model"]["decoder"]];
        let written = format!("{} {}", search["max_length"], search["chunk_size"]);
        assert_eq!(written, sizes, "{options}");
        assert_eq!(search["past_present_share_buffer"], true);
        assert_eq!(decoder.get("sliding_window"), None, "{options}");
        // By onnxruntime-genai's documentation; no `ngram_size` means no drafts.
        let drafts = json!({
            "ngram_size": 4, "max_draft_tokens": 8, "ngram_chained_lookup": true,
            "min_adaptive_k": 2, "cooldown": false,
        });
        assert_eq!(found["speculative"], drafts);
    }
    package(&home, "checkpoint/model", &[]);
    assert_eq!(read_json(&home.join("checkpoint/genai_config.json")).get("speculative"), None);
}

#[test]
fn refuses_speculative_decoding_that_cannot_work() {
    const ALONE: &str =
        "speculative decoding applies to the files for onnxruntime-genai alone; pass --genai";
    const TARGET: &str = "speculative decoding does not support target `onnx`: onnxruntime-genai would continue a text after the wrong tokens; pass --target ort";
    const WINDOW: &str = "speculative decoding goes back in a text when a draft is rejected, and caches that are limited to the window have lost its tokens; pass --sliding-cache full";
    const ROWS: &str = "speculative decoding supports one row in a batch, and 2 are asked for; pass --batch-size 1";
    const LAST: &str = "speculative decoding verifies drafts by the logits of all tokens: do not ask for those of the last token alone";
    let home = with_tokenizer();
    for (options, sentences) in [
        ("--speculative", &[ALONE][..]),
        ("--for onnxruntime --speculative", &[ALONE]),
        ("--transformers-js --speculative", &[ALONE]),
        ("--genai --speculative --target onnx", &[TARGET]),
        ("--for genai --speculative --sliding-cache window", &[WINDOW]),
        ("--for genai --speculative --batch-size 2", &[ROWS]),
        ("--for genai --speculative --last-logits", &[LAST]),
        ("--for onnxruntime --genai --speculative --last-logits", &[LAST]),
        (
            "--genai --speculative --target onnx --sliding-cache window --batch-size 2 --last-logits",
            &[
                TARGET,
                WINDOW,
                ROWS,
                LAST,
                "help: those with one option can be passed together: --target ort --sliding-cache full --batch-size 1",
            ],
        ),
    ] {
        let found = home.refusal("model", &words(options)).replace("\nerror: ", "\n");
        assert_eq!(found, sentences.join("\n"), "{options}");
    }
}

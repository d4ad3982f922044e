//! Graphs as onnx sees them: its checker accepts every model, and those of the real sizes are
//! small.

use std::fs;

use serde_json::{Value, json};

use super::environment::{assert_exact, python};
use crate::fake_hub::{HubTest, files};
use crate::sizes::sparse;
use crate::support::{Home, export_args, text};

/// Exports `tiny` with options: the summary, and what onnx sees.
fn checked(options: &[&str]) -> [Value; 2] {
    let home = Home::with("tiny");
    let (model, summary) = home.export("model", options);
    [summary, python("check.py", &[text(&model)], &Value::Null)]
}

#[test]
fn standard_graph_has_standard_operators_and_small_tables() {
    let [summary, seen] = checked(&[]);
    assert_eq!(seen["ir_version"], 11);
    assert_eq!(seen["opsets"], json!({"": 23}), "standard operators alone");
    assert_eq!(seen["producer"], "gpt-oss-export");
    assert_eq!(seen["metadata"]["fingerprint"], summary["fingerprint"]);
    let options = json!({
        "target": "onnx", "provider": "cpu", "compute": "f32", "keep_activations": false,
        "style": "flat", "batch": null, "length": null, "kv_cache": false, "sliding_cache": "full",
        "last_logits": false, "batch_symbol": "B",
    });
    assert_eq!(seen["metadata"]["options"], options);
    assert_eq!(seen["metadata"]["layers"], 3);
    assert_eq!(seen["nodes"], summary["model"]["nodes"]);
    let largest = seen["largest_inline"].as_u64().unwrap();
    assert!(largest <= 2048, "weights are byte ranges, tables are small");
}

#[test]
fn onnxruntime_graph_has_a_cache_and_its_operators() {
    for (last, length) in [(false, "\"T\""), (true, "1")] {
        let options = ["--target", "ort", "--last-logits"];
        let [summary, seen] = checked(if last { &options } else { &options[..2] });
        assert_eq!(seen["ir_version"], 12, "the first with MXFP4 scales");
        assert_eq!(seen["opsets"], json!({"": 23, "com.microsoft": 1}));
        assert_eq!(seen["metadata"]["options"]["target"], "ort");
        assert_eq!(seen["metadata"]["options"]["last_logits"], last);
        assert_eq!(seen["metadata"]["requires"], summary["model"]["requires"]);
        let names = |side: &str| -> Vec<String> {
            let values = summary["model"][side].as_array().unwrap().iter();
            values.map(|value| format!("{} {}", value["name"], value["shape"])).collect()
        };
        // The caches that keep all tokens come first.
        let inputs = [
            r#""input_ids" ["B","T"]"#,
            r#""attention_mask" ["B","P+T"]"#,
            r#""past_key_values.1.key" ["B",2,"P",32]"#,
            r#""past_key_values.1.value" ["B",2,"P",32]"#,
            r#""past_key_values.0.key" ["B",2,"P_8",32]"#,
        ];
        assert_eq!(names("inputs")[..5], inputs);
        assert_eq!(names("outputs")[0], format!(r#""logits" ["B",{length},320]"#));
        assert_eq!(names("outputs")[1], r#""present.1.key" ["B",2,"P+T",32]"#);
        assert_eq!(names("outputs")[6], r#""present.2.value" ["B",2,"min(P_8+T,23)",32]"#);
    }
}

/// MatMulNBits of 8 bits makes f32 of a whole matrix in every step unless it may round
/// activations; standard operators do it once.
#[test]
fn dense_int8_uses_standard_operators_if_activations_are_kept() {
    let products = |dense: &str, options: &[&str]| {
        let base = ["--target", "ort", "--dense", dense];
        let [_, seen] = checked(&[&base, options].concat());
        ["MatMulNBits", "Gemm"].map(|op| seen["operators"][op].as_u64().unwrap_or(0))
    };
    let (attention, routers, logits) = (2 * 3, 3, 1);
    let kept = ["--keep-activations"];
    assert_eq!(products("int8", &[]), [attention + logits, routers]);
    assert_eq!(products("int8", &kept), [0, attention + logits + routers]);
    // With int4 the matrix of the logits is int8.
    assert_eq!(products("int4", &[]), [attention + logits, routers]);
    assert_eq!(products("int4", &kept), [attention, logits + routers]);
}

#[test]
fn fixed_length_is_the_length_of_a_step() {
    for target in ["onnx", "ort"] {
        let options = ["--target", target, "--kv-cache", "--seq-len", "1", "--batch-size", "2"];
        let [summary, _] = checked(&options);
        let shapes = [0, 1, 2].map(|input| &summary["model"]["inputs"][input]["shape"]);
        assert_eq!(shapes, [&json!([2, 1]), &json!([2, "P+1"]), &json!([2, 2, "P", 32])]);
        let kept = &summary["model"]["outputs"][3]["shape"];
        assert_eq!(*kept, json!([2, 2, "min(P_8+1,23)", 32]));
    }
}

#[test]
fn layers_share_functions() {
    let [_, seen] = checked(&["--functions"]);
    let functions =
        ["RMSNorm", "RotaryEmbedding", "AttentionBlock", "MLPBlock", "TransformerBlock"];
    assert_eq!(seen["functions"], json!(functions), "callees first");
    assert_eq!(seen["attributes"]["TransformerBlock"], json!(["epsilon", "window"]));
    // One node a layer; even layers have a window of 8 tokens, odd ones none.
    let calls = json!([
        {"name": "layers.0", "op": "TransformerBlock", "window": [8]},
        {"name": "layers.1", "op": "TransformerBlock", "window": [2_147_483_647]},
        {"name": "layers.2", "op": "TransformerBlock", "window": [8]},
        {"name": "norm", "op": "RMSNorm", "window": []},
    ]);
    assert_eq!(seen["calls"], calls);
}

/// The summary of an export in place, and what `check.py` finds in the model.
fn checked_in_place(layers: usize, experts: usize, shards: usize, options: &[&str]) -> [Value; 2] {
    let home = Home::new();
    let total = sparse(&home.checkpoint(), layers, experts, shards);
    let (model, summary) = home.export("model", options);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(summary["weights"]["bytes_referenced"], total);
    assert_eq!(fs::read_dir(&*home).unwrap().count(), 2);
    // onnx.checker would read 14 GB of holes; inference needs none of them.
    let found = python("check.py", &[text(&model), "--structure-only"], &Value::Null);
    let lengths = found["external"].as_array().unwrap().iter().map(|it| it["length"].as_u64());
    assert_eq!(lengths.map(Option::unwrap).sum::<u64>(), total, "every byte is referenced once");
    [summary, found]
}

fn assert_size(summary: &Value, limit: u64) {
    assert!(summary["model"]["bytes"].as_u64().unwrap() <= limit, "{summary}");
}

#[test]
fn flat_20b_is_a_graph_of_kilobytes() {
    let [summary, found] = checked_in_place(24, 32, 1, &[]);
    assert_size(&summary, 1_125_000);
    let external = found["external"].as_array().unwrap();
    let number = |tensor: &Value, key: &str| tensor[key].as_u64().unwrap();
    assert!(external.iter().any(|tensor| number(tensor, "offset") > u64::from(u32::MAX)));
    // No part of lm_head is above 1 GiB in f32, so that onnxruntime folds its cast.
    let is_part = |tensor: &&Value| tensor["name"].as_str().unwrap().starts_with("lm_head");
    let parts: Vec<&Value> = external.iter().filter(is_part).collect();
    assert!(parts.len() > 2 && parts.is_sorted_by_key(|part| number(part, "offset")));
    assert!(parts.iter().all(|part| number(part, "length") * 2 <= 1 << 30));
    let rows = parts.iter().map(|part| part["dims"][0].as_u64().unwrap());
    assert_eq!(rows.sum::<u64>(), 201_088);
}

#[test]
fn ort_20b_is_smaller() {
    let [summary, _] = checked_in_place(24, 32, 1, &["--target", "ort"]);
    assert_size(&summary, 250_000);
    assert_eq!(summary["model"]["inputs"].as_array().unwrap().len(), 2 + 2 * 24);
}

#[test]
fn functions_share_the_nodes_of_layers() {
    let [summary, _] = checked_in_place(24, 32, 1, &["--functions"]);
    assert_size(&summary, 200_000);
    assert_eq!(summary["model"]["functions"].as_array().unwrap().len(), 5);
    let [summary, _] = checked_in_place(36, 128, 7, &["--functions"]);
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 7);
    assert_eq!(summary["layers"], 36);
}

#[test]
fn headers_give_the_graph_that_weights_give() {
    let test = HubTest::new();
    let whole = test.here.join("whole.onnx");
    let names = ["owner/tiny", "owner/tiny/original"];
    for (name, target) in names.into_iter().flat_map(|name| [(name, "onnx"), (name, "ort")]) {
        let export = |model, options: &[&str]| {
            let options = [&["--target", target], options].concat();
            test.hub.export(&export_args(name.as_ref(), model, &options))
        };
        let summary = export(&test.model, &["--headers-only"]);
        assert_eq!(summary["fingerprint"], Value::Null);
        assert_eq!(summary["weights"]["in_place"], true);
        assert!(summary["hub"]["bytes_awaited"].as_u64().unwrap() > 800_000, "{summary}");
        assert!(!files(&test.folder()).iter().any(|file| file.ends_with(".safetensors")));

        assert_eq!(export(&whole, &[])["hub"]["awaited"], json!([]));
        let [found, expected] = [&test.model, &whole]
            .map(|model| python("check.py", &[text(model), "--structure-only"], &Value::Null));
        assert_eq!(found["digest"], expected["digest"]);
        let mut metadata = expected["metadata"].clone();
        for of_weights in ["data", "fingerprint"] {
            assert!(metadata.as_object_mut().unwrap().remove(of_weights).is_some());
        }
        assert_eq!(found["metadata"], metadata);
        assert_exact(&test.model, "2x40");
        fs::remove_dir_all(test.folder()).unwrap();
    }
}

/// docs/onnxruntime.md lists the tools that break bodies of loops.
#[test]
fn models_survive_edits_as_documented() {
    let home = Home::with("tiny");
    let models = ["onnx", "ort"].map(|target| {
        home.export(&format!("checkpoint/{target}"), &["--target", target, "--kv-cache"]).0
    });
    let basic = "saved at ORT_ENABLE_BASIC";
    let extended = "saved at ORT_ENABLE_EXTENDED";
    let all = ["add_prefix", "extract_model", basic, extended, "quantize_dynamic"];
    assert_eq!(python("edited.py", &[], &json!(models)), json!([[basic], all]));
}

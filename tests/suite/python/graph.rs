//! Graphs as onnx sees them: its checker accepts every model.

use serde_json::{Value, json};

use super::environment::python;
use crate::support::{export_in, folder_with_checkpoint, text};

/// Exports `tiny` with options: the summary, and what onnx sees.
fn checked(options: &[&str]) -> [Value; 2] {
    let home = folder_with_checkpoint("tiny");
    let (model, summary) = export_in(home.path(), "model", options);
    [summary, python("check.py", &[text(&model)], &Value::Null)]
}

#[test]
fn standard_graph_has_standard_operators_and_small_tables() {
    let [summary, seen] = checked(&[]);
    assert_eq!(seen["ir_version"], 11);
    assert_eq!(seen["opsets"], json!({"": 23}), "standard operators alone");
    assert_eq!(seen["producer"], "gpt-oss-export");
    assert_eq!(seen["metadata"]["fingerprint"], summary["fingerprint"]);
    assert_eq!(
        seen["metadata"]["options"],
        json!({
            "target": "onnx", "provider": "cpu", "compute": "f32", "keep_activations": false,
            "style": "flat", "batch": null, "length": null, "kv_cache": false,
            "last_logits": false, "batch_symbol": "B",
        })
    );
    assert_eq!(seen["metadata"]["layers"], 3);
    assert_eq!(seen["nodes"], summary["model"]["nodes"]);
    let largest = seen["largest_inline"].as_u64().unwrap();
    assert!(largest <= 2048, "weights are byte ranges, tables are small");
}

#[test]
fn onnxruntime_graph_has_a_cache_and_its_operators() {
    for (options, last, length) in [
        (&["--target", "ort"][..], false, "\"T\""),
        (&["--target", "ort", "--last-logits"], true, "1"),
    ] {
        let [summary, seen] = checked(options);
        assert_eq!(seen["ir_version"], 12, "the first with MXFP4 scales");
        assert_eq!(seen["opsets"], json!({"": 23, "com.microsoft": 1}));
        assert_eq!(seen["metadata"]["options"]["target"], "ort");
        assert_eq!(seen["metadata"]["options"]["last_logits"], last);
        assert_eq!(seen["metadata"]["requires"], summary["model"]["requires"]);
        let names = |side: &str| -> Vec<String> {
            let values = summary["model"][side].as_array().unwrap().iter();
            values.map(|value| format!("{} {}", value["name"], value["shape"])).collect()
        };
        assert_eq!(
            names("inputs")[..3],
            [
                r#""input_ids" ["B","T"]"#,
                r#""attention_mask" ["B","P+T"]"#,
                r#""past_key_values.0.key" ["B",2,"P",32]"#,
            ]
        );
        assert_eq!(names("outputs")[0], format!(r#""logits" ["B",{length},320]"#));
        assert_eq!(names("outputs")[6], r#""present.2.value" ["B",2,"P+T",32]"#);
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
    assert_eq!(
        seen["calls"],
        json!([
            {"name": "layers.0", "op": "TransformerBlock", "window": [8]},
            {"name": "layers.1", "op": "TransformerBlock", "window": [2_147_483_647]},
            {"name": "layers.2", "op": "TransformerBlock", "window": [8]},
            {"name": "norm", "op": "RMSNorm", "window": []},
        ])
    );
}

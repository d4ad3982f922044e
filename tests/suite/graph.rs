//! The graph as onnx's own checker sees it, and as text.

use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use gpt_oss_export::graph::{Builder, Dim, Fact, Scope, Style};
use gpt_oss_export::model::{GraphOptions, Target, decoder};
use gpt_oss_export::tensor::DType;
use serde_json::{Value, json};

use crate::support::{export, fixture, folder_with_tiny, python, text};

fn tiny() -> Checkpoint {
    Checkpoint::open(&fixture("tiny"), &IgnoredNames::default()).unwrap()
}

fn dump(checkpoint: &Checkpoint, options: GraphOptions) -> String {
    decoder(&checkpoint.config, &checkpoint.weights, options).unwrap().to_string()
}

/// Exports `tiny` with these options: the summary, and what onnx sees, whose checker must
/// accept the model.
fn export_and_check(options: &[&str]) -> [Value; 2] {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("model.onnx"));
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    let summary = export(&[&base[..], options].concat());
    [summary, python("check.py", &[text(&model)], &Value::Null)]
}

#[test]
fn dump_matches_snapshots() {
    let flat = GraphOptions::default();
    let functions = GraphOptions { style: Style::Functions, ..flat };
    for (name, options) in [
        ("flat", flat),
        ("functions", functions),
        ("cache", GraphOptions { kv_cache: true, last_logits: true, ..functions }),
        ("ort", GraphOptions { target: Target::Ort, ..flat }),
    ] {
        insta::assert_snapshot!(name, dump(&tiny(), options));
    }
}

#[test]
fn standard_graph_passes_the_checker() {
    let [summary, seen] = export_and_check(&[]);
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
fn onnxruntime_graph_passes_the_checker() {
    for (options, last, length) in [
        (&["--target", "ort"][..], false, "\"T\""),
        (&["--target", "ort", "--last-logits"], true, "1"),
    ] {
        let [summary, seen] = export_and_check(options);
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
        let [_, seen] = export_and_check(&[&base, options].concat());
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

/// ONNX Runtime counts a window with 32 bits.
#[test]
fn windows_beyond_32_bits_are_omitted() {
    let mut checkpoint = tiny();
    for (window, attribute) in
        [(8, "8,"), ((1 << 31) - 1, "2147483647,"), (1 << 31, "-1,"), (u32::MAX.into(), "-1,")]
    {
        checkpoint.config.windows = vec![Some(window), None, Some(window)];
        let options = GraphOptions { target: Target::Ort, ..GraphOptions::default() };
        let text = dump(&checkpoint, options);
        let wired = text.matches(&format!("local_window_size={attribute}")).count();
        assert_eq!(wired, if attribute == "-1," { 3 } else { 2 }, "{window}");
    }
}

#[test]
fn fixed_length_is_that_of_a_step() {
    for target in ["onnx", "ort"] {
        let options = ["--target", target, "--kv-cache", "--seq-len", "1", "--batch-size", "2"];
        let [summary, _] = export_and_check(&options);
        let shapes = [0, 1, 2].map(|input| &summary["model"]["inputs"][input]["shape"]);
        assert_eq!(shapes, [&json!([2, 1]), &json!([2, "P+1"]), &json!([2, 2, "P", 32])]);
    }
}

#[test]
fn layers_share_functions() {
    let [_, seen] = export_and_check(&["--functions"]);
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

#[test]
fn rejects_wiring_mistakes() {
    let mut builder = Builder::new(Style::Flat);
    let g = &mut builder.scope();
    let t = Dim::symbol("T");
    let a = g.input("a", Fact::new(DType::F32, [&t, &4.into()])).unwrap();
    let b = g.input("b", Fact::new(DType::I64, [&t, &4.into()])).unwrap();
    let w = g.input("w", Fact::new(DType::F32, [3u64, 5])).unwrap();
    g.sigmoid("twice", a).unwrap();
    let condition = g.constant(true).unwrap();
    let mut inner = None;
    let leak = |g: &mut Scope| {
        inner = Some(g.sigmoid("inner", a)?);
        Ok(inner.unwrap())
    };
    g.if_else("branch", condition, leak, |g| g.sigmoid("other", a)).unwrap();
    let mistakes = [
        g.add("sum", a, b),
        g.child("layer").gemm("out", a, w, None),
        g.reshape("flat", a, [Dim::from(8)]),
        g.transpose("turned", a, &[0, 1, 2]),
        g.shape_tensor([Dim::symbol("S"), Dim::from(2)]),
        g.sigmoid("twice", a),
        g.sigmoid("outside", inner.unwrap()),
    ];
    let sentences = mistakes.map(|mistake| mistake.unwrap_err().to_string());
    insta::assert_snapshot!(sentences.join("\n"));
}

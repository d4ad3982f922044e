//! What the ONNX file looks like to onnx's own checker, and as text.

use std::path::Path;

use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use gpt_oss_export::graph::{Builder, Dim, Fact, Style};
use gpt_oss_export::model::{GraphOptions, Target, decoder};
use gpt_oss_export::tensor::DType;
use serde_json::{Value, json};

use crate::support::{export, fixture, folder_with_tiny, python, text};

fn check(model: &Path) -> Value {
    python("check.py", &[model.to_str().unwrap()], &Value::Null)
}

fn tiny(options: GraphOptions) -> String {
    let checkpoint = Checkpoint::open(&fixture("tiny"), &IgnoredNames::default()).unwrap();
    decoder(&checkpoint.config, &checkpoint.weights, options).unwrap().to_string()
}

#[test]
fn the_flat_graph_as_text() {
    insta::assert_snapshot!(tiny(GraphOptions::default()));
}

#[test]
fn the_graph_of_functions_as_text() {
    insta::assert_snapshot!(tiny(GraphOptions {
        style: Style::Functions,
        ..GraphOptions::default()
    }));
}

#[test]
fn the_graph_with_a_cache_as_text() {
    let (style, kv_cache, last_logits) = (Style::Functions, true, true);
    insta::assert_snapshot!(tiny(GraphOptions {
        style,
        kv_cache,
        last_logits,
        ..GraphOptions::default()
    }));
}

#[test]
fn the_graph_for_onnxruntime_as_text() {
    insta::assert_snapshot!(tiny(GraphOptions { target: Target::Ort, ..GraphOptions::default() }));
}

#[test]
fn the_flat_graph_passes_the_checker() {
    let home = folder_with_tiny();
    let model = home.path().join("model.onnx");
    let summary = export(&[
        "--checkpoint",
        home.path().join("tiny").to_str().unwrap(),
        "--output",
        model.to_str().unwrap(),
    ]);
    let seen = check(&model);
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
    assert!(
        seen["largest_inline"].as_u64().unwrap() <= 2048,
        "weights are byte ranges, tables are small"
    );
}

#[test]
fn the_graph_for_onnxruntime_passes_the_checker() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("model.onnx"));
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--target", "ort"];
    for (options, last) in [(&[][..], false), (&["--last-logits"], true)] {
        let summary = export(&[&base[..], options].concat());
        let seen = check(&model);
        assert_eq!(seen["ir_version"], 12, "MXFP4's scales came with it");
        assert_eq!(seen["opsets"], json!({"": 23, "com.microsoft": 1}));
        assert_eq!(seen["metadata"]["options"]["target"], "ort");
        assert_eq!(seen["metadata"]["options"]["last_logits"], last);
        assert_eq!(seen["metadata"]["requires"], summary["model"]["requires"]);
        let names = |side: &str| -> Vec<String> {
            let interfaces = summary["model"][side].as_array().unwrap().iter();
            interfaces.map(|one| format!("{} {}", one["name"], one["shape"])).collect()
        };
        assert_eq!(
            names("inputs")[..3],
            [
                r#""input_ids" ["B","T"]"#,
                r#""attention_mask" ["B","P+T"]"#,
                r#""past_key_values.0.key" ["B",2,"P",32]"#,
            ]
        );
        let length = if !last { "\"T\"" } else { "1" };
        assert_eq!(names("outputs")[0], format!(r#""logits" ["B",{length},320]"#));
        assert_eq!(names("outputs")[6], r#""present.2.value" ["B",2,"P+T",32]"#);
    }
}

/// MatMulNBits of 8 bits makes f32 of a whole matrix in every step unless it may round
/// activations; standard operators do it once.
#[test]
fn dense_integers_of_8_bits_meet_kept_activations_as_f32() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("model.onnx"));
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--target", "ort"];
    let products = |options: &[&str]| {
        export(&[&base[..], options].concat());
        let operators = check(&model)["operators"].clone();
        ["MatMulNBits", "Gemm"].map(|operator| operators[operator].as_u64().unwrap_or(0))
    };
    let (attention, routers, logits) = (2 * 3, 3, 1);
    let kept = "--keep-activations";
    assert_eq!(products(&["--dense", "int8"]), [attention + logits, routers]);
    assert_eq!(products(&["--dense", "int8", kept]), [0, attention + logits + routers]);
    // The logits' matrix takes int8 beside them.
    assert_eq!(products(&["--dense", "int4"]), [attention + logits, routers]);
    assert_eq!(products(&["--dense", "int4", kept]), [attention, logits + routers]);
}

/// ONNX Runtime counts a window with 32 bits: one that is longer is none.
#[test]
fn windows_that_nothing_reaches_are_none() {
    let mut checkpoint = Checkpoint::open(&fixture("tiny"), &IgnoredNames::default()).unwrap();
    let options = GraphOptions { target: Target::Ort, ..GraphOptions::default() };
    for (window, attribute) in
        [(8, "8,"), ((1 << 31) - 1, "2147483647,"), (1 << 31, "-1,"), (u32::MAX.into(), "-1,")]
    {
        checkpoint.config.windows = vec![Some(window), None, Some(window)];
        let text = decoder(&checkpoint.config, &checkpoint.weights, options).unwrap().to_string();
        let wired = text.matches(&format!("local_window_size={attribute}")).count();
        assert_eq!(wired, if attribute == "-1," { 3 } else { 2 }, "{window}");
    }
}

#[test]
fn a_fixed_length_is_the_steps_and_never_the_pasts() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("model.onnx"));
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    for target in ["onnx", "ort"] {
        let options = ["--target", target, "--kv-cache", "--seq-len", "1", "--batch-size", "2"];
        let summary = export(&[&base[..], &options].concat());
        let shapes: Vec<&Value> =
            (0..3).map(|input| &summary["model"]["inputs"][input]["shape"]).collect();
        assert_eq!(shapes, [&json!([2, 1]), &json!([2, "P+1"]), &json!([2, 2, "P", 32])]);
        check(&model);
    }
}

#[test]
fn functions_are_shared_by_all_layers() {
    let home = folder_with_tiny();
    let model = home.path().join("model.onnx");
    export(&[
        "--checkpoint",
        home.path().join("tiny").to_str().unwrap(),
        "--output",
        model.to_str().unwrap(),
        "--functions",
    ]);
    let seen = check(&model);
    let functions =
        ["RMSNorm", "RotaryEmbedding", "AttentionBlock", "MLPBlock", "TransformerBlock"];
    assert_eq!(seen["functions"], json!(functions), "callees first");
    assert_eq!(seen["attributes"]["TransformerBlock"], json!(["epsilon", "window"]));
    // One node a layer; even layers slide over 8 tokens, odd ones see all.
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
fn wiring_mistakes_fail_where_they_are_made() {
    let mut builder = Builder::new(Style::Flat);
    let g = &mut builder.scope();
    let t = Dim::symbol("T");
    let a = g.input("a", Fact::new(DType::F32, [&t, &4.into()])).unwrap();
    let b = g.input("b", Fact::new(DType::I64, [&t, &4.into()])).unwrap();
    let w = g.input("w", Fact::new(DType::F32, [3u64, 5])).unwrap();
    let sentences = [
        g.add("sum", a, b).unwrap_err().to_string(),
        g.child("layer").gemm("out", a, w, None).unwrap_err().to_string(),
        g.reshape("flat", a, [Dim::from(8)]).unwrap_err().to_string(),
        g.transpose("turned", a, &[0, 1, 2]).unwrap_err().to_string(),
        g.shape_tensor([Dim::symbol("S"), Dim::from(2)]).unwrap_err().to_string(),
        {
            g.sigmoid("twice", a).unwrap();
            g.sigmoid("twice", a).unwrap_err().to_string()
        },
        {
            let condition = g.constant(true).unwrap();
            let mut inner = None;
            let leak = |g: &mut gpt_oss_export::graph::Scope| {
                let value = g.sigmoid("inner", a)?;
                inner = Some(value);
                Ok(value)
            };
            g.if_else("branch", condition, leak, |g| g.sigmoid("other", a)).unwrap();
            g.sigmoid("outside", inner.unwrap()).unwrap_err().to_string()
        },
    ];
    insta::assert_snapshot!(sentences.join("\n"));
}

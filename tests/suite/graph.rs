//! Graphs as text.

use crate::support::{fixture, open};
use gpt_oss_export::checkpoint::Checkpoint;
use gpt_oss_export::graph::{Builder, Dim, Fact, Scope, Style};
use gpt_oss_export::model::{GraphOptions, Target, decoder};
use gpt_oss_export::tensor::DType;

fn dump(checkpoint: &Checkpoint, options: GraphOptions) -> String {
    decoder(&checkpoint.config, &checkpoint.weights, options).unwrap().to_string()
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
        insta::assert_snapshot!(name, dump(&open(&fixture("tiny")), options));
    }
}

/// ONNX Runtime counts a window with 32 bits.
#[test]
fn windows_beyond_32_bits_are_omitted() {
    let mut checkpoint = open(&fixture("tiny"));
    for (window, attribute) in
        [(8, "8,"), ((1 << 31) - 1, "2147483647,"), (1 << 31, "-1,"), (u32::MAX.into(), "-1,")]
    {
        checkpoint.config.windows = vec![Some(window), None, Some(window)];
        let options = GraphOptions { target: Target::Ort, ..GraphOptions::default() };
        let text = dump(&checkpoint, options);
        let count = text.matches(&format!("local_window_size={attribute}")).count();
        assert_eq!(count, if attribute == "-1," { 3 } else { 2 }, "{window}");
    }
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

//! Graphs as text, and mistakes in wiring them.

use gpt_oss_export::checkpoint::Checkpoint;
use gpt_oss_export::graph::{Builder, Data, Dim, Fact, Model, Scope, Style};
use gpt_oss_export::model::{GraphOptions, SlidingCache, Target};
use gpt_oss_export::tensor::DType;

use crate::graph_text::Text;
use crate::support::{fixture, open, whole_graph};

fn dump(checkpoint: &Checkpoint, options: GraphOptions) -> String {
    Text(&whole_graph(checkpoint, options)).to_string()
}

#[test]
fn dump_matches_snapshots() {
    let flat = GraphOptions::default();
    let functions = GraphOptions { style: Style::Functions, ..flat };
    let limited = GraphOptions { kv_cache: true, sliding_cache: SlidingCache::Window, ..flat };
    for (name, options) in [
        ("flat", flat),
        ("functions", functions),
        ("cache", GraphOptions { last_logits: true, style: Style::Functions, ..limited }),
        ("ort", GraphOptions { target: Target::Ort, ..limited }),
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
        let options = GraphOptions {
            target: Target::Ort,
            sliding_cache: SlidingCache::Window,
            ..GraphOptions::default()
        };
        let text = dump(&checkpoint, options);
        let count = text.matches(&format!("local_window_size={attribute}")).count();
        assert_eq!(count, if attribute == "-1," { 3 } else { 2 }, "{window}");
        let limited = format!("min(P_{window}+T,{})", window + 15);
        assert_eq!(text.contains(&limited), attribute != "-1,", "{window}");
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
        g.child("layer").gemm("out", [a, w], None, true),
        g.reshape("flat", a, [Dim::from(8)]),
        g.transpose("turned", a, &[0, 1, 2]),
        g.shape_tensor([Dim::symbol("S"), Dim::from(2)]),
        g.sigmoid("twice", a),
        g.sigmoid("outside", inner.unwrap()),
    ];
    let sentences = mistakes.map(|mistake| mistake.unwrap_err().to_string());
    insta::assert_snapshot!(sentences.join("\n"));
}

#[test]
fn dimensions_are_products_of_symbols() {
    let (b, t) = (Dim::symbol("B"), Dim::symbol("T"));
    assert_eq!(&b * &t, &t * &b);
    assert_eq!(Dim::product([&Dim::from(2), &t, &b, &Dim::from(3)]).to_string(), "6*B*T");
    assert_eq!(Dim::product([]).known(), Some(1));
    // A sum with a symbol is a symbol.
    assert_eq!(t.plus(&1.into()), Dim::symbol("T+1"));
    assert_eq!(Dim::from(2).plus(&3.into()).known(), Some(5));
    assert_eq!(t.plus(&0.into()), t);
    assert_eq!((&Dim::from(2) * &t.plus(&1.into())).to_string(), "2*(T+1)");
}

/// The f32 values by which a node multiplies.
fn factors(model: &Model, node: &str) -> Vec<f32> {
    let node = model.main.body.nodes.iter().find(|it| it.name == node).unwrap();
    let mut initializers = model.main.initializers.iter();
    let factors = initializers.find(|it| Some(it.value) == node.inputs[1]).unwrap();
    let Data::Inline(bytes) = &factors.data else { panic!("{} reads a weight", node.name) };
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The released models have bounds of 8.0928 and 17.3980; heads of half their width have
/// half of these. So index 4 is kept, and index 5 is stretched by (5 − 4.0464) / 4.6526.
#[test]
fn yarn_blends_between_unrounded_bounds() {
    let mut checkpoint = open(&fixture("tiny"));
    let graph = |checkpoint: &Checkpoint| whole_graph(checkpoint, GraphOptions::default());
    let model = graph(&checkpoint);
    let found = factors(&model, "rope.angles");
    let plain = |index: f64| 150_000f64.powf(-index / 16.0);
    let close = |index: usize, expected: f64| {
        let error = (f64::from(found[index]) / expected - 1.0).abs();
        assert!(error < 1e-6, "frequency {index}: {} for {expected}", found[index]);
    };
    close(0, 1.0);
    close(4, plain(4.0));
    let share = (5.0 - 4.046_395) / (8.698_995 - 4.046_395);
    close(5, plain(5.0) * (1.0 - share + share / 32.0));
    close(9, plain(9.0) / 32.0);
    close(15, plain(15.0) / 32.0);
    for name in ["rope.cos", "rope.sin"] {
        assert!((factors(&model, name)[0] - 1.346_573_6).abs() < 1e-6, "{name}");
    }

    checkpoint.config.rope.factor = 1.0;
    let model = graph(&checkpoint);
    assert_eq!(factors(&model, "rope.angles")[15], plain(15.0) as f32);
    assert_eq!([factors(&model, "rope.cos"), factors(&model, "rope.sin")], [[1.0], [1.0]]);
}

//! Grouped-query attention with sinks as ONNX Runtime's GroupQueryAttention.
//!
//! Rotation is outside the operator: positions come from the mask, and without tables the
//! context has no limit.

use crate::error::Result;
use crate::graph::{Dim, Fact, MICROSOFT, Scope, Value};
use crate::model::context::Context;
use crate::model::finite_sinks;
use crate::model::packing::Packing;
use crate::weights::Weight;

/// Attention of `qkv [B·T, (heads + 2·kv)·D]`: `[B·T, heads·D]`, and the cache with this
/// step's keys and values.
pub fn attention(
    g: &mut Scope,
    qkv: Value,
    past: &[Value],
    sinks: &Weight,
    window: Option<u64>,
    packing: &Packing,
    context: &Context,
) -> Result<(Value, Vec<Value>)> {
    let Context { config, options, sequence, .. } = context;
    let [heads, kv, width] = [config.num_heads, config.num_kv_heads, config.head_dim];
    let [keys, values] = *past else { unreachable!("a graph for ONNX Runtime has a cache") };
    let cache = &packing.caches[&options.cache_window(window)];

    let row = Dim::from((heads + 2 * kv) * width);
    let qkv = g.reshape("qkv.rows", qkv, [&sequence.batch, &sequence.length, &row])?;
    let parts = [("q", heads * width), ("k", kv * width), ("v", kv * width)];
    let [q, k, v] = g.split("qkv.split", qkv, 2, parts)?;
    let q = context.rotation.rotate_rows(g, "q.rotated", q, heads)?;
    let k = context.rotation.rotate_rows(g, "k.rotated", k, kv)?;

    let sinks = finite_sinks(g, sinks, options.compute)?;
    // The operator counts with 32 bits; -1 is for no window.
    let window = window.and_then(|window| i32::try_from(window).ok()).map_or(-1, i64::from);
    let window = g.parameter("window", window);
    let present = [sequence.batch.clone(), kv.into(), cache.places.clone(), width.into()];
    let (rows, present) = (g.fact(q)?, Fact::new(options.compute, present));
    let [mixed, keys, values] = g
        .node("mixed", "GroupQueryAttention")
        .domain(MICROSOFT)
        .inputs([q, k, v, keys, values, cache.last, cache.filled])
        // Tables of cosines and sines, positions, a bias.
        .absent(4)
        .input(sinks)
        // Scales of quantized keys and values, norms of q and k.
        .absent(4)
        .input(packing.queries)
        .attr("num_heads", heads as i64)
        .attr("kv_num_heads", kv as i64)
        .attr("scale", 1.0 / (width as f32).sqrt())
        .attr("local_window_size", window)
        .attr("do_rotary", 0)
        .outputs([("out", rows), ("present.key", present.clone()), ("present.value", present)])?;
    let shape = [&(&sequence.batch * &sequence.length), &(heads * width).into()];
    Ok((g.reshape("rows", mixed, shape)?, vec![keys, values]))
}

//! Attention: grouped queries, a learned sink for each head, and on some
//! layers a sliding window.
//!
//! `x + out(softmax(q·kᵀ/√D + mask, sink) · v)`, where the sink joins the
//! softmax as one more score that is neither scaled nor has a value. Query head
//! `h` reads key head `h / (heads / kv)`.

use super::decoder::Context;
use super::float;
use super::linear::linear;
use super::norm::rms_norm;
use crate::checkpoint::AttentionWeights;
use crate::graph::{Dim, Result, Scope, Value};
use crate::weights::Weight;

/// `x [B·T, hidden]`, the residual stream, with the attention's part added.
pub fn attention_block(
    g: &mut Scope,
    x: Value,
    weights: &AttentionWeights,
    window: Option<u64>,
    context: &Context,
) -> Result<Value> {
    let [x] = g.block("attn", "AttentionBlock", [("x", x)], |g, [x]| {
        let config = context.config;
        let [batch, length] = context.dims();
        let [heads, kv, width] = [config.num_heads, config.num_kv_heads, config.head_dim];

        let normed = rms_norm(g, "norm", x, &weights.norm, config)?;
        let qkv = linear(g, "qkv", normed, &weights.qkv)?;
        let qkv = g.reshape(
            "heads",
            qkv,
            [batch.clone(), length.clone(), (heads + 2 * kv).into(), width.into()],
        )?;
        let qkv = g.transpose("heads_first", qkv, [0, 2, 1, 3])?;
        let [qk, v] = g.split("qkv.split", qkv, 1, [("qk", heads + kv), ("v", kv)])?;
        let qk = context.rotation.rotate(g, "rope", qk)?;
        let [q, k] = g.split("qk.split", qk, 1, [("q", heads), ("k", kv)])?;

        let bias = context.mask.bias(g, window)?;
        let mixed = sink_attention(g, [q, k, v], bias, &weights.sinks)?;
        let mixed = g.transpose("tokens_first", mixed, [0, 2, 1, 3])?;
        let mixed = g.reshape("rows", mixed, [&(batch * length), &(heads * width).into()])?;
        let out = linear(g, "out", mixed, &weights.out)?;
        Ok([g.add("residual", x, out)?])
    })?;
    Ok(x)
}

/// `q [B, heads, T, D]`, `k` and `v [B, kv, S, D]`, `bias [T, S]` to `[B, heads, T, D]`.
///
/// The sink never becomes a column of the scores: it enters the softmax's
/// maximum and denominator only. Query heads of a key head are stacked along
/// T, so that keys and values are not repeated.
fn sink_attention(
    g: &mut Scope,
    [q, k, v]: [Value; 3],
    bias: Value,
    sinks: &Weight,
) -> Result<Value> {
    let (queries, keys) = (g.fact(q)?.shape, g.fact(k)?.shape);
    let [batch, heads, length, width] = &queries[..] else { unreachable!("q has rank 4") };
    let (kv, sources) = (&keys[1], &keys[2]);
    let group = Dim::from(heads.known().expect("known") / kv.known().expect("known"));
    let stacked = &group * length;

    let scale = g.constant(1.0 / (width.known().expect("known") as f32).sqrt())?;
    let q = g.mul("q.scaled", q, scale)?;
    let q = g.reshape("q.stacked", q, [batch, kv, &stacked, width])?;
    let k = g.transpose("k.columns", k, [0, 1, 3, 2])?;
    let scores = g.matmul("scores.stacked", q, k)?;
    let scores = g.reshape("scores", scores, [batch, heads, length, sources])?;
    let scores = g.add("scores.masked", scores, bias)?;

    let sink = float(g, "sinks", sinks)?;
    let sink = g.reshape("sinks.column", sink, [&1.into(), heads, &1.into(), &1.into()])?;
    let largest = g.reduce_max("softmax.largest_score", scores, 3)?;
    let largest = g.max("softmax.largest", largest, sink)?;
    let shifted = g.sub("softmax.shifted", scores, largest)?;
    let weights = g.exp("softmax.exp", shifted)?;
    let sum = g.reduce_sum("softmax.sum", weights, 3)?;
    let sink = g.sub("softmax.sink_shifted", sink, largest)?;
    let sink = g.exp("softmax.sink_exp", sink)?;
    let sum = g.add("softmax.denominator", sum, sink)?;

    let weights = g.reshape("softmax.stacked", weights, [batch, kv, &stacked, sources])?;
    let mixed = g.matmul("mixed.stacked", weights, v)?;
    let mixed = g.reshape("mixed.unscaled", mixed, [batch, heads, length, width])?;
    g.div("mixed", mixed, sum)
}

//! Attention: grouped queries, a learned sink for each head, and on some
//! layers a sliding window.
//!
//! `x + out(softmax(q·kᵀ/√D + mask, sink) · v)`, where the sink joins the
//! softmax as one more score that is neither scaled nor has a value. Query head
//! `h` reads key head `h / (heads / kv)`: `heads / kv` of them form a group.

use super::decoder::Context;
use super::float;
use super::linear::linear;
use super::norm::rms_norm;
use crate::checkpoint::AttentionWeights;
use crate::graph::{Constant, Dim, Result, Scope, Value};
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

/// `q [B, heads, T, D]`, `k` and `v [B, kv, S, D]`, `bias [T, S + 1]` to
/// `[B, heads, T, D]`.
///
/// The standard Attention operator knows no sinks, but a sink is the score of
/// one more key, of value 0. That key's scores differ among the heads that
/// share it, so each of these gets a dimension of its own: `q' = [q/√D, e_j]`
/// for the `j`-th head of a group, `k' = [k, 0]`, and the sink's key is
/// `[0, sinks of the group]`, so that `q'·k'` is `q·k/√D` or the sink, exactly.
fn sink_attention(
    g: &mut Scope,
    [q, k, v]: [Value; 3],
    bias: Value,
    sinks: &Weight,
) -> Result<Value> {
    let (queries, keys) = (g.fact(q)?.shape, g.fact(k)?.shape);
    let size = |dim: &Dim| dim.known().expect("a model's own size");
    let [batch, length] = [&queries[0], &queries[2]];
    let [heads, kv, width] = [&queries[1], &keys[1], &queries[3]].map(size);
    let group = heads / kv;

    let scale = g.constant(1.0 / (width as f32).sqrt())?;
    let q = g.mul("q.scaled", q, scale)?;
    let places = g.table("attn.places", places(heads, group))?;
    let places =
        g.expand("q.places", places, &[batch.clone(), heads.into(), length.clone(), group.into()])?;
    let q = g.concat("q.with_places", &[q, places], 3)?;

    let sinks = float(g, "sinks", sinks)?;
    let sinks = g.reshape("sinks.groups", sinks, [1, kv, 1, group])?;
    let sinks = g.pad("sinks.keys", sinks, 3, [width, 0])?;
    let sinks = g.expand(
        "sinks.batch",
        sinks,
        &[batch.clone(), kv.into(), 1.into(), (width + group).into()],
    )?;
    let k = g.pad("k.with_places", k, 3, [0, group])?;
    let k = g.concat("k.with_sinks", &[k, sinks], 2)?;
    let v = g.pad("v.with_sinks", v, 2, [0, 1])?;
    g.attention("mixed", [q, k, v], bias)
}

/// For each head the unit vector of its place in its group: `[1, heads, 1, group]`.
fn places(heads: u64, group: u64) -> Constant {
    let places: Vec<f32> = (0..heads * group)
        .map(|at| if at / group % group == at % group { 1.0 } else { 0.0 })
        .collect();
    Constant::from(&places[..]).shaped([1, heads, 1, group])
}

//! Grouped-query attention with sinks as the standard Attention operator.
//!
//! The operator has no sinks, but a sink is the score of one more key with value 0. The heads that
//! share the key have different scores, so each gets a dimension: `q' = [q/√D, e_j]` for the `j`-th
//! head of a group, `k' = [k, 0]`, and the sink's key is `[0, sinks of the group]`, so that `q'·k'` is
//! `q·k/√D` or the sink, exactly.

use crate::error::Result;
use crate::graph::{Constant, Dim, Scope, Value};
use crate::model::context::Context;
use crate::model::sequence::Sequence;
use crate::model::{finite_sinks, in_dtype};
use crate::weights::Weight;

/// Attention of `qkv [B·T, (heads + 2·kv)·D]` with `bias [B or 1, 1, T, S + 1]`:
/// `[B·T, heads·D]`, and the cache with this step's keys and values.
pub fn attention(
    g: &mut Scope,
    qkv: Value,
    past: &[Value],
    sinks: &Weight,
    bias: Value,
    context: &Context,
) -> Result<(Value, Vec<Value>)> {
    let Context { config, sequence: Sequence { batch, length, .. }, .. } = context;
    let [heads, kv, width] = [config.num_heads, config.num_kv_heads, config.head_dim];

    let shape = [batch.clone(), length.clone(), (heads + 2 * kv).into(), width.into()];
    let qkv = g.reshape("heads", qkv, shape)?;
    let qkv = g.transpose("heads_first", qkv, &[0, 2, 1, 3])?;
    let [qk, mut v] = g.split("qkv.split", qkv, 1, [("qk", heads + kv), ("v", kv)])?;
    let qk = context.rotation.rotate(g, "rope", qk)?;
    let [q, mut k] = g.split("qk.split", qk, 1, [("q", heads), ("k", kv)])?;
    if let [keys, values] = *past {
        k = g.concat("present.key", &[keys, k], 2)?;
        v = g.concat("present.value", &[values, v], 2)?;
    }
    let mixed = sink_attention(g, [q, k, v], bias, sinks)?;
    let mixed = g.transpose("tokens_first", mixed, &[0, 2, 1, 3])?;
    let mixed = g.reshape("rows", mixed, [&(batch * length), &(heads * width).into()])?;
    Ok((mixed, if past.is_empty() { vec![] } else { vec![k, v] }))
}

/// `q [B, heads, T, D]`, `k` and `v [B, kv, S, D]`, `bias` to `[B, heads, T, D]`.
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

    let dtype = g.fact(q)?.dtype;
    let scale = 1.0 / (width as f32).sqrt();
    let scale = g.shared(&format!("constant.{scale}.{dtype}"), |g| {
        let constant = g.constant(scale)?;
        in_dtype(g, &format!("constant.{scale}"), constant, dtype)
    })?;
    let q = g.mul("q.scaled", q, scale)?;
    // For each head the unit vector of its place in its group.
    let is_place = |at: u64| at / group % group == at % group;
    let places: Vec<f32> = (0..heads * group).map(|at| f32::from(u8::from(is_place(at)))).collect();
    let places = Constant::from(&places[..]).shaped([1, heads, 1, group]);
    let places = g.table("attn.places", places)?;
    let places = in_dtype(g, "q.places.one", places, dtype)?;
    let shape = [batch, &heads.into(), length, &group.into()];
    let places = g.expand("q.places", places, shape)?;
    let q = g.concat("q.with_places", &[q, places], 3)?;

    let sinks = finite_sinks(g, sinks, dtype)?;
    let sinks = g.reshape("sinks.groups", sinks, [1, kv, 1, group])?;
    let sinks = g.pad("sinks.keys", sinks, 3, [width, 0])?;
    let shape = [batch, &kv.into(), &1.into(), &(width + group).into()];
    let sinks = g.expand("sinks.batch", sinks, shape)?;
    let k = g.pad("k.with_places", k, 3, [0, group])?;
    let k = g.concat("k.with_sinks", &[k, sinks], 2)?;
    let v = g.pad("v.with_sinks", v, 2, [0, 1])?;
    g.attention("mixed", [q, k, v], bias)
}

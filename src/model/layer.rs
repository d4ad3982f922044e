//! A layer: attention, then a mixture of experts, each added to the residual stream.
//!
//! Attention has grouped queries, a learned sink for each head, and on some layers a sliding
//! window: `x + out(softmax(q·kᵀ/√D + mask, sink) · v)`, where the sink joins the softmax as
//! one more score that is neither scaled nor has a value. Query head `h` reads key head
//! `h / (heads / kv)`: `heads / kv` of them form a group.
//!
//! A router picks the top k experts of each token; softmax over those k scores gives their
//! shares. An expert is `down(swiglu(gate_up(x)))` with
//! `gate = min(even columns, limit)`, `up = clamp(odd columns, ±limit)` and
//! `swiglu = gate · sigmoid(1.702·gate) · (up + 1)`. The sum of share × expert is added.

use super::changes::has_terms;
use super::context::{Backend, Context};
use super::linear::{linear, linears};
use super::norm::rms_norm;
use super::options::{GraphOptions, Target};
use super::part::ModelPart;
use super::window::cut;
use super::{in_dtype, ort, portable};
use crate::checkpoint::{AttentionWeights, LayerWeights, MlpWeights, ModelWeights};
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;
use crate::weights::Matrix;

/// Inputs of a layer: the residual stream `[B·T, hidden]`, and with a cache the keys and values
/// of earlier steps.
const STREAM: [&str; 3] = ["x", "past.key", "past.value"];

/// Layer `n`: the residual stream, the router's scores `[B·T, experts]`, and with a cache the
/// keys and values with those of this step.
pub fn layer(
    g: &mut Scope,
    n: usize,
    stream: &[Value],
    weights: &LayerWeights,
    context: &Context,
) -> Result<Vec<Value>> {
    g.block(&format!("layers.{n}"), "TransformerBlock", &STREAM, stream, |g, stream| {
        let stream = attention_block(g, stream, &weights.attn, context.config.windows[n], context)?;
        let routed = mlp_block(g, stream[0], &weights.mlp, context)?;
        Ok([&routed[..], &stream[1..]].concat())
    })
}

/// Adds attention to the residual stream, and this step's keys and values to the cache.
fn attention_block(
    g: &mut Scope,
    stream: &[Value],
    weights: &AttentionWeights,
    window: Option<u64>,
    context: &Context,
) -> Result<Vec<Value>> {
    g.block("attn", "AttentionBlock", &STREAM, stream, |g, stream| {
        let (x, past) = (stream[0], &stream[1..]);
        let normed = rms_norm(g, "norm", x, &weights.norm, context.config)?;
        let normed = in_dtype(g, "norm", normed, context.options.compute)?;
        let qkv = match &weights.qkv[..] {
            [whole] => linear(g, "qkv", normed, whole, context)?,
            [q, k, v] => linears(g, "qkv", normed, [("q", q), ("k", k), ("v", v)], context)?,
            _ => unreachable!("fused, or three"),
        };
        let limit = context.options.cache_window(window);
        let (mixed, mut cache) = match &context.backend {
            Backend::Portable(mask) => {
                let bias = mask.bias(g, window, limit)?;
                portable::attention(g, qkv, past, &weights.sinks, bias, context)?
            }
            Backend::Ort(packing) => {
                ort::attention(g, qkv, past, &weights.sinks, window, packing, context)?
            }
        };
        if let Some(kept) = context.backend.kept(limit) {
            cache = cut(g, &cache, kept)?;
        }
        let out = linear(g, "out", mixed, &weights.out, context)?;
        let out = in_dtype(g, "out", out, DType::F32)?;
        Ok([vec![g.add("residual", x, out)?], cache].concat())
    })
}

/// Adds the experts to the residual stream `x`; the second value is the router's scores.
fn mlp_block(
    g: &mut Scope,
    x: Value,
    weights: &MlpWeights,
    context: &Context,
) -> Result<Vec<Value>> {
    g.block("mlp", "MLPBlock", &["x"], &[x], |g, inputs| {
        let x = inputs[0];
        let normed = rms_norm(g, "norm", x, &weights.norm, context.config)?;
        let scores = linear(g, "router", normed, &weights.router, context)?;
        Ok(vec![experts(g, [x, normed, scores], weights, context)?, scores])
    })
}

/// The experts by the operator of the target, which takes no changes, or by a Loop. Where a runtime
/// may change them, it is the one or the other in each run.
fn experts(
    g: &mut Scope,
    values: [Value; 3],
    weights: &MlpWeights,
    context: &Context,
) -> Result<Value> {
    let has_operator = has_operator(weights, &context.options, |it| it);
    if has_operator && weights.has_swappable_experts() {
        let changes = [&weights.gate_up.changes, &weights.down.changes];
        let are_changed = has_terms(&mut g.child("experts.are_changed"), changes)?;
        let by_loop =
            |g: &mut Scope| portable::experts(&mut g.child("loop"), values, weights, context);
        let by_operator =
            |g: &mut Scope| ort::experts(&mut g.child("operator"), values, weights, context);
        return g.if_else("experts", are_changed, by_loop, by_operator);
    }
    let by = if has_operator && !weights.has_changed_experts() {
        ort::experts
    } else {
        portable::experts
    };
    by(g, values, weights, context)
}

/// Whether an operator of the target reads the experts, both matrices at once, as they are stored or
/// as what they `come_from`.
fn has_operator(
    weights: &MlpWeights,
    options: &GraphOptions,
    come_from: impl Fn(&Matrix) -> &Matrix,
) -> bool {
    let [gate_up, down] = [&weights.gate_up, &weights.down].map(|it| come_from(&it.matrix).format);
    options.target == Target::Ort && gate_up == down && ort::reads_experts(gate_up, options)
}

/// The layers of a part whose experts run in a Loop because adapters change them: the operator of
/// the target takes no changes, and no two formats.
pub fn layers_slowed_by_adapters(
    weights: &ModelWeights,
    part: &ModelPart,
    options: &GraphOptions,
) -> Vec<usize> {
    let is_slowed = |mlp: &MlpWeights| {
        let is_read = has_operator(mlp, options, |it| it);
        let is_merged = [&mlp.gate_up, &mlp.down].iter().any(|it| it.matrix.is_merged());
        is_read && mlp.has_changed_experts()
            || !is_read && is_merged && has_operator(mlp, options, Matrix::source)
    };
    part.layers.clone().filter(|n| is_slowed(&weights.layers[*n].mlp)).collect()
}

//! The whole model: tokens to logits. A part of it begins or ends with the residual stream.
//!
//! `x = embedding[ids]`, then in each layer `x += attention(norm(x))` and
//! `x += experts(norm(x))`, then `logits = norm(x) · lm_headᵀ`. The residual stream, norms
//! and routers are f32; other products, attention and the cache have the compute dtype, as
//! have router scores and SwiGLU in ONNX Runtime's MoE operators.

use std::collections::BTreeMap;

use super::changes::change_rows;
use super::context::{Backend, Context};
use super::layer::layer;
use super::linear::linear;
use super::mask::Mask;
use super::norm::rms_norm;
use super::options::{GraphOptions, Target};
use super::packing::Packing;
use super::part::{ModelPart, hidden_states};
use super::rope::Rotation;
use super::sequence::Sequence;
use super::{in_dtype, rules, stored};
use crate::checkpoint::{Config, Embedding, ModelWeights};
use crate::error::Result;
use crate::graph::{Builder, Dim, Model, Scope, Value};
use crate::tensor::DType;

/// Probes of the residual stream: the embedding, and then after each layer.
pub const RESIDUALS: &str = "residuals";
/// Probes of each layer's router scores.
pub const ROUTERS: &str = "routers";

/// The graph of a part of a model. The first takes `input_ids` i64 `[B, T]`, the last gives `logits`
/// f32 `[B, T, vocab]` or `[B, 1, vocab]`, and between two of them is `hidden_states.N` f32
/// `[B, T, hidden]`; with a cache also `past_key_values.N.key|value` to `present.N.key|value`.
pub fn decoder(
    config: &Config,
    weights: &ModelWeights,
    part: &ModelPart,
    options: GraphOptions,
) -> Result<Model> {
    rules::check(config, weights, &options)?;
    let mut builder = Builder::new(options.style);
    let g = &mut builder.scope();
    let sequence = Sequence::new(g, config, part, &options)?;
    let (input, positions, backend) = match options.target {
        Target::Onnx => {
            let mask = Mask::new(g, &sequence, options.compute)?;
            (sequence.input, mask.positions, Backend::Portable(mask))
        }
        Target::Ort => {
            let packing = Packing::new(g, &sequence, options.provider)?;
            (packing.input, packing.positions, Backend::Ort(packing))
        }
    };
    let rotation = Rotation::new(g, positions, config, options.compute)?;
    let context = Context { config, options, sequence, rotation, backend };

    let mut x = if part.is_first() {
        let x = embed(g, input, weights)?;
        g.probe(RESIDUALS, x)?;
        x
    } else {
        let shape = g.fact(input)?.shape;
        g.reshape("hidden_states.flat", input, [Dim::product(&shape[..2]), shape[2].clone()])?
    };
    let mut present = BTreeMap::new();
    for n in part.layers.clone() {
        let past = context.sequence.past.get(&n).map_or(&[][..], |past| past);
        let mut outputs = layer(g, n, &[&[x], past].concat(), &weights.layers[n], &context)?;
        x = outputs[0];
        g.probe(ROUTERS, outputs[1])?;
        g.probe(RESIDUALS, x)?;
        present.insert(n, outputs.split_off(2));
    }
    if part.is_last() {
        logits(g, x, weights, &context)?;
    } else {
        let x = in_order(g, x, &context)?;
        g.output(&hidden_states(part.layers.end), x)?;
    }
    for n in context.sequence.cache_order() {
        for (part, value) in ["key", "value"].iter().zip(&present[&n]) {
            g.output(&format!("present.{n}.{part}"), *value)?;
        }
    }
    Ok(builder.finish())
}

/// The output `logits` of the residual stream `x [B·T, hidden]`.
fn logits(g: &mut Scope, x: Value, weights: &ModelWeights, context: &Context) -> Result<()> {
    let Context { config, options, sequence: Sequence { batch, length, .. }, .. } = context;
    let x = rows_of_logits(g, x, context)?;
    let length = if options.last_logits { &1.into() } else { length };
    let normed = rms_norm(g, "norm", x, &weights.norm, config)?;
    let normed = in_dtype(g, "norm", normed, options.compute)?;
    let logits = linear(g, "lm_head", normed, &weights.lm_head(), context)?;
    let logits = in_dtype(g, "lm_head", logits, DType::F32)?;
    let logits = g.reshape("logits", logits, [batch, length, &config.vocab_size.into()])?;
    g.output("logits", logits)
}

/// `embedding[ids]` as rows of f32, `[B·T, hidden]`: gathered as stored, then cast.
fn embed(g: &mut Scope, tokens: Value, weights: &ModelWeights) -> Result<Value> {
    let g = &mut g.child("embedding");
    let count = Dim::product(&g.fact(tokens)?.shape);
    let rows = g.reshape("tokens", tokens, [count])?;
    let Embedding { weight, changes } = &weights.embedding;
    let table = stored(g, weight)?;
    let x = g.gather("rows", table, rows, 0)?;
    let x = in_dtype(g, "rows", x, DType::F32)?;
    change_rows(g, x, rows, changes)
}

/// The residual stream `x [B·T, hidden]` as `[B, T, hidden]`, with tokens and padding at their
/// original places.
fn in_order(g: &mut Scope, x: Value, context: &Context) -> Result<Value> {
    let Context { config, sequence: Sequence { batch, length, .. }, backend, .. } = context;
    let g = &mut g.child("hidden_states");
    let x = g.reshape("rows", x, [batch, length, &config.hidden_size.into()])?;
    match backend {
        Backend::Ort(packing) if length.known() != Some(1) => {
            let places = packing.original_places(g)?;
            g.gather_nd("", x, places, 1)
        }
        _ => Ok(x),
    }
}

/// The rows of `x [B·T, hidden]` for which there are logits: all, with each token at its
/// original place, or that of each last token in this step, `[B, hidden]`. A row of padding
/// alone gives any row.
fn rows_of_logits(g: &mut Scope, x: Value, context: &Context) -> Result<Value> {
    let Context { options, sequence, backend, .. } = context;
    let g = &mut g.child(if options.last_logits { "last" } else { "unpacked" });
    let places = match (backend, options.last_logits) {
        _ if sequence.length.known() == Some(1) => return Ok(x),
        (Backend::Portable(_), false) => return Ok(x),
        (Backend::Portable(_), true) => sequence.last_places(g)?,
        (Backend::Ort(packing), last) => packing.places_of_tokens(g, last)?,
    };
    let shape = g.fact(x)?.shape;
    let rows = g.reshape("rows", x, [&sequence.batch, &sequence.length, &shape[1]])?;
    let rows = g.gather_nd("", rows, places, 1)?;
    if options.last_logits { Ok(rows) } else { g.reshape("flat", rows, shape) }
}

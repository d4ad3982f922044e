//! The whole model: tokens to logits.
//!
//! `x = embedding[ids]`, then in each layer `x += attention(norm(x))` and
//! `x += experts(norm(x))`, then `logits = norm(x) · lm_headᵀ`. The residual stream, norms
//! and routers are f32; other products, attention and the cache have the compute dtype, as
//! have router scores and SwiGLU in ONNX Runtime's MoE operators.

use super::changes::change_rows;
use super::context::{Backend, Context};
use super::layer::layer;
use super::linear::linear;
use super::mask::Mask;
use super::norm::rms_norm;
use super::options::{GraphOptions, Target};
use super::packing::Packing;
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

/// The graph of a model: `input_ids` i64 `[B, T]` to `logits` f32 `[B, T, vocab]`,
/// or `[B, 1, vocab]`; with a cache also `past_key_values.N.key|value` to `present.N.key|value`.
pub fn decoder(config: &Config, weights: &ModelWeights, options: GraphOptions) -> Result<Model> {
    rules::check(config, weights, &options)?;
    let mut builder = Builder::new(options.style);
    let g = &mut builder.scope();
    let sequence = Sequence::new(g, config, &options)?;
    let (tokens, positions, backend) = match options.target {
        Target::Onnx => {
            let mask = Mask::new(g, &sequence, options.compute)?;
            (sequence.tokens, mask.positions, Backend::Portable(mask))
        }
        Target::Ort => {
            let packing = Packing::new(g, &sequence, options.provider)?;
            (packing.tokens, packing.positions, Backend::Ort(packing))
        }
    };
    let rotation = Rotation::new(g, positions, config, options.compute)?;
    let context = Context { config, options, sequence, rotation, backend };

    let mut x = embed(g, tokens, weights)?;
    g.probe(RESIDUALS, x)?;
    let mut present = Vec::new();
    for (n, weights) in weights.layers.iter().enumerate() {
        let past = context.sequence.past.get(n).map_or(&[][..], |past| past);
        let outputs = layer(g, n, &[&[x], past].concat(), weights, &context)?;
        x = outputs[0];
        g.probe(ROUTERS, outputs[1])?;
        g.probe(RESIDUALS, x)?;
        let cache = ["key", "value"].iter().zip(outputs.into_iter().skip(2));
        present.extend(cache.map(|(part, value)| (format!("present.{n}.{part}"), value)));
    }
    let x = rows_of_logits(g, x, &context)?;
    let Sequence { batch, length, .. } = &context.sequence;
    let length = if options.last_logits { &1.into() } else { length };
    let normed = rms_norm(g, "norm", x, &weights.norm, config)?;
    let normed = in_dtype(g, "norm", normed, options.compute)?;
    let logits = linear(g, "lm_head", normed, &weights.lm_head(), &context)?;
    let logits = in_dtype(g, "lm_head", logits, DType::F32)?;
    let logits = g.reshape("logits", logits, [batch, length, &config.vocab_size.into()])?;
    g.output("logits", logits)?;
    present.into_iter().try_for_each(|(name, value)| g.output(&name, value))?;
    Ok(builder.finish())
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

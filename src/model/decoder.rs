//! The whole model: tokens to logits.
//!
//! `x = embedding[ids]`, then in each layer `x += attention(norm(x))` and
//! `x += experts(norm(x))`, then `logits = norm(x) · lm_headᵀ`. The residual stream, norms
//! and routers are f32; other products, attention and the cache have the compute dtype, as
//! have router scores and SwiGLU in ONNX Runtime's MoE operators.

use super::attention::attention_block;
use super::context::{Backend, Context, Stream};
use super::linear::projection;
use super::mask::Mask;
use super::moe::mlp_block;
use super::norm::rms_norm;
use super::options::{GraphOptions, Target};
use super::packing::Packing;
use super::rope::Rotation;
use super::sequence::Sequence;
use super::{in_dtype, rules, stored};
use crate::checkpoint::{Config, LayerWeights, ModelWeights};
use crate::error::Result;
use crate::graph::{Builder, Bundle, Model, Scope, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// The output of a layer, with its router's scores `[B·T, experts]` for probes.
struct Routed {
    stream: Stream,
    scores: Value,
}

impl Bundle for Routed {
    fn into_values(self) -> Vec<Value> {
        let mut values = self.stream.into_values();
        values.insert(1, self.scores);
        values
    }

    fn from_values(mut values: Vec<Value>) -> Self {
        let scores = values.remove(1);
        Self { scores, stream: Stream::from_values(values) }
    }
}

/// Probes of the residual stream: the embedding, and then after each layer.
pub const RESIDUALS: &str = "residuals";
/// Probes of each layer's router scores.
pub const ROUTERS: &str = "routers";

/// The graph of a model: `input_ids` i64 `[B, T]` to `logits` f32 `[B, T, vocab]`,
/// or `[B, 1, vocab]`; with a cache also `past_key_values.N.key|value` to `present.N.key|value`.
pub fn decoder(
    config: &Config,
    weights: &ModelWeights,
    options: GraphOptions,
) -> crate::error::Result<Model> {
    rules::check(config, weights, &options)?;
    let mut builder = Builder::new(options.style);
    let g = &mut builder.scope();
    let sequence = Sequence::new(g, config, &options)?;
    let backend = match options.target {
        Target::Onnx => Backend::Portable(Mask::new(g, &sequence, options.compute)?),
        Target::Ort => Backend::Ort(Packing::new(g, &sequence, options.provider)?),
    };
    let positions = match &backend {
        Backend::Portable(mask) => mask.positions,
        Backend::Ort(packing) => packing.positions,
    };
    let rotation = Rotation::new(g, positions, config, options.compute)?;
    let GraphOptions { compute, provider, keep_activations, .. } = options;
    let context =
        Context { config, compute, provider, keep_activations, sequence, rotation, backend };

    let mut x = embed(g, &weights.embedding, &context)?;
    g.probe(RESIDUALS, x)?;
    let mut present = Vec::new();
    for (n, layer) in weights.layers.iter().enumerate() {
        let cache = context.sequence.past.get(n).copied();
        let Routed { stream, scores } =
            transformer_block(g, n, Stream { x, cache }, layer, &context)?;
        x = stream.x;
        g.probe(ROUTERS, scores)?;
        g.probe(RESIDUALS, x)?;
        present.extend(stream.cache);
    }
    let (x, length) = if options.last_logits {
        (last_tokens(g, x, &context)?, 1.into())
    } else {
        (unpack(g, x, &context)?, context.sequence.length.clone())
    };
    let shape = [context.sequence.batch.clone(), length, config.vocab_size.into()];
    let normed = rms_norm(g, "norm", x, &weights.norm, config)?;
    let normed = in_dtype(g, "norm", normed, options.compute)?;
    let logits = projection(g, "lm_head", normed, &weights.lm_head(), &context)?;
    let logits = in_dtype(g, "lm_head", logits, DType::F32)?;
    let logits = g.reshape("logits", logits, shape)?;
    g.output("logits", logits)?;
    for (n, [key, value]) in present.into_iter().enumerate() {
        g.output(&format!("present.{n}.key"), key)?;
        g.output(&format!("present.{n}.value"), value)?;
    }
    Ok(builder.finish())
}

/// `embedding[ids]` as rows of f32: gathered as stored, then cast.
fn embed(g: &mut Scope, embedding: &Weight, context: &Context) -> Result<Value> {
    let Sequence { tokens, batch, length, .. } = &context.sequence;
    let tokens = match &context.backend {
        Backend::Portable(_) => *tokens,
        Backend::Ort(packing) => packing.tokens,
    };
    let g = &mut g.child("embedding");
    let rows = g.reshape("tokens", tokens, [batch * length])?;
    let table = stored(g, embedding)?;
    let x = g.gather("rows", table, rows, 0)?;
    in_dtype(g, "rows", x, DType::F32)
}

/// The row of `x [B·T, hidden]` of each last token in this step: `[B, hidden]`. A row of
/// padding alone gives any row.
fn last_tokens(g: &mut Scope, x: Value, context: &Context) -> Result<Value> {
    match (&context.backend, context.sequence.length.known()) {
        (_, Some(1)) => Ok(x),
        (Backend::Portable(_), _) => context.sequence.last_tokens(g, x),
        (Backend::Ort(packing), _) => packing.last_tokens(g, x, &context.sequence),
    }
}

/// `x [B·T, hidden]` with each token at its original place.
fn unpack(g: &mut Scope, x: Value, context: &Context) -> Result<Value> {
    match (&context.backend, context.sequence.length.known()) {
        (Backend::Portable(_), _) | (_, Some(1)) => Ok(x),
        (Backend::Ort(packing), _) => packing.unpack(g, x, &context.sequence),
    }
}

/// Layer `n`: attention, then experts, with their router's scores.
fn transformer_block(
    g: &mut Scope,
    n: usize,
    stream: Stream,
    layer: &LayerWeights,
    context: &Context,
) -> Result<Routed> {
    let name = format!("layers.{n}");
    g.block(&name, "TransformerBlock", &Stream::NAMES, stream, |g, stream| {
        let Stream { x, cache } =
            attention_block(g, stream, &layer.attn, context.config.windows[n], context)?;
        let [x, scores] = mlp_block(g, x, &layer.mlp, context)?;
        Ok(Routed { stream: Stream { x, cache }, scores })
    })
}

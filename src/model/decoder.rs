//! The whole model: tokens to logits.
//!
//! `x = embedding[ids]`, then in each layer `x += attention(norm(x))` and
//! `x += experts(norm(x))`, then `logits = norm(x) · lm_headᵀ`. The residual
//! stream, norms and routers' products are f32 throughout; other products, attention and
//! the cache are in the dtype that the model computes in, and in ONNX Runtime's mixtures of
//! experts scores and SwiGLU too.

use super::attention::attention_block;
use super::linear::projection;
use super::moe::mlp_block;
use super::norm::rms_norm;
use super::ort::Packing;
use super::portable::Mask;
use super::rope::Rotation;
use super::sequence::Sequence;
use super::{Error, Options, Target, in_dtype, rules, stored};
use crate::checkpoint::{Config, LayerWeights, ModelWeights};
use crate::graph::{Builder, Bundle, Model, Result, Scope, Value};
use crate::runtime::Provider;
use crate::tensor::DType;
use crate::weights::Weight;

/// What every layer reads and none owns.
pub struct Context<'m> {
    pub config: &'m Config,
    /// What attention and products compute in.
    pub compute: DType,
    /// Whose kernels ONNX Runtime's operators are.
    pub provider: Provider,
    /// Whether those multiply integers with activations that are not rounded.
    pub keep_activations: bool,
    pub sequence: Sequence,
    pub rotation: Rotation,
    pub operators: Operators,
}

/// Which operators attention and experts are made of, with what the attention
/// of all layers needs to know of the sequence.
pub enum Operators {
    /// Those of ai.onnx.
    Portable(Mask),
    /// Those of ONNX Runtime.
    Ort(Packing),
}

/// A layer's keys and values, `[B, kv, places, D]` each.
pub type KeyValue = [Value; 2];

/// What a layer takes and gives.
#[derive(Clone, Copy)]
pub struct Stream {
    /// The residual stream, `[B·T, hidden]`.
    pub x: Value,
    /// Keys and values, where the graph has a cache: on the way in those of
    /// earlier steps, on the way out with those of this step.
    pub cache: Option<KeyValue>,
}

impl Stream {
    /// What the parts are called inside a layer.
    pub const NAMES: [&str; 3] = ["x", "past.key", "past.value"];
}

impl Bundle for Stream {
    fn into_values(self) -> Vec<Value> {
        [self.x].into_iter().chain(self.cache.into_iter().flatten()).collect()
    }

    fn from_values(values: Vec<Value>) -> Self {
        Self { x: values[0], cache: values[1..].try_into().ok() }
    }
}

/// What a layer gives, with its router's scores `[B·T, experts]`, which only a look
/// inside shows.
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

/// The kind of probe that the residual stream is: what is embedded, and then after
/// each layer.
pub const RESIDUALS: &str = "residuals";
/// The kind of probe that each layer's router scores are.
pub const ROUTERS: &str = "routers";

/// The graph of a model: `input_ids` i64 `[B, T]` to `logits` f32 `[B, T, vocab]`,
/// or `[B, 1, vocab]`; with a cache also `past_key_values.N.key|value` to `present.N.key|value`.
pub fn decoder(
    config: &Config,
    weights: &ModelWeights,
    options: Options,
) -> std::result::Result<Model, Error> {
    rules::check(config, weights, &options)?;
    let mut builder = Builder::new(options.style);
    let g = &mut builder.scope();
    let sequence = Sequence::new(g, config, &options)?;
    let operators = match options.target {
        Target::Onnx => Operators::Portable(Mask::new(g, &sequence, options.compute)?),
        Target::Ort => Operators::Ort(Packing::new(g, &sequence, options.provider)?),
    };
    let positions = match &operators {
        Operators::Portable(mask) => mask.positions,
        Operators::Ort(packing) => packing.positions,
    };
    let rotation = Rotation::new(g, positions, config, options.compute)?;
    let Options { compute, provider, keep_activations, .. } = options;
    let context =
        Context { config, compute, provider, keep_activations, sequence, rotation, operators };

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
    let (x, length) = match options.last_logits {
        true => (last_tokens(g, x, &context)?, 1.into()),
        false => (in_place(g, x, &context)?, context.sequence.length.clone()),
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
    let tokens = match &context.operators {
        Operators::Portable(_) => *tokens,
        Operators::Ort(packing) => packing.tokens,
    };
    let g = &mut g.child("embedding");
    let rows = g.reshape("tokens", tokens, [batch * length])?;
    let table = stored(g, embedding)?;
    let x = g.gather("rows", table, rows, 0)?;
    in_dtype(g, "rows", x, DType::F32)
}

/// Of `x [B·T, hidden]` the row of each sequence's last token in this step,
/// padding apart: `[B, hidden]`. Where there is no token, some row.
fn last_tokens(g: &mut Scope, x: Value, context: &Context) -> Result<Value> {
    match (&context.operators, context.sequence.length.known()) {
        (_, Some(1)) => Ok(x),
        (Operators::Portable(_), _) => context.sequence.last_tokens(g, x),
        (Operators::Ort(packing), _) => packing.last_tokens(g, x, &context.sequence),
    }
}

/// `x [B·T, hidden]` with each token at its own place.
fn in_place(g: &mut Scope, x: Value, context: &Context) -> Result<Value> {
    match (&context.operators, context.sequence.length.known()) {
        (Operators::Portable(_), _) | (_, Some(1)) => Ok(x),
        (Operators::Ort(packing), _) => packing.unpack(g, x, &context.sequence),
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

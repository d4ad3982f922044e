//! The whole model: tokens to logits.
//!
//! `x = embedding[ids]`, then in each layer `x += attention(norm(x))` and
//! `x += experts(norm(x))`, then `logits = norm(x) · lm_headᵀ`. The residual
//! stream is f32 `[B·T, hidden]` throughout.

use super::attention::attention_block;
use super::linear::projection;
use super::moe::mlp_block;
use super::norm::rms_norm;
use super::ort::{self, Lengths};
use super::portable::Mask;
use super::rope::Rotation;
use super::sequence::Sequence;
use super::{Error, Options, Target, in_f32, stored};
use crate::checkpoint::{Config, LayerWeights, ModelWeights};
use crate::graph::{Builder, Bundle, Model, Result, Scope, Style, Value};
use crate::weights::Weight;

/// What every layer reads and none owns.
pub struct Context<'m> {
    pub config: &'m Config,
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
    Ort(Lengths),
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

/// The graph of a model: `input_ids` i64 `[B, T]` to `logits` f32 `[B, T, vocab]`,
/// or `[B, 1, vocab]`; with a cache also [`Sequence::past`] to `present.N.key|value`.
pub fn decoder(
    config: &Config,
    weights: &ModelWeights,
    options: Options,
) -> std::result::Result<Model, Error> {
    if options.target == Target::Ort {
        ort::check(config)?;
        if options.style == Style::Functions {
            return Err(Error::FunctionsForOrt);
        }
    }
    let mut builder = Builder::new(options.style);
    let g = &mut builder.scope();
    let sequence = Sequence::new(g, config, &options)?;
    let rotation = Rotation::new(g, sequence.positions, &config.rope, config.head_dim)?;
    let operators = match options.target {
        Target::Onnx => Operators::Portable(Mask::new(g, &sequence)?),
        Target::Ort => Operators::Ort(Lengths::new(g, &sequence)?),
    };
    let context = Context { config, sequence, rotation, operators };

    let mut x = embed(g, &weights.embedding, &context)?;
    let mut present = Vec::new();
    for (n, layer) in weights.layers.iter().enumerate() {
        let cache = context.sequence.past.get(n).copied();
        let stream = transformer_block(g, n, Stream { x, cache }, layer, &context)?;
        x = stream.x;
        present.extend(stream.cache);
    }
    let Sequence { batch, length, .. } = &context.sequence;
    let mut shape = [batch.clone(), length.clone(), config.vocab_size.into()];
    if options.last_logits {
        x = context.sequence.last_tokens(g, x)?;
        shape[1] = 1.into();
    }
    let normed = rms_norm(g, "norm", x, &weights.norm, config)?;
    let logits = projection(g, "lm_head", normed, &weights.lm_head)?;
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
    let g = &mut g.child("embedding");
    let rows = g.reshape("tokens", *tokens, [batch * length])?;
    let table = stored(g, embedding)?;
    let x = g.gather("rows", table, rows, 0)?;
    in_f32(g, "rows.f32", x)
}

/// Layer `n`: attention, then experts.
fn transformer_block(
    g: &mut Scope,
    n: usize,
    stream: Stream,
    layer: &LayerWeights,
    context: &Context,
) -> Result<Stream> {
    let name = format!("layers.{n}");
    g.block(&name, "TransformerBlock", &Stream::NAMES, stream, |g, stream| {
        let Stream { x, cache } =
            attention_block(g, stream, &layer.attn, context.config.windows[n], context)?;
        Ok(Stream { x: mlp_block(g, x, &layer.mlp, context)?, cache })
    })
}

//! The whole model: tokens to logits.
//!
//! `x = embedding[ids]`, then in each layer `x += attention(norm(x))` and
//! `x += experts(norm(x))`, then `logits = norm(x) · lm_headᵀ`. The residual
//! stream is f32 `[B·T, hidden]` throughout.

use super::attention::attention_block;
use super::linear::projection;
use super::mask::Mask;
use super::moe::mlp_block;
use super::norm::rms_norm;
use super::rope::Rotation;
use super::{in_f32, stored};
use crate::checkpoint::{Config, LayerWeights, ModelWeights};
use crate::graph::{Builder, Dim, Fact, Model, Result, Scope, Style, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// What the caller decides about the graph.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Flat, or with a function for each block.
    pub style: Style,
    /// `B` when not given.
    pub batch: Option<u64>,
    /// `T` when not given.
    pub length: Option<u64>,
}

/// What every layer reads and none owns.
pub struct Context<'m> {
    pub config: &'m Config,
    pub rotation: Rotation,
    pub mask: Mask,
    batch: Dim,
    length: Dim,
}

impl Context<'_> {
    /// B, the rows of a batch, and T, the tokens of a row.
    pub fn dims(&self) -> [&Dim; 2] {
        [&self.batch, &self.length]
    }
}

/// The graph of a model: `input_ids` i64 `[B, T]` to `logits` f32 `[B, T, vocab]`.
pub fn decoder(config: &Config, weights: &ModelWeights, options: Options) -> Result<Model> {
    let mut builder = Builder::new(options.style);
    let g = &mut builder.scope();
    let dim =
        |fixed: Option<u64>, symbol: &str| fixed.map_or_else(|| Dim::symbol(symbol), Dim::from);
    let (batch, length) = (dim(options.batch, "B"), dim(options.length, "T"));
    let tokens = g.input("input_ids", Fact::new(DType::I64, [&batch, &length]))?;

    let positions = g.range("positions", &length)?;
    let mask = Mask::new(g, positions, positions)?;
    let rotation = Rotation::new(g, positions, &config.rope, config.head_dim, [&batch, &length])?;
    let context = Context { config, rotation, mask, batch, length };

    let mut x = embed(g, tokens, &weights.embedding, &context)?;
    for (n, layer) in weights.layers.iter().enumerate() {
        x = transformer_block(g, n, x, layer, &context)?;
    }
    let normed = rms_norm(g, "norm", x, &weights.norm, config)?;
    let logits = projection(g, "lm_head", normed, &weights.lm_head)?;
    let shape = [context.batch.clone(), context.length.clone(), config.vocab_size.into()];
    let logits = g.reshape("logits", logits, shape)?;
    g.output("logits", logits)?;
    Ok(builder.finish())
}

/// `embedding[ids]` as rows of f32: gathered as stored, then cast.
fn embed(g: &mut Scope, tokens: Value, embedding: &Weight, context: &Context) -> Result<Value> {
    let [batch, length] = context.dims();
    let g = &mut g.child("embedding");
    let rows = g.reshape("tokens", tokens, [batch * length])?;
    let table = stored(g, embedding)?;
    let x = g.gather("rows", table, rows, 0)?;
    in_f32(g, "rows.f32", x)
}

/// Layer `n`: attention, then experts.
fn transformer_block(
    g: &mut Scope,
    n: usize,
    x: Value,
    layer: &LayerWeights,
    context: &Context,
) -> Result<Value> {
    let [x] = g.block(&format!("layers.{n}"), "TransformerBlock", [("x", x)], |g, [x]| {
        let x = attention_block(g, x, &layer.attn, context.config.windows[n], context)?;
        Ok([mlp_block(g, x, &layer.mlp, context)?])
    })?;
    Ok(x)
}

impl std::fmt::Display for Options {
    /// As it is written into the model's metadata.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = |fixed: Option<u64>, symbol: &str| {
            fixed.map_or(symbol.to_owned(), |size| size.to_string())
        };
        let style = if self.style == Style::Flat { "flat" } else { "functions" };
        write!(
            f,
            "target=onnx style={style} batch={} sequence={}",
            size(self.batch, "B"),
            size(self.length, "T")
        )
    }
}

//! The inputs of a step: token ids, and with a cache the mask, keys and values.
//!
//! A row has `S = P + T` places: `P` of earlier steps, whose keys and values are in the
//! cache, and `T` of this step. The attention mask tells tokens from padding; without a mask
//! all places are tokens, and `P` is 0.

use super::options::GraphOptions;
use crate::checkpoint::Config;
use crate::error::Result;
use crate::graph::{Dim, Fact, Scope, Value};
use crate::tensor::DType;

/// A layer's keys and values, `[B, kv, S, D]` each.
pub type KeyValue = [Value; 2];

/// The inputs of the graph.
pub struct Sequence {
    /// `input_ids`, i64 `[B, T]`
    pub tokens: Value,
    /// `attention_mask`, i64 `[B, S]`: 1 for a token, 0 for padding.
    pub mask: Option<Value>,
    /// `past_key_values.N.key|value` `[B, kv, P, D]`: one entry for each layer, or none.
    pub past: Vec<KeyValue>,
    /// B, the rows of a batch.
    pub batch: Dim,
    /// T, the tokens of a row in this step.
    pub length: Dim,
    /// S, the places of a row.
    pub places: Dim,
}

impl Sequence {
    /// Declares the inputs in the usual order.
    pub fn new(g: &mut Scope, config: &Config, options: &GraphOptions) -> Result<Self> {
        let dim =
            |fixed: Option<u64>, symbol: &str| fixed.map_or_else(|| Dim::symbol(symbol), Dim::from);
        let batch = dim(options.batch, &options.batch_symbol.to_string());
        let length = dim(options.length, "T");
        let earlier = if options.has_cache() { Dim::symbol("P") } else { Dim::from(0) };
        let places = earlier.plus(&length);

        let tokens = g.input("input_ids", Fact::new(DType::I64, [&batch, &length]))?;
        let mask = Fact::new(DType::I64, [&batch, &places]);
        let mask = options.has_mask().then(|| g.input("attention_mask", mask)).transpose()?;
        let layers = if options.has_cache() { config.num_layers() } else { 0 };
        let past = past(g, config, layers, [&batch, &earlier], options.compute)?;
        Ok(Self { tokens, mask, past, batch, length, places })
    }

    /// This step's part `[B, T]` of a value `[B, S]`.
    pub fn this_step(&self, g: &mut Scope, name: &str, x: Value) -> Result<Value> {
        if self.length == self.places { Ok(x) } else { g.slice_last(name, x, 1, &self.length) }
    }

    /// `x [B·T, hidden]` as `[B, T, hidden]`.
    pub fn rows(&self, g: &mut Scope, name: &str, x: Value) -> Result<Value> {
        let hidden = g.fact(x)?.shape[1].clone();
        g.reshape(name, x, [&self.batch, &self.length, &hidden])
    }

    /// The row of `x [B·T, hidden]` at the last 1 of each row's mask: `[B, hidden]`.
    pub fn last_tokens(&self, g: &mut Scope, x: Value) -> Result<Value> {
        let mask = self.mask.expect("the last token is asked for, and so there is a mask");
        let g = &mut g.child("last");
        let here = self.this_step(g, "mask", mask)?;
        let index = g.argmax_last("token", here, 1)?;
        let rows = self.rows(g, "rows", x)?;
        g.batch_gather("", rows, index)
    }
}

/// The cache inputs of so many layers.
fn past(
    g: &mut Scope,
    config: &Config,
    layers: usize,
    [batch, earlier]: [&Dim; 2],
    dtype: DType,
) -> Result<Vec<KeyValue>> {
    let shape =
        [batch.clone(), config.num_kv_heads.into(), earlier.clone(), config.head_dim.into()];
    let fact = Fact::new(dtype, shape);
    let mut input = |n, part| g.input(&format!("past_key_values.{n}.{part}"), fact.clone());
    (0..layers).map(|n| Ok([input(n, "key")?, input(n, "value")?])).collect()
}

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

pub struct Sequence {
    /// `input_ids`, i64 `[B, T]`
    pub tokens: Value,
    /// `attention_mask`, i64 `[B, S]`: 1 for a token, 0 for padding.
    pub mask: Option<Value>,
    /// `past_key_values.N.key|value` `[B, kv, P, D]`: keys and values of each layer, or none.
    pub past: Vec<[Value; 2]>,
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
        let shape = [&batch, &config.num_kv_heads.into(), &earlier, &config.head_dim.into()];
        let fact = Fact::new(options.compute, shape);
        let mut input = |n, part| g.input(&format!("past_key_values.{n}.{part}"), fact.clone());
        let past = (0..layers).map(|n| Ok([input(n, "key")?, input(n, "value")?]));
        let past = past.collect::<Result<_>>()?;
        Ok(Self { tokens, mask, past, batch, length, places })
    }

    /// This step's part `[B, T]` of a value `[B, S]`.
    pub fn this_step(&self, g: &mut Scope, name: &str, x: Value) -> Result<Value> {
        if self.length == self.places { Ok(x) } else { g.slice_last(name, x, 1, &self.length) }
    }

    /// The place in this step of the last 1 of each row's mask: i64 `[B, 1]`.
    pub fn last_places(&self, g: &mut Scope) -> Result<Value> {
        let mask = self.mask.expect("the last token is asked for, and so there is a mask");
        let here = self.this_step(g, "mask", mask)?;
        g.argmax_last("token", here, 1)
    }
}

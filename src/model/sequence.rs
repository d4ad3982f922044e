//! Where the tokens of a step are in their rows, and what came before them.
//!
//! A row has `S = P + T` places: `P` of earlier steps, whose keys and values
//! the cache holds, and `T` of this one. Without an attention mask all are
//! tokens, and `P` is 0. With one, a token's position is the number of tokens
//! before it, so padding counts for nothing, on whichever side it is.

use super::Options;
use super::decoder::KeyValue;
use crate::checkpoint::Config;
use crate::graph::{Dim, Fact, Result, Scope, Value};
use crate::tensor::DType;

/// The inputs of the graph, and the positions that follow from them.
pub struct Sequence {
    /// `input_ids`, i64 `[B, T]`
    pub tokens: Value,
    /// `attention_mask`, i64 `[B, S]`: 1 for a token, 0 for padding.
    pub mask: Option<Value>,
    /// Position of each token of this step, i64 `[B, T]`, or `[1, T]` for all rows.
    pub positions: Value,
    /// Position of each place, i64 `[B, S]` or `[1, S]`. That of padding means nothing.
    pub keys: Value,
    /// `past_key_values.N.key|value`, f32 `[B, kv, P, D]`: one entry for each layer, or none.
    pub past: Vec<KeyValue>,
    /// B, the rows of a batch.
    pub batch: Dim,
    /// T, the tokens of a row in this step.
    pub length: Dim,
    /// S, the places of a row.
    pub places: Dim,
}

impl Sequence {
    /// Declares the inputs in the order that the ecosystem has them in.
    pub fn new(g: &mut Scope, config: &Config, options: &Options) -> Result<Self> {
        let dim =
            |fixed: Option<u64>, symbol: &str| fixed.map_or_else(|| Dim::symbol(symbol), Dim::from);
        let (batch, length) = (dim(options.batch, "B"), dim(options.length, "T"));
        let earlier = if options.has_cache() { Dim::symbol("P") } else { Dim::from(0) };
        let places = earlier.plus(&length);

        let tokens = g.input("input_ids", Fact::new(DType::I64, [&batch, &length]))?;
        if !options.has_mask() {
            let positions = g.range("positions.row", &length)?;
            let positions = g.unsqueeze("positions", positions, 0)?;
            let (mask, keys, past) = (None, positions, Vec::new());
            return Ok(Self { tokens, mask, positions, keys, past, batch, length, places });
        }
        let mask = g.input("attention_mask", Fact::new(DType::I64, [&batch, &places]))?;
        let past = match options.has_cache() {
            true => past(g, config, [&batch, &earlier])?,
            false => Vec::new(),
        };
        let (counted, one) = (g.running_sum("positions.counted", mask, 1)?, g.constant(1i64)?);
        let keys = g.sub("positions.keys", counted, one)?;
        let mut sequence =
            Self { tokens, mask: Some(mask), positions: keys, keys, past, batch, length, places };
        sequence.positions = sequence.this_step(g, "positions", keys)?;
        Ok(sequence)
    }

    /// Of `x [B·T, hidden]` the row of each sequence's last token in this step,
    /// padding apart: `[B, hidden]`. Where there is no token, the last row.
    pub fn last_tokens(&self, g: &mut Scope, x: Value) -> Result<Value> {
        let mask = match self.mask {
            Some(mask) if self.length.known() != Some(1) => mask,
            _ => return Ok(x),
        };
        let g = &mut g.child("last");
        let here = self.this_step(g, "mask", mask)?;
        let index = g.last_largest("token", here, 1)?;
        let hidden = g.fact(x)?.shape[1].clone();
        let rows = g.reshape("rows", x, [&self.batch, &self.length, &hidden])?;
        g.gather_each("", rows, index)
    }

    /// Of a value for every place `[B, S]` the part for this step's tokens, `[B, T]`.
    pub fn this_step(&self, g: &mut Scope, name: &str, x: Value) -> Result<Value> {
        if self.length == self.places { Ok(x) } else { g.tail(name, x, 1, &self.length) }
    }
}

/// The cache of every layer.
fn past(g: &mut Scope, config: &Config, [batch, earlier]: [&Dim; 2]) -> Result<Vec<KeyValue>> {
    let shape =
        [batch.clone(), config.num_kv_heads.into(), earlier.clone(), config.head_dim.into()];
    let fact = Fact::new(DType::F32, shape);
    let mut input = |n, part| g.input(&format!("past_key_values.{n}.{part}"), fact.clone());
    (0..config.num_layers()).map(|n| Ok([input(n, "key")?, input(n, "value")?])).collect()
}

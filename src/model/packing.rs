//! Rows without gaps, as GroupQueryAttention needs them.
//!
//! The operator stores the keys and values of a row without gaps, and expects a step's tokens
//! at the beginning of the row. So tokens are moved there, in order, and padding behind them.
//! Only attention mixes places, so all layers work on packed rows.

use crate::error::Result;
use crate::graph::{Dim, Scope, Value};
use crate::model::Provider;
use crate::model::sequence::Sequence;
use crate::tensor::DType;

/// Made once for all layers.
pub struct Packing {
    /// Token ids, packed: i64 `[B, T]`.
    pub tokens: Value,
    /// Position of each token, i64 `[B, T]`; of padding it has no meaning.
    pub positions: Value,
    /// The last place that a row fills after this step, i32 `[B]`: `seqlens_k`.
    pub last: Value,
    /// Number of this step's tokens in each row, i32 `[B]`: `query_seqlens`, which the CPU
    /// operator alone has. With a past, other providers need equally many tokens in all rows.
    pub queries: Option<Value>,
    /// Largest number of places of a row, i32: `total_sequence_length`.
    pub places: Value,
    /// This step's part of the mask, i64 `[B, T]`.
    mask: Value,
    /// Number of tokens in this step's part of each row, i64 `[B, 1]`.
    count: Value,
}

impl Packing {
    /// From the attention mask, which every graph for ONNX Runtime has.
    pub fn new(g: &mut Scope, sequence: &Sequence, provider: Provider) -> Result<Self> {
        let Sequence { length, places, .. } = sequence;
        let whole = sequence.mask.expect("there is a cache, and so a mask");
        let g = &mut g.child("packing");
        let (zero, one) = (g.constant(0i64)?, g.constant(1i64)?);
        let mask = sequence.this_step(g, "mask", whole)?;
        let count = g.reduce_sum("count", mask, 1, true)?;
        let total = g.reduce_sum("total", whole, 1, true)?;
        let steps = g.range("steps", length)?;
        let mut tokens = sequence.tokens;
        if length.known() != Some(1) {
            // Tokens come first, in order: they are sorted by `T − t`, and padding by `−t`.
            let length = g.shape_tensor([length])?;
            let rank = g.mul("rank.token", mask, length)?;
            let rank = g.sub("rank", rank, steps)?;
            let order = g.argsort_desc("order", rank)?;
            tokens = g.gather_elements("tokens", tokens, order, 1)?;
        }
        let earlier = g.sub("earlier", total, count)?;
        let positions = g.add("positions", earlier, steps)?;

        // A row of padding alone must still fill a place; its result is not used.
        let filled = g.sub("last.i64", total, one)?;
        let filled = g.max("last.from_0", filled, zero)?;
        let last = per_row(g, "last", filled, &sequence.batch)?;
        let queries = match provider {
            Provider::Cpu => {
                let is_empty = g.equal("is_empty", total, zero)?;
                let queries = g.select("queries.i64", is_empty, one, count)?;
                Some(per_row(g, "queries", queries, &sequence.batch)?)
            }
            Provider::Cuda | Provider::WebGpu => None,
        };
        let places = g.shape_tensor([places])?;
        let places = g.reshape("places.i64", places, [] as [Dim; 0])?;
        let places = g.cast("places", places, DType::I32)?;
        Ok(Self { tokens, positions, last, queries, places, mask, count })
    }

    /// The packed place of each token, i64 `[B, T, 1]`, or of each row's last one, `[B, 1]`.
    pub fn places_of_tokens(&self, g: &mut Scope, last: bool) -> Result<Value> {
        let (zero, one) = (g.constant(0i64)?, g.constant(1i64)?);
        let (name, counted) = if last {
            ("token", self.count)
        } else {
            ("place", g.cumsum("counted", self.mask, 1)?)
        };
        let place = g.sub(name, counted, one)?;
        let place = g.max(&format!("{name}.from_0"), place, zero)?;
        if last { Ok(place) } else { g.unsqueeze("place.column", place, 2) }
    }
}

/// `[B, 1]` as the operator takes it, i32 `[B]`.
fn per_row(g: &mut Scope, name: &str, x: Value, batch: &Dim) -> Result<Value> {
    let rows = g.reshape(&format!("{name}.rows"), x, [batch])?;
    g.cast(name, rows, DType::I32)
}

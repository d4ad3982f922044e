//! How far the rows of a batch reach, as GroupQueryAttention wants to be told.
//!
//! It stores the keys and values of a row one after the other, so that padding
//! on the right is overwritten by the next step, and attends to the first
//! `last + 1` of them. A row that begins with a token can thus be padded on the
//! right only, and is told by the number of its tokens. In a row that begins
//! with padding all places count, and a bias hides those that are padding.

use crate::graph::{Dim, Result, Scope, Value};
use crate::model::sequence::Sequence;
use crate::tensor::DType;

/// Made once for all layers.
#[derive(Clone, Copy)]
pub struct Lengths {
    /// Each row's last place that counts, i32 `[B]`: the operator's `seqlens_k`.
    pub last: Value,
    /// How many of this step's tokens count in each row, i32 `[B]`: the
    /// operator's `query_seqlens`. It then takes several tokens after a past
    /// in several rows.
    pub queries: Value,
    /// Places of a row, i32: its `total_sequence_length`.
    pub places: Value,
    /// Added to scores, f32 `[B, 1, T, S]`: 0, or the least finite number.
    pub bias: Value,
}

impl Lengths {
    /// From the attention mask, which a graph for ONNX Runtime always has.
    pub fn new(g: &mut Scope, sequence: &Sequence) -> Result<Self> {
        let Sequence { batch, length, places, .. } = sequence;
        let mask = sequence.mask.expect("there is a cache, and so a mask");
        let g = &mut g.child("lengths");
        let one = g.constant(1i64)?;
        let first = g.pick("first", mask, 0, 1)?;
        let begins = g.cast("begins_with_token", first, DType::Bool)?;

        let [all, step] = [places, length].map(|size| g.sizes(std::slice::from_ref(size)));
        let (all, step) = (all?, step?);
        let tokens = g.sum_away("tokens", mask, 1)?;
        let count = g.select("count", begins, tokens, all)?;
        let last = g.sub("last.i64", count, one)?;
        let last = g.cast("last", last, DType::I32)?;
        let here = sequence.this_step(g, "mask", mask)?;
        let tokens = g.sum_away("queries.tokens", here, 1)?;
        let queries = g.select("queries.i64", begins, tokens, step)?;
        let queries = g.cast("queries", queries, DType::I32)?;
        let total = g.reshape("places.i64", all, [] as [Dim; 0])?;
        let total = g.cast("places", total, DType::I32)?;

        let begins = g.unsqueeze("begins.column", begins, 1)?;
        let token = g.cast("is_token", mask, DType::Bool)?;
        let seen = g.or("seen", token, begins)?;
        let (shown, hidden) = (g.constant(0f32)?, g.constant(f32::MIN)?);
        let bias = g.select("bias.row", seen, shown, hidden)?;
        let bias =
            g.reshape("bias.rows", bias, [batch.clone(), 1.into(), 1.into(), places.clone()])?;
        let shape = [batch.clone(), 1.into(), length.clone(), places.clone()];
        let bias = g.expand("bias", bias, &shape)?;
        Ok(Self { last, queries, places: total, bias })
    }
}

//! Rows without gaps, as GroupQueryAttention needs them.
//!
//! The operator stores the keys and values of a row without gaps, and expects a step's tokens
//! at the beginning of the row. So tokens are moved there, in order, and padding behind them.
//! Only attention mixes places, so all layers work on packed rows.

use std::collections::BTreeMap;

use super::options::Provider;
use super::sequence::{Counts, Sequence};
use super::window::Window;
use crate::error::Result;
use crate::graph::{Dim, Scope, Value};
use crate::tensor::DType;

/// Made once for all layers.
pub struct Packing {
    /// The input of this step, packed: i64 `[B, T]` or f32 `[B, T, hidden]`.
    pub input: Value,
    /// Position of each token, i64 `[B, T]`; of padding it has no meaning.
    pub positions: Value,
    /// Number of this step's tokens in each row, i32 `[B]`: `query_seqlens`, which the CPU
    /// operator alone has. With a past, other providers need equally many tokens in all rows.
    pub queries: Option<Value>,
    /// By the window to which they are limited.
    pub caches: BTreeMap<Option<u64>, PackedCache>,
    /// This step's part of the mask, i64 `[B, T]`.
    mask: Value,
    /// Number of tokens in this step's part of each row, i64 `[B, 1]`.
    count: Value,
    /// 0 to T − 1, i64 `[T]`.
    steps: Value,
}

/// What the operator is told of a cache.
pub struct PackedCache {
    /// The last place that a row fills after this step, i32 `[B]`: `seqlens_k`.
    pub last: Value,
    /// Largest number of places of a row, i32: `total_sequence_length`.
    pub filled: Value,
    /// The places of the cache with this step's keys and values.
    pub places: Dim,
    /// Those of them that stay, i64 `[B, kv, L, 1]`; `None` if all do.
    pub kept: Option<Value>,
}

impl Packing {
    /// From the attention mask, which every graph for ONNX Runtime has.
    pub fn new(g: &mut Scope, sequence: &Sequence, provider: Provider) -> Result<Self> {
        let length = &sequence.length;
        let (mask, counts) = (sequence.mask_of_step(g)?, sequence.counts(g)?);
        let limits = sequence.limits().into_iter();
        let caches = limits.map(|limit| {
            let cache = match limit {
                None => PackedCache::full(g, sequence),
                Some(window) => PackedCache::limited(g, window, sequence),
            };
            Ok((limit, cache?))
        });
        let caches = caches.collect::<Result<_>>()?;
        let g = &mut g.child("packing");
        let (zero, one) = (g.constant(0i64)?, g.constant(1i64)?);
        let steps = g.range("steps", length)?;
        let mut input = sequence.input;
        if length.known() != Some(1) {
            // Tokens come first, in order: they are sorted by `T − t`, and padding by `−t`.
            let size = g.shape_tensor([length])?;
            let rank = g.mul("rank.token", mask, size)?;
            let rank = g.sub("rank", rank, steps)?;
            let order = g.top_k("order", rank, length)?[1];
            input = if g.fact(input)?.rank() == 2 {
                g.gather_elements("tokens", input, order, 1)?
            } else {
                let places = g.unsqueeze("order.column", order, 2)?;
                g.gather_nd("hidden_states", input, places, 1)?
            };
        }
        let positions = g.add("positions", counts.earlier, steps)?;
        let queries = match provider {
            Provider::Cpu => {
                let is_empty = g.equal("is_empty", counts.all, zero)?;
                let queries = g.select("queries.i64", is_empty, one, counts.now)?;
                Some(per_row(g, "queries", queries, &sequence.batch)?)
            }
            Provider::Cuda | Provider::WebGpu => None,
        };
        Ok(Self { input, positions, queries, caches, mask, count: counts.now, steps })
    }

    /// The packed place of each token and of padding, i64 `[B, T, 1]`. What is packed again then has
    /// the same rows, those of padding too: operators choose kernels by the number of an expert's
    /// rows, so that padding takes part in the noise of tokens.
    pub fn original_places(&self, g: &mut Scope) -> Result<Value> {
        let one = g.constant(1i64)?;
        let counted = g.cumsum("counted", self.mask, 1)?;
        let token = g.sub("place.token", counted, one)?;
        let behind = g.add("place.behind", self.count, self.steps)?;
        let padding = g.sub("place.padding", behind, counted)?;
        let is_token = g.cast("is_token", self.mask, DType::Bool)?;
        let place = g.select("place", is_token, token, padding)?;
        g.unsqueeze("place.column", place, 2)
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

impl PackedCache {
    /// Keeps all tokens.
    fn full(g: &mut Scope, sequence: &Sequence) -> Result<Self> {
        let Counts { all, .. } = sequence.counts(g)?;
        let filled = g.shape_tensor([&sequence.places])?;
        Self::new(&mut g.child("packing"), sequence, all, filled, &sequence.places)
    }

    /// Keeps the last tokens of each row.
    fn limited(g: &mut Scope, window: u64, sequence: &Sequence) -> Result<Self> {
        let it = Window::new(g, window, sequence)?;
        let g = &mut g.child(&format!("window_{window}"));
        let total = g.add("total", it.resident, it.counts.now)?;
        let zero = g.constant(0i64)?;
        let begin = g.sub("begin", total, it.held)?;
        let begin = g.max("begin.from_0", begin, zero)?;
        let order = g.range("order", &it.kept)?;
        let kept = g.add("kept.order", begin, order)?;
        let kept = Some(it.for_heads(g, kept, sequence)?);
        Ok(Self { kept, ..Self::new(g, sequence, total, it.filled, &it.places)? })
    }

    /// Rows have `total` tokens, i64 `[B, 1]`, in places of which `filled`, i64 `[1]`, may be filled.
    fn new(
        g: &mut Scope,
        sequence: &Sequence,
        total: Value,
        filled: Value,
        places: &Dim,
    ) -> Result<Self> {
        let (zero, one) = (g.constant(0i64)?, g.constant(1i64)?);
        // A row of padding alone must still fill a place; its result is not used.
        let last = g.sub("last.i64", total, one)?;
        let last = g.max("last.from_0", last, zero)?;
        let last = per_row(g, "last", last, &sequence.batch)?;
        let filled = g.reshape("filled.scalar", filled, [] as [Dim; 0])?;
        let filled = g.cast("filled.i32", filled, DType::I32)?;
        Ok(Self { last, filled, places: places.clone(), kept: None })
    }
}

/// `[B, 1]` as the operator takes it, i32 `[B]`.
fn per_row(g: &mut Scope, name: &str, x: Value, batch: &Dim) -> Result<Value> {
    let rows = g.reshape(&format!("{name}.rows"), x, [batch])?;
    g.cast(name, rows, DType::I32)
}

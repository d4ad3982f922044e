//! The attention mask: a query sees the keys with `0 ≤ query − key < window`, itself included.
//! A layer without a window has an endless one. Padding is never seen.

use std::collections::BTreeMap;

use super::in_dtype;
use super::sequence::Sequence;
use super::window::Window;
use crate::error::Result;
use crate::graph::{Attribute, Fact, Scope, Value};
use crate::tensor::DType;

/// Longer than any sequence, within the 32 bits of some runtimes.
const ENDLESS: i64 = i32::MAX as i64;

/// Positions, and what queries see of the keys in caches.
pub struct Mask {
    /// Position of each token of this step, i64 `[B, T]`, or `[1, T]` for all rows.
    pub positions: Value,
    /// By the window to which their cache is limited.
    keys: BTreeMap<Option<u64>, CachedKeys>,
    /// Dtype of scores.
    dtype: DType,
}

/// The keys of a cache and this step, `S` in number.
struct CachedKeys {
    /// From each key to each query, i64 `[B or 1, T, S]`
    distance: Value,
    /// Which keys are tokens, bool `[B, 1, S]`; `None` if all are.
    is_token: Option<Value>,
    /// The places of the keys that stay in the cache, i64 `[B, kv, L, 1]`; `None` if all do.
    kept: Option<Value>,
}

impl Mask {
    /// Computed once for all layers. A token's position is the number of tokens before it in
    /// its row; the position of padding has no meaning.
    pub fn new(g: &mut Scope, sequence: &Sequence, dtype: DType) -> Result<Self> {
        let (positions, all) = match sequence.mask {
            None => {
                let row = g.range("positions.row", &sequence.length)?;
                let positions = g.unsqueeze("positions", row, 0)?;
                (positions, positions)
            }
            Some(mask) => {
                let counted = g.cumsum("positions.counted", mask, 1)?;
                let one = g.constant(1i64)?;
                let keys = g.sub("positions.keys", counted, one)?;
                (sequence.this_step(g, "positions", keys)?, keys)
            }
        };
        let queries = g.unsqueeze("mask.queries", positions, 2)?;
        let limits = sequence.limits().into_iter();
        let keys = limits.map(|limit| {
            let keys = match limit {
                None => {
                    let g = &mut g.child("mask");
                    let is_token = sequence.mask.map(|mask| g.cast("is_token", mask, DType::Bool));
                    CachedKeys::new(g, queries, all, is_token.transpose()?)
                }
                Some(window) => CachedKeys::limited(g, window, sequence, [queries, positions]),
            };
            Ok((limit, keys?))
        });
        Ok(Self { positions, keys: keys.collect::<Result<_>>()?, dtype })
    }

    /// The places of the keys and values that stay in a cache, i64 `[B, kv, L, 1]`; `None` if all
    /// do.
    pub fn kept(&self, limit: Option<u64>) -> Option<Value> {
        self.keys[&limit].kept
    }

    /// The bias of scores, `[B or 1, 1, T, S + 1]`: 0 where the query sees the key, else the
    /// lowest finite value (−∞ would give NaN in rows that see nothing). The last key is the
    /// sink, which all queries see. Wired once for each window, in the graph or in each
    /// function. `limit` is the window to which the cache is limited.
    pub fn bias(&self, g: &mut Scope, window: Option<u64>, limit: Option<u64>) -> Result<Value> {
        let keys = &self.keys[&limit];
        let window = window.map_or(ENDLESS, |window| (window as i64).min(ENDLESS));
        let (name, window) = match g.parameter("window", window) {
            Attribute::Int(ENDLESS) => ("mask.endless".to_owned(), g.constant(ENDLESS)?),
            Attribute::Int(window) => (format!("mask.window_{window}"), g.constant(window)?),
            reference => {
                let constant = |g: &mut Scope| {
                    let node = g.node("window", "Constant").attr("value_int", reference);
                    node.output(Fact::scalar(DType::I64))
                };
                ("mask".to_owned(), g.shared("window", constant)?)
            }
        };
        g.shared(&format!("{name}.bias"), |g| {
            let g = &mut g.child(&name);
            let (zero, shown) = (g.constant(0i64)?, g.constant(0f32)?);
            let hidden = g.constant(-self.dtype.largest())?;
            let not_later = g.greater_or_equal("not_later", keys.distance, zero)?;
            let in_window = g.less("in_window", keys.distance, window)?;
            let mut seen = g.and("in_reach", not_later, in_window)?;
            if let Some(is_token) = keys.is_token {
                seen = g.and("seen", seen, is_token)?;
            }
            let bias = g.select("bias.keys", seen, shown, hidden)?;
            let bias = in_dtype(g, "bias.keys", bias, self.dtype)?;
            let bias = g.pad("bias.with_sink", bias, 2, [0, 1])?;
            g.unsqueeze("bias", bias, 1)
        })
    }
}

impl CachedKeys {
    /// Keys at these positions, i64 `[B or 1, S]`.
    fn new(
        g: &mut Scope,
        queries: Value,
        positions: Value,
        is_token: Option<Value>,
    ) -> Result<Self> {
        let keys = g.unsqueeze("keys", positions, 1)?;
        let distance = g.sub("distance", queries, keys)?;
        let is_token = is_token.map(|it| g.unsqueeze("is_token.keys", it, 1)).transpose()?;
        Ok(Self { distance, is_token, kept: None })
    }

    /// The keys of a cache that is limited to a window: the row's last tokens from the first place
    /// on, then this step's, as they are.
    fn limited(
        g: &mut Scope,
        window: u64,
        sequence: &Sequence,
        [queries, positions]: [Value; 2],
    ) -> Result<Self> {
        let it = Window::new(g, window, sequence)?;
        let step = sequence.mask_of_step(g)?;
        let g = &mut g.child(&format!("window_{window}"));
        let places = g.range("past", &it.past)?;
        let first = g.sub("first", it.counts.earlier, it.resident)?;
        let past = g.add("past.positions", places, first)?;
        let positions = g.concat("positions", &[past, positions], 1)?;
        let is_past = g.less("past.is_token", places, it.resident)?;
        let step = g.cast("step.is_token", step, DType::Bool)?;
        let is_token = g.concat("is_token", &[is_past, step], 1)?;

        // Those that stay come first, in order: they are sorted by `S − place`, others by `−place`.
        let begin = g.sub("begin", it.counts.all, it.held)?;
        let is_late = g.greater_or_equal("is_late", positions, begin)?;
        let stays = g.and("stays", is_token, is_late)?;
        let (size, zero) = (g.shape_tensor([&it.places])?, g.constant(0i64)?);
        let rank = g.select("rank.kept", stays, size, zero)?;
        let places = g.range("places.all", &it.places)?;
        let rank = g.sub("rank", rank, places)?;
        let kept = g.top_k("kept.order", rank, &it.kept)?[1];
        let kept = Some(it.for_heads(g, kept, sequence)?);
        Ok(Self { kept, ..Self::new(g, queries, positions, Some(is_token))? })
    }
}

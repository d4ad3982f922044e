//! The attention mask: a query sees the keys with `0 ≤ query − key < window`, itself included.
//! A layer without a window has an endless one. Padding is never seen.

use crate::error::Result;
use crate::graph::{Attribute, Fact, Scope, Value};
use crate::model::in_dtype;
use crate::model::sequence::Sequence;
use crate::tensor::DType;

/// Longer than any sequence, within the 32 bits of some runtimes.
const ENDLESS: i64 = i32::MAX as i64;

/// Positions, distances from keys to queries, and which keys are tokens.
pub struct Mask {
    /// Position of each token of this step, i64 `[B, T]`, or `[1, T]` for all rows.
    pub positions: Value,
    /// i64 `[B or 1, T, S]`
    distance: Value,
    /// bool `[B, 1, S]`; `None` if all are.
    is_token: Option<Value>,
    /// Dtype of scores.
    dtype: DType,
}

impl Mask {
    /// Computed once for all layers. A token's position is the number of tokens before it in
    /// its row; the position of padding has no meaning.
    pub fn new(g: &mut Scope, sequence: &Sequence, dtype: DType) -> Result<Self> {
        let (positions, keys) = match sequence.mask {
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
        let g = &mut g.child("mask");
        let queries = g.unsqueeze("queries", positions, 2)?;
        let keys = g.unsqueeze("keys", keys, 1)?;
        let distance = g.sub("distance", queries, keys)?;
        let is_token = sequence.mask.map(|mask| {
            let is_token = g.cast("is_token", mask, DType::Bool)?;
            g.unsqueeze("is_token.keys", is_token, 1)
        });
        Ok(Self { positions, distance, is_token: is_token.transpose()?, dtype })
    }

    /// The bias of scores, `[B or 1, 1, T, S + 1]`: 0 where the query sees the key, else the
    /// lowest finite value (−∞ would give NaN in rows that see nothing). The last key is the
    /// sink, which all queries see. Wired once for each window, in the graph or in each
    /// function.
    pub fn bias(&self, g: &mut Scope, window: Option<u64>) -> Result<Value> {
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
            let not_later = g.greater_or_equal("not_later", self.distance, zero)?;
            let in_window = g.less("in_window", self.distance, window)?;
            let mut seen = g.and("in_reach", not_later, in_window)?;
            if let Some(is_token) = self.is_token {
                seen = g.and("seen", seen, is_token)?;
            }
            let bias = g.select("bias.keys", seen, shown, hidden)?;
            let bias = in_dtype(g, "bias.keys", bias, self.dtype)?;
            let bias = g.pad("bias.with_sink", bias, 2, [0, 1])?;
            g.unsqueeze("bias", bias, 1)
        })
    }
}

//! Which keys a query sees: `0 ≤ query − key < window`, so `window` of them,
//! itself included, once there are as many. A layer without a window has an
//! endless one; which layers have one is in the config.

use crate::graph::{Attribute, Result, Scope, Value};

/// Beyond every sequence, and within the 32 bits that some runtimes count with.
const ENDLESS: i64 = i32::MAX as i64;

/// How far each query is past each key.
#[derive(Clone, Copy)]
pub struct Mask {
    /// i64 `[T, keys]`
    distance: Value,
}

impl Mask {
    /// Computes the distances once for all layers from the places of queries
    /// `[T]` and keys `[keys]` in the sequence.
    pub fn new(g: &mut Scope, queries: Value, keys: Value) -> Result<Self> {
        let g = &mut g.child("mask");
        let queries = g.unsqueeze("queries", queries, 1)?;
        let keys = g.unsqueeze("keys", keys, 0)?;
        Ok(Self { distance: g.sub("distance", queries, keys)? })
    }

    /// What is added to scores, f32 `[T, keys + 1]`: 0 where the query sees the
    /// key, else the least finite number (infinities would make NaN of rows
    /// that see nothing). The last key is the sink, which all queries see.
    /// Wired once for each window, in the graph or in each function.
    pub fn bias(self, g: &mut Scope, window: Option<u64>) -> Result<Value> {
        let window = window.map_or(ENDLESS, |window| (window as i64).min(ENDLESS));
        let name = match g.parameter("window", window) {
            Attribute::Int(ENDLESS) => "mask.endless".to_owned(),
            Attribute::Int(window) => format!("mask.window_{window}"),
            _ => "mask".to_owned(),
        };
        let window = g.integer("window", window)?;
        g.shared(&format!("{name}.bias"), |g| {
            let g = &mut g.child(&name);
            let (zero, shown, hidden) =
                (g.constant(0i64)?, g.constant(0f32)?, g.constant(f32::MIN)?);
            let not_later = g.greater_or_equal("not_later", self.distance, zero)?;
            let in_window = g.less("in_window", self.distance, window)?;
            let seen = g.and("seen", not_later, in_window)?;
            let bias = g.select("bias.keys", seen, shown, hidden)?;
            g.pad("bias", bias, 1, [0, 1])
        })
    }
}

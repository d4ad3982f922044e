//! Caches of sliding layers, limited to the window.
//!
//! A query sees the last `w` tokens of its row, itself included, so the next step needs `w − 1`
//! earlier ones. The cache keeps the last `C = w − 1 + 16`: a caller may drop up to 16 places at
//! the end of every cache, and continue as if their tokens had never come.
//!
//! A row's tokens are at its first places, in order. Of `E` tokens in earlier steps the past,
//! which has `P_w` places, has the last `R = min(E, P_w)`. With the `N` tokens of this step they are
//! `R + N`, and the last `H = max(C, P_w)` of these stay. The present has
//! `max(P_w, min(C, S, P_w + T))` places, so that a past of constant length, which a runtime may
//! have allocated, keeps its length.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::options::GraphOptions;
use super::part::ModelPart;
use super::sequence::{Counts, Sequence, past_places};
use crate::checkpoint::Config;
use crate::display::plural;
use crate::error::Result;
use crate::graph::{Dim, Scope, Value};

/// The tokens that a cache keeps beyond those that the next token sees.
pub const SLACK: u64 = 16;

/// `C` for a window.
fn capacity(window: u64) -> u64 {
    window - 1 + SLACK
}

/// The layers whose caches are limited to one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitedCaches {
    /// The tokens that a query sees.
    pub window: u64,
    /// The tokens of each row that stay in a cache.
    pub tokens: u64,
    /// The layers.
    pub layers: Vec<usize>,
}

impl fmt::Display for LimitedCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (window, tokens, layers) = (self.window, self.tokens, self.layers.len());
        let keep = if layers == 1 { "keeps" } else { "keep" };
        let layers = plural(layers, "layer");
        write!(f, "{layers} {keep} the last {tokens} tokens of each row (window {window})")
    }
}

/// The layers of a part of a model whose caches are limited, by window.
pub fn limited_caches(
    config: &Config,
    part: &ModelPart,
    options: &GraphOptions,
) -> Vec<LimitedCaches> {
    let window = |n| Some((options.cache_window(config.windows[n])?, n));
    LimitedCaches::by_window(part.layers.clone().filter_map(window))
}

impl LimitedCaches {
    /// Those of several parts of a model.
    pub fn joined<'l>(caches: impl Iterator<Item = &'l Self>) -> Vec<Self> {
        let layers = caches.flat_map(|it| it.layers.iter().map(|n| (it.window, *n)));
        Self::by_window(layers)
    }

    /// Layers with their windows.
    fn by_window(layers: impl Iterator<Item = (u64, usize)>) -> Vec<Self> {
        let mut windows: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        layers.for_each(|(window, n)| windows.entry(window).or_default().push(n));
        let limited = |(window, layers)| Self { window, tokens: capacity(window), layers };
        windows.into_iter().map(limited).collect()
    }
}

/// The caches of all layers with one window, in the graph.
pub struct Window {
    /// `N` and `E` among them.
    pub counts: Counts,
    /// `P_w`, the places of the past.
    pub past: Dim,
    /// `P_w + T`, the places of the past and this step.
    pub places: Dim,
    /// `min(S, P_w + T)`, which bounds a row's tokens among them: i64 `[1]`.
    pub filled: Value,
    /// `R`, i64 `[B, 1]`
    pub resident: Value,
    /// `H`, i64 `[1]`
    pub held: Value,
    /// The places of the present.
    pub kept: Dim,
}

impl Window {
    pub fn new(g: &mut Scope, window: u64, sequence: &Sequence) -> Result<Self> {
        let counts = sequence.counts(g)?;
        let g = &mut g.child(&format!("window_{window}"));
        let past = past_places(Some(window));
        let places = past.plus(&sequence.length);
        let capacity = capacity(window);
        let most = g.constant(&[capacity as i64][..])?;
        let earlier = g.shape_tensor([&past])?;
        let [step, whole] = [&sequence.length, &sequence.places].map(|it| g.shape_tensor([it]));
        let sum = g.add("places", earlier, step?)?;
        g.dimension(&places.to_string(), sum)?;
        let filled = g.min("filled", sum, whole?)?;
        let resident = g.min("resident", counts.earlier, earlier)?;
        let held = g.max("held", earlier, most)?;
        let kept = g.min("kept.needed", filled, most)?;
        let kept = g.max("kept", kept, earlier)?;
        let kept = g.dimension(&format!("min({places},{capacity})"), kept)?;
        Ok(Self { counts, past, places, filled, resident, held, kept })
    }

    /// The places of what stays, i64 `[B, L]`, for each key head: `[B, kv, L, 1]`.
    pub fn for_heads(&self, g: &mut Scope, kept: Value, sequence: &Sequence) -> Result<Value> {
        let kept = g.unsqueeze("kept.heads", kept, 1)?;
        let kept = g.unsqueeze("kept.column", kept, 3)?;
        g.expand("kept.places", kept, [&sequence.batch, &sequence.kv, &self.kept, &1.into()])
    }
}

/// The places `[B, kv, L, 1]` of keys and values `[B, kv, P_w + T, D]` that stay in the cache.
pub fn cut(g: &mut Scope, cache: &[Value], kept: Value) -> Result<Vec<Value>> {
    let named = cache.iter().zip(["key", "value"]);
    named.map(|(all, part)| g.gather_nd(&format!("kept.{part}"), *all, kept, 2)).collect()
}
